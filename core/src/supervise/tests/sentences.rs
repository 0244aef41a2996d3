//! What must hold, one sentence each.

use super::*;

struct Stage {
    supervisor: Supervisor,
    now: Now,
}

impl Stage {
    fn new(children: Vec<Child>) -> Stage {
        let now = start();
        let supervisor = Supervisor::new(children, now).unwrap();
        Stage { supervisor, now }
    }

    fn input(&mut self, input: Input) {
        self.supervisor.handle(self.now, input);
    }

    /// Names that are spawned, and signals by name; other outputs are dropped.
    fn acts(&mut self) -> Vec<String> {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.supervisor.poll_output()).collect();
        let acts = outputs.into_iter().filter_map(|output| match output {
            Output::Spawn { child, .. } => Some(format!("spawn {child}")),
            Output::Signal { run, signal } => Some(format!("signal {} {}", run.0, signal.0)),
            Output::Done => Some("done".into()),
            Output::Refused(error) => Some(format!("refused: {error}")),
            Output::Changed { .. } => None,
        });
        acts.collect()
    }

    fn run(&self, child: &str) -> Run {
        self.supervisor.run_of(&name(child)).expect("it runs")
    }

    fn started(&mut self, child: &str) {
        let run = self.run(child);
        self.input(Input::Started(run));
    }

    fn ended(&mut self, child: &str, code: i32) {
        let (run, how) = (self.run(child), Ended::Code(code));
        self.input(Input::Ended { run, how });
    }

    fn state(&self, child: &str) -> State {
        let views = self.supervisor.views();
        views.iter().find(|view| view.name == child).unwrap().state
    }

    /// To the next deadline: how long that took.
    fn sleep(&mut self) -> Duration {
        let (at, _) = self.supervisor.deadline().expect("it waits for the time");
        let passed = at.saturating_duration_since(self.now.mono);
        self.now = self.now.plus(passed);
        self.supervisor.handle_deadline(self.now);
        passed
    }
}

#[test]
fn children_start_when_those_they_wait_for_are_ready() {
    let mut slow = child("db", &[]);
    slow.ready_at_once = false;
    let mut stage = Stage::new(vec![child("web", &["db", "setup"]), slow, {
        let mut task = child("setup", &[]);
        task.one_shot = true;
        task
    }]);
    assert_eq!(stage.acts(), ["spawn db", "spawn setup"]);
    stage.started("db");
    stage.started("setup");
    assert_eq!(stage.state("db"), State::Starting);
    assert_eq!(
        stage.state("setup"),
        State::Starting,
        "a task is ready when it is done"
    );
    let run = stage.run("db");
    stage.input(Input::Ready(run));
    assert_eq!(stage.acts(), [""; 0]);
    stage.ended("setup", 0);
    assert_eq!(stage.state("setup"), State::Done);
    assert_eq!(stage.acts(), ["spawn web"]);
    stage.started("web");
    assert_eq!(stage.state("web"), State::Ready);
}

#[test]
fn a_child_waits_for_what_is_no_child() {
    let now = start();
    let children = vec![child("app", &["mesh"])];
    let supervisor = Supervisor::with_externals(children, vec![name("mesh")], now).unwrap();
    let mut stage = Stage { supervisor, now };
    assert_eq!(stage.acts(), [""; 0]);
    let ready = |mesh, ready| Input::External {
        name: name(mesh),
        ready,
    };
    stage.input(ready("else", true));
    assert_eq!(stage.acts(), [""; 0]);
    stage.input(ready("mesh", true));
    assert_eq!(stage.acts(), ["spawn app"]);
    stage.started("app");
    stage.input(ready("mesh", false));
    assert_eq!(stage.acts(), [""; 0], "what runs goes on");
    stage.ended("app", 1);
    stage.sleep();
    assert_eq!(stage.state("app"), State::Waiting);
    stage.input(ready("mesh", true));
    assert_eq!(stage.acts(), ["spawn app"]);
}

