//! Random children, processes and wishes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// How a process behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Process {
    Spawning,
    Running { ready: bool },
}

struct Driver {
    supervisor: Supervisor,
    now: Now,
    children: Vec<Child>,
    processes: BTreeMap<Run, (Name, Process)>,
    /// Tasks that are done.
    done: Vec<Name>,
    last_run: u64,
    shut_down: bool,
    finished: bool,
}

impl Driver {
    fn of(&self, child: &Name) -> Option<Process> {
        let mut found = self.processes.values().filter(|(name, _)| name == child);
        let process = found.next().map(|(_, process)| *process);
        assert!(found.next().is_none(), "two runs of {child}");
        process
    }

    fn is_ready(&self, name: &Name) -> bool {
        self.of(name) == Some(Process::Running { ready: true }) || self.done.contains(name)
    }

    /// Do what the machine wants, and check whether it may want that. `alone`: it may do
    /// something about this child only.
    fn work(&mut self, alone: Option<&Name>) {
        while let Some(output) = self.supervisor.poll_output() {
            assert!(!self.finished, "it does nothing more");
            match output {
                Output::Spawn { child, run } => {
                    assert!(run.0 > self.last_run, "greater with every run");
                    self.last_run = run.0;
                    assert!(!self.shut_down, "nothing is started at the end");
                    assert!(
                        alone.is_none_or(|alone| *alone == child),
                        "{child} is innocent"
                    );
                    assert_eq!(self.of(&child), None, "{child} runs");
                    let defined = self.children.iter().find(|c| c.name == child).unwrap();
                    let ready = defined.after.iter().all(|after| self.is_ready(after));
                    assert!(ready, "{child} does not wait");
                    self.done.retain(|done| *done != child);
                    self.processes.insert(run, (child, Process::Spawning));
                }
                Output::Signal { run, signal } => {
                    let (child, process) = self.processes.get(&run).expect("it runs").clone();
                    assert!(
                        alone.is_none_or(|alone| *alone == child),
                        "{child} is innocent"
                    );
                    assert_ne!(process, Process::Spawning, "there is nothing to signal");
                    if signal == KILL {
                        self.end(run, Ended::Signal(KILL));
                    }
                }
                Output::Done => {
                    assert!(self.shut_down && self.processes.is_empty());
                    self.finished = true;
                }
                Output::Refused(error) => panic!("{error}"),
                Output::Changed { .. } => {}
            }
        }
    }

    fn end(&mut self, run: Run, how: Ended) {
        let (child, _) = self.processes.remove(&run).expect("it runs");
        // What was removed while it ended has no definition any more.
        let defined = self.children.iter().find(|c| c.name == child);
        if how == Ended::Code(0) && defined.is_some_and(|c| c.one_shot) {
            let stopping = self
                .supervisor
                .views()
                .into_iter()
                .any(|view| view.name == child.as_str() && view.state == State::Stopping);
            if !stopping {
                self.done.push(child);
            }
        }
        self.supervisor.handle(self.now, Input::Ended { run, how });
    }

    fn play(&mut self, (kind, which, ms): (u8, u8, u16)) {
        let runs: Vec<Run> = self.processes.keys().copied().collect();
        let run = runs.get(usize::from(which) % runs.len().max(1)).copied();
        match (kind % 16, run) {
            (0..=3, Some(run)) => self.progress(run),
            (4 | 5, Some(run)) => {
                let child = self.processes[&run].0.clone();
                let calm = !self.shut_down;
                self.end(run, Ended::Code(1));
                self.work(calm.then_some(&child));
            }
            (6, Some(run)) => self.end(run, Ended::Code(0)),
            (7, Some(run)) => {
                if let Some((_, process @ Process::Running { .. })) = self.processes.get_mut(&run) {
                    *process = Process::Running { ready: false };
                    self.supervisor.handle(self.now, Input::Unready(run));
                }
            }
            (8, _) => {
                let nth = usize::from(which) % self.children.len();
                let name = self.children[nth].name.clone();
                self.supervisor.handle(self.now, Input::Restart(name));
            }
            (9, _) => {
                let nth = usize::from(which) % self.children.len();
                self.children[nth].digest[0] ^= 1;
                let name = &self.children[nth].name;
                self.done.retain(|done| done != name);
                let children = self.children.clone();
                self.supervisor.handle(self.now, Input::Reload(children));
            }
            (10, _) if ms == 7 => {
                self.shut_down = true;
                self.supervisor.handle(self.now, Input::Shutdown);
            }
            _ => {
                self.now = self.now.plus(Duration::from_millis(ms.into()));
                self.supervisor.handle_deadline(self.now);
            }
        }
        self.work(None);
    }