#[test]
fn a_child_that_ends_is_started_again_ever_later_and_alone() {
    let mut stage = Stage::new(vec![child("a", &[]), child("b", &["a"])]);
    stage.started("a");
    stage.started("b");
    stage.acts();
    for wait_ms in [100, 200, 400, 800, 1600] {
        stage.ended("a", 1);
        assert_eq!(stage.state("a"), State::Backoff);
        assert_eq!(stage.sleep(), MS * wait_ms);
        assert_eq!(stage.acts(), ["spawn a"]);
        stage.started("a");
        assert_eq!(stage.state("b"), State::Ready, "it runs on");
    }
    stage.ended("a", 1);
    assert_eq!(stage.state("a"), State::Failed);
    let view = &stage.supervisor.views()[0];
    assert_eq!(
        (view.restarts, view.last_end.as_deref()),
        (5, Some("exit code 1"))
    );
    assert_eq!(stage.sleep(), S * 60, "it rests");
    assert_eq!(stage.acts(), ["spawn a"]);
    stage.started("a");
    stage.ended("a", 0);
    assert_eq!(stage.sleep(), MS * 100, "and has all its tries again");
}

#[test]
fn a_run_that_was_ready_for_long_begins_with_the_first_wait_again() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    for (ready_for, expected) in [(S, 100), (S, 200), (S * 61, 100), (S, 200)] {
        stage.started("a");
        stage.now = stage.now.plus(ready_for);
        stage.ended("a", 1);
        assert_eq!(stage.sleep(), MS * expected);
    }
}

#[test]
fn a_child_that_cannot_be_started_waits_like_one_that_ends() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    let (run, how) = (stage.run("a"), Ended::NotStarted);
    stage.input(Input::Ended { run, how });
    assert_eq!(stage.state("a"), State::Backoff);
    let view = &stage.supervisor.views()[0];
    assert_eq!(view.last_end.as_deref(), Some("it could not be started"));
}

#[test]
fn news_of_runs_that_are_over_are_ignored() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    stage.started("a");
    let old = stage.run("a");
    stage.ended("a", 1);
    stage.sleep();
    stage.acts();
    let how = Ended::Code(0);
    for input in [
        Input::Started(old),
        Input::Ready(old),
        Input::Unready(old),
        Input::Ended { run: old, how },
        Input::Ready(Run(99)),
    ] {
        stage.input(input);
    }
    assert_eq!(stage.state("a"), State::Starting);
    assert_eq!(stage.acts(), [""; 0]);
}

#[test]
fn shutdown_goes_in_reverse_order_of_readiness_and_kills_who_is_late() {
    let mut last = child("c", &[]);
    last.ready_at_once = false;
    let mut stage = Stage::new(vec![
        child("a", &["b"]),
        child("b", &[]),
        last,
        child("d", &["c"]),
    ]);
    for child in ["c", "b", "a"] {
        stage.started(child);
    }
    stage.acts();
    let run = |stage: &Stage, child: &str| stage.run(child).0;
    let (a, b, c) = (run(&stage, "a"), run(&stage, "b"), run(&stage, "c"));
    stage.input(Input::Shutdown);
    assert_eq!(stage.state("d"), State::Done, "it never ran");
    assert_eq!(
        stage.acts(),
        [format!("signal {c} 15")],
        "it never was ready"
    );
    stage.ended("c", 0);
    assert_eq!(stage.acts(), [format!("signal {a} 15")]);
    assert_eq!(stage.sleep(), S * 10);
    assert_eq!(stage.acts(), [format!("signal {a} 9")]);
    stage.input(Input::Shutdown);
    assert_eq!(stage.acts(), [""; 0]);
    stage.ended("a", 9);
    assert_eq!(stage.acts(), [format!("signal {b} 15")]);
    stage.ended("b", 0);
    assert_eq!(stage.acts(), ["done"]);
    assert_eq!(stage.supervisor.deadline(), None);
    stage.input(Input::Restart(name("a")));
    stage.input(Input::Reload(vec![]));
    assert_eq!(stage.acts(), [""; 0]);
}

#[test]
fn who_is_not_there_yet_is_told_to_end_when_it_is() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    stage.acts();
    stage.input(Input::Shutdown);
    assert_eq!(stage.acts(), [""; 0]);
    stage.started("a");
    assert_eq!(stage.acts(), ["signal 1 15"]);
    stage.ended("a", 0);
    assert_eq!(stage.acts(), ["done"]);
}

#[test]
fn a_reload_touches_exactly_the_children_whose_definition_changed() {
    let children = vec![child("same", &[]), child("other", &[]), child("gone", &[])];
    let mut stage = Stage::new(children.clone());
    for child in ["same", "other", "gone"] {
        stage.started(child);
    }
    stage.acts();
    let (other, gone) = (stage.run("other").0, stage.run("gone").0);
    let mut limits = children[0].clone();
    limits.max_restarts = 1;
    let mut changed = children[1].clone();
    changed.digest = [1; 32];
    changed.stop_signal = Signal(2);
    let reloaded = vec![child("new", &["other"]), changed.clone(), limits];
    stage.input(Input::Reload(reloaded.clone()));
    let expected = [format!("signal {gone} 15"), format!("signal {other} 15")];
    assert_eq!(stage.acts(), expected);
    assert_eq!(stage.state("same"), State::Ready);
    stage.input(Input::Reload(reloaded));
    assert_eq!(stage.acts(), [""; 0], "the same once more changes nothing");
    stage.ended("gone", 0);
    stage.ended("other", 0);
    assert_eq!(stage.acts(), ["spawn other"]);
    stage.started("other");
    assert_eq!(stage.acts(), ["spawn new"]);
    let names: Vec<_> = stage
        .supervisor
        .views()
        .into_iter()
        .map(|v| v.name)
        .collect();
    assert_eq!(names, ["new", "other", "same"]);
    let other = stage.run("other").0;
    stage.input(Input::Restart(name("other")));
    assert_eq!(
        stage.acts(),
        [format!("signal {other} 2")],
        "as it is defined now"
    );
}

#[test]
fn a_removed_child_that_comes_back_meanwhile_runs_once() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    stage.started("a");
    stage.acts();
    stage.input(Input::Reload(vec![]));
    assert_eq!(stage.acts(), ["signal 1 15"]);
    stage.input(Input::Reload(vec![child("a", &[])]));
    assert_eq!(stage.acts(), [""; 0]);
    stage.ended("a", 0);
    assert_eq!(stage.acts(), ["spawn a"]);
}

#[test]
fn a_wrong_reload_changes_nothing() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    stage.started("a");
    stage.acts();
    stage.input(Input::Reload(vec![child("b", &["a"])]));
    assert_eq!(
        stage.acts(),
        ["refused: child b waits for a, and nothing is called that"]
    );
    assert_eq!(stage.state("a"), State::Ready);
}

#[test]
fn a_restart_that_somebody_asked_for_waits_for_nothing_and_counts_for_nothing() {
    let mut stage = Stage::new(vec![child("a", &[])]);
    stage.acts();
    for _ in 0..20 {
        stage.started("a");
        let run = stage.run("a").0;
        stage.input(Input::Restart(name("a")));
        assert_eq!(stage.acts(), [format!("signal {run} 15")]);
        stage.ended("a", 0);
        assert_eq!(stage.acts(), ["spawn a"]);
    }
    stage.ended("a", 1);
    assert_eq!(stage.state("a"), State::Backoff);
    stage.input(Input::Restart(name("a")));
    assert_eq!(stage.acts(), ["spawn a"]);
    stage.input(Input::Restart(name("unknown")));
    assert_eq!(stage.acts(), [""; 0]);
}

#[test]
fn wrong_children_are_named() {
    let error = |children: &[Child]| check(children, &[name("mesh")]).unwrap_err();
    let cycle = [
        child("x", &["a"]),
        child("a", &["b"]),
        child("b", &["c", "mesh"]),
        child("c", &["a"]),
    ];
    assert_eq!(
        error(&cycle).to_string(),
        "children that wait for each other: a after b after c"
    );
    assert_eq!(
        error(&[child("a", &["a"])]),
        ConfigError::Cycle(vec![name("a")])
    );
    assert_eq!(
        error(&[child("a", &[]), child("a", &[])]),
        ConfigError::Duplicate(name("a"))
    );
    assert_eq!(
        error(&[child("mesh", &[])]),
        ConfigError::Reserved(name("mesh"))
    );
    let unknown = ConfigError::Unknown {
        child: name("a"),
        after: name("z"),
    };
    assert_eq!(error(&[child("a", &["mesh", "z"])]), unknown);
    let many: Vec<Child> = (0..65).map(|n| child(&format!("c{n}"), &[])).collect();
    assert_eq!(error(&many), ConfigError::TooMany { found: 65 });
    for (change, key) in [
        (
            (|c| c.backoff_first = Duration::ZERO) as fn(&mut Child),
            "backoff_first",
        ),
        (|c| c.backoff_last = MS, "backoff_last"),
        (|c| c.window = Duration::ZERO, "window"),
        (|c| c.stop_deadline = S * 3601, "stop_deadline"),
        (|c| c.max_restarts = 1001, "max_restarts"),
    ] {
        let mut child = child("a", &[]);
        change(&mut child);
        let error = error(&[child]).to_string();
        assert!(error.starts_with(&format!("child a: {key} is ")), "{error}");
    }
}