    /// A process gets on: it exists, it is ready.
    fn progress(&mut self, run: Run) {
        let (child, process) = self.processes.get_mut(&run).expect("it runs");
        let defined = self.children.iter().find(|c| c.name == *child).unwrap();
        let at_once = defined.ready_at_once && !defined.one_shot;
        match process {
            Process::Spawning => {
                *process = Process::Running { ready: at_once };
                self.supervisor.handle(self.now, Input::Started(run));
            }
            Process::Running { ready: false } if !defined.one_shot => {
                *process = Process::Running { ready: true };
                self.supervisor.handle(self.now, Input::Ready(run));
            }
            Process::Running { .. } => {}
        }
    }
}

/// Children that wait only for those before them.
fn children() -> impl Strategy<Value = Vec<Child>> {
    let one = (any::<u8>(), any::<bool>(), 0..10u8, 0..5000u64);
    prop::collection::vec(one, 1..6).prop_map(|drawn| {
        let children = drawn.into_iter().enumerate();
        let children = children.map(|(n, (after, ready_at_once, task, deadline))| {
            let after: Vec<String> = (0..n)
                .filter(|m| after >> m & 1 == 1)
                .map(|m| format!("c{m}"))
                .collect();
            let after: Vec<&str> = after.iter().map(String::as_str).collect();
            Child {
                ready_at_once,
                one_shot: task == 0,
                stop_deadline: Duration::from_millis(deadline),
                ..child(&format!("c{n}"), &after)
            }
        });
        children.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_run_at_a_time_in_order_each_for_itself_and_an_end_in_time(
        children in children(),
        draws in prop::collection::vec(any::<(u8, u8, u16)>(), 0..300),
    ) {
        let now = start();
        let supervisor = Supervisor::new(children.clone(), now).unwrap();
        let mut driver = Driver {
            supervisor,
            now,
            children,
            processes: BTreeMap::new(),
            done: Vec::new(),
            last_run: 0,
            shut_down: false,
            finished: false,
        };
        driver.work(None);
        for draw in draws {
            driver.play(draw);
        }
        // Nobody ends but by force, and everybody has.
        let began = driver.now.mono;
        driver.shut_down = true;
        driver.supervisor.handle(driver.now, Input::Shutdown);
        driver.work(None);
        while !driver.finished {
            let spawning = driver.processes.iter().find(|(_, (_, p))| *p == Process::Spawning);
            if let Some(run) = spawning.map(|(run, _)| *run) {
                driver.progress(run);
                driver.work(None);
                continue;
            }
            let (at, _) = driver.supervisor.deadline().expect("somebody is late");
            driver.now = driver.now.plus(at.saturating_duration_since(driver.now.mono));
            driver.supervisor.handle_deadline(driver.now);
            driver.work(None);
        }
        let sum: Duration = driver.children.iter().map(|child| child.stop_deadline).sum();
        prop_assert!(driver.now.mono - began <= sum);
        let all_done = driver.supervisor.views().iter().all(|view| view.state == State::Done);
        prop_assert!(all_done);
    }
}
