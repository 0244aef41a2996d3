//! Ends a server that nobody manages: its key expires, and another may be promoted.
//!
//! Whether somebody does is what Patroni's REST port says, and not what its supervisor believes:
//! the fence keeps on while a start is refused, looked for, waits for the Consul agent, fails again
//! and again, or hangs, and while the machine has no slot yet.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::types::Vip;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Endpoint, Method, StatusCode, Stop};
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_postgres::Settings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::child::STOP_DEADLINE;
use super::{NAME, postmaster};
use crate::signals::Ask;
use crate::status::Shared;

/// How often Patroni is asked, and how long it may take to answer: small against any patience.
const TICK: Duration = Duration::from_millis(500);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A longer answer is none, bytes: Consul keeps no longer value than half of it.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// How often it is asked for its `ttl`, which may be edited live.
const LEARN_EVERY: Duration = Duration::from_secs(5);
/// How long a longer one has to stay until it counts: Patroni's session gets it with its next turn.
const LONGER_AFTER: Duration = Duration::from_secs(60);
/// Patroni takes less for as much.
const TTL_MIN: Duration = Duration::from_secs(20);
/// How long a server may take to end cleanly that nobody manages.
const ABANDONED_LIMIT: Duration = Duration::from_secs(5);
/// How much earlier a server without any Patroni is ended than one whose Patroni starts or hangs:
/// the key's last renewal may have failed, and have been tried again for this long, before Patroni
/// ended.
const WITHOUT_EARLIER: Duration = Duration::from_secs(10);
/// No patience is shorter: Patroni is back from a crash after 0.2 to 2 s, a look and its own start.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// What the next life of the sidecar reads of this one, in the folder of its state.
const NOTE: &str = "fence.json";
/// A longer note is none, bytes.
const NOTE_LEN_MAX: u64 = 16 << 10;

/// How long Patroni may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Patience {
    /// When it has no process.
    without_ms: u64,
    /// When it has one: it starts, or hangs.
    silent_ms: u64,
}

impl Patience {
    /// The key that the server may lead by was renewed up to `loop_wait` before Patroni was heard
    /// last, and expires `ttl` after that. The server needs some time to end before.
    fn new(ttl: Duration, loop_wait: Duration) -> Patience {
        let left = ttl.saturating_sub(loop_wait);
        let silent = left.saturating_sub(ABANDONED_LIMIT);
        let without = silent.saturating_sub(WITHOUT_EARLIER);
        let ms = |patience: Duration| {
            u64::try_from(patience.max(PATIENCE_MIN).as_millis()).unwrap_or(u64::MAX)
        };
        Patience {
            without_ms: ms(without),
            silent_ms: ms(silent),
        }
    }

    fn min(self, other: Patience) -> Patience {
        Patience {
            without_ms: self.without_ms.min(other.without_ms),
            silent_ms: self.silent_ms.min(other.silent_ms),
        }
    }
}

/// What Patroni goes by, edited live or not: its `GET /config`, with its own defaults.
#[derive(Deserialize)]
struct Live {
    #[serde(default = "Live::ttl")]
    ttl: Seconds,
    #[serde(default = "Live::loop_wait")]
    loop_wait: Seconds,
}

/// Patroni reads all of these with Python's `int`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl Live {
    fn ttl() -> Seconds {
        Seconds::Number(30.0)
    }

    fn loop_wait() -> Seconds {
        Seconds::Number(10.0)
    }

    fn patience(answer: &[u8]) -> Option<Patience> {
        // An object: a struct would be read of a list as well.
        let config: Map<String, Value> = serde_json::from_slice(answer).ok()?;
        let live: Live = serde_json::from_value(Value::Object(config)).ok()?;
        let ttl = live.ttl.read()?.max(TTL_MIN);
        Some(Patience::new(ttl, live.loop_wait.read()?))
    }
}

impl Seconds {
    fn read(&self) -> Option<Duration> {
        let seconds = match self {
            Seconds::Number(number) => *number,
            Seconds::Text(text) => text.trim().parse().ok()?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// A server, and who has to be heard for it to run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence {
    data_dir: PathBuf,
    /// Patroni's, at the VIP of the server.
    rest: SocketAddr,
    #[serde(flatten)]
    patience: Patience,
}

impl Fence {
    /// By what the file says, until Patroni says what it goes by.
    pub(super) fn new(settings: &Settings, vip: Vip) -> Fence {
        Fence {
            data_dir: settings.data_dir.clone(),
            rest: SocketAddr::new(vip.addr(), settings.rest_port),
            patience: Patience::new(settings.ttl, settings.loop_wait),
        }
    }

    fn is_of_server(&self, other: &Fence) -> bool {
        (&self.data_dir, self.rest.ip()) == (&other.data_dir, other.rest.ip())
    }
}

/// A fence at work: how patient it is may be learned anew.
struct Keeper {
    fence: RefCell<Fence>,
    /// What the file says: a longer one that was edited live may not be in force yet.
    most: Cell<Patience>,
    /// A longer one that was edited live, and since when.
    longer: Cell<Option<(Patience, Instant)>>,
    /// For the next life of the sidecar.
    note: PathBuf,
    shared: Shared,
}

impl Keeper {
    /// Keep on until the future is dropped.
    async fn keep(self: Rc<Keeper>) {
        let Fence { data_dir, rest, .. } = self.fence.borrow().clone();
        let rest: Endpoint = format!("http://{rest}")
            .parse()
            .expect("an address with a port is a server's");
        let mut patroni = Client::new(RealNet, RealClock, RealSpawn, rest);
        let mut heard = RealClock.now().mono;
        let mut learned = None;
        loop {
            // Where none runs there is nothing to be late with: what Patroni makes, copies or
            // rewinds has no postmaster.
            let runs = postmaster::Postmaster::of(&data_dir).is_some();
            // Whatever it says: it is there, and knows better.
            let speaks = runs && ask(&mut patroni, "/liveness").await.is_some();
            if !runs || speaks {
                heard = RealClock.now().mono;
            }
            if speaks && learned.is_none_or(|at| heard >= at + LEARN_EVERY) {
                learned = Some(heard);
                let config = ask(&mut patroni, "/config").await;
                let config = config.filter(|(status, _)| status.is_success());
                self.learn(config.as_ref().map(|(_, answer)| &answer[..]), heard);
            }
            let (patience, limit) = self.patience();
            let now = RealClock.now().mono;
            if now >= heard + patience {
                let silent_s = now.saturating_duration_since(heard).as_secs();
                tracing::error!(silent_s, "nobody manages PostgreSQL here: it is ended");
                end_within(&data_dir, limit).await;
            }
            RealClock.sleep(TICK).await;
        }
    }

    /// A live edit of `ttl` counts from here on, and for the next life.
    fn learn(&self, answer: Option<&[u8]>, now: Instant) {
        let Some(patience) = answer.and_then(Live::patience) else {
            return;
        };
        let patience = patience.min(self.most.get());
        let shorter = patience.min(self.fence.borrow().patience);
        let before = self.longer.take().filter(|(longer, _)| *longer == patience);
        let since = before.map_or(now, |(_, since)| since);
        if patience == shorter || now >= since + LONGER_AFTER {
            self.set(patience);
        } else {
            self.set(shorter);
            self.longer.set(Some((patience, since)));
        }
    }

    fn set(&self, patience: Patience) {
        let mut fence = self.fence.borrow_mut();
        if fence.patience != patience {
            fence.patience = patience;
            note_down(&self.note, Some(&fence));
        }
    }

    /// How long Patroni may be silent, and how long the server may then take to end cleanly.
    fn patience(&self) -> (Duration, Duration) {
        let (lives, stops) = self.shared.view(|status| {
            let mut children = status.children.iter();
            let patroni = children.find(|child| child.name == NAME);
            let lives = patroni.is_some_and(|patroni| patroni.pid.is_some());
            let stops = patroni.is_some_and(|patroni| patroni.state == "stopping");
            (lives, stops || status.phase == "stopping")
        });
        // Who stops answers no more, and its server has the time that a stop has.
        let limit = if stops {
            STOP_DEADLINE
        } else {
            ABANDONED_LIMIT
        };
        let Patience {
            without_ms,
            silent_ms,
        } = self.fence.borrow().patience;
        let patience = if lives || stops {
            silent_ms
        } else {
            without_ms
        };
        (Duration::from_millis(patience), limit)
    }
}

/// What Patroni answers, with whatever status.
async fn ask(
    patroni: &mut Client<RealNet, RealClock, RealSpawn>,
    path: &str,
) -> Option<(StatusCode, Bytes)> {
    let (body, limit) = (Bytes::new(), ANSWER_LIMIT);
    let asking = patroni.request(Method::GET, path, body, ANSWER_LEN_MAX, limit);
    asking.await.ok()
}

/// The fence of this machine, from before it has a slot until it ends.
pub(crate) struct Fenced {
    note: PathBuf,
    shared: Shared,
    kept: Option<(Rc<Keeper>, Task)>,
}

impl Fenced {
    /// For what the last life of the sidecar may have left. Only for who has locked the folder.
    pub(crate) fn after_last_life(state_dir: &Path, shared: &Shared) -> Fenced {
        let mut fenced = Fenced {
            note: state_dir.join(NOTE),
            shared: shared.clone(),
            kept: None,
        };
        match read(&fenced.note) {
            Ok(None) => {}
            Ok(Some(left)) => {
                let most = left.patience;
                fenced.keep(left, most);
            }
            Err(error) => {
                let note = fenced.note.display();
                tracing::warn!(%note, %error, "what ran here before is not known");
            }
        }
        fenced
    }

    fn keep(&mut self, fence: Fence, most: Patience) {
        let keeper = Rc::new(Keeper {
            most: Cell::new(most),
            longer: Cell::new(None),
            fence: RefCell::new(fence),
            note: self.note.clone(),
            shared: self.shared.clone(),
        });
        let task = RealSpawn.spawn("fence", keeper.clone().keep());
        self.kept = Some((keeper, task));
    }

    /// This is the server from now on. One that is left of another data directory or listens on
    /// another VIP is ended first: its name and address may be another machine's. Of the same one,
    /// the shorter patience counts until Patroni is heard: it may go by what the file does not say.
    pub(crate) async fn change(&mut self, mut to: Option<Fence>) {
        let most = to.as_ref().map(|new| new.patience);
        if let Some((keeper, _)) = &self.kept {
            let old = keeper.fence.borrow().clone();
            match to.as_mut().filter(|new| new.is_of_server(&old)) {
                Some(new) => {
                    keeper.most.set(new.patience);
                    new.patience = new.patience.min(old.patience);
                    if new.rest == old.rest {
                        keeper.set(new.patience);
                        return;
                    }
                }
                None => end_within(&old.data_dir, ABANDONED_LIMIT).await,
            }
        }
        note_down(&self.note, to.as_ref());
        self.kept = None;
        if let Some((fence, most)) = to.zip(most) {
            self.keep(fence, most);
        }
    }

    /// End what is left when everything ends; asked once more, at once.
    pub(crate) async fn end(&self, asked: &mut mpsc::Receiver<Ask>) {
        if let Some((keeper, _)) = &self.kept {
            let (hurry, stop) = Stop::new();
            let data_dir = keeper.fence.borrow().data_dir.clone();
            let ending = end_by(&data_dir, stop, RealClock.now().mono + STOP_DEADLINE);
            let hurry = || {
                hurry.send_replace(true);
            };
            hurried(ending, asked, hurry).await;
        }
    }
}

/// Wait for an end, and pass a stop on that is asked meanwhile.
pub(crate) async fn hurried(
    ending: impl Future<Output = ()>,
    asked: &mut mpsc::Receiver<Ask>,
    hurry: impl Fn(),
) {
    tokio::pin!(ending);
    loop {
        tokio::select! {
            biased;
            () = &mut ending => return,
            Some(ask) = asked.recv() => if ask == Ask::Stop {
                tracing::warn!("asked again: what is left is ended at once");
                hurry();
            },
        }
    }
}

fn read(note: &Path) -> io::Result<Option<Fence>> {
    let text = match fs::metadata(note) {
        Ok(found) if found.len() > NOTE_LEN_MAX => return Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => fs::read(note)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(serde_json::from_slice(&text)?))
}

fn note_down(note: &Path, fence: Option<&Fence>) {
    if let Err(error) = write(note, fence) {
        let note = note.display();
        tracing::warn!(%note, %error, "the next start will not know what runs here");
    }
}

fn write(note: &Path, fence: Option<&Fence>) -> io::Result<()> {
    match fence {
        Some(fence) => {
            let fresh = note.with_extension("new");
            fs::write(&fresh, serde_json::to_vec(fence)?)?;
            fs::rename(&fresh, note)
        }
        None => match fs::remove_file(note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// End a server that nobody manages: cleanly, if that is done in time.
async fn end_within(data_dir: &Path, limit: Duration) {
    let (_hurry, stop) = Stop::new();
    end_by(data_dir, stop, RealClock.now().mono + limit).await;
}

/// As [`end_within`], with a moment and somebody who may have no time for that.
pub(super) async fn end_by(data_dir: &Path, mut hurry: Stop, by: Instant) {
    let (switch, stop) = Stop::new();
    switch.send_replace(hurry.is_set() || RealClock.now().mono >= by);
    let ending = postmaster::end(data_dir, stop, &RealClock);
    let late = async {
        tokio::select! {
            () = hurry.wait() => {}
            () = RealClock.sleep_until(by) => {}
        }
        switch.send_replace(true);
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = ending => {}
        () = late => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::postmaster::tests::Fake;
    use super::*;
    use crate::status::ChildStatus;
    use holdfast_io::clock::timeout;
    use holdfast_io::http::{Response, ServerLimits, StatusCode, serve};
    use holdfast_io::net::{Listener, Net};
    use holdfast_io::real::block_on;
    use std::cell::Cell;
    use std::rc::Rc;

    const BOUND: Duration = Duration::from_secs(60);
    /// Long enough for some answers, which come every [`TICK`].
    const SHORT_MS: u64 = 3_000;

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let waiting = async {
            while !is_so() {
                RealClock.sleep(Duration::from_millis(5)).await;
            }
        };
        let result = timeout(&RealClock, BOUND, waiting).await;
        assert!(result.is_ok(), "waited in vain: {what}");
    }

    fn fence(fake: &Fake, rest: &str, patience_ms: u64) -> Fence {
        Fence {
            data_dir: fake.folder.clone(),
            rest: rest.parse().unwrap(),
            patience: Patience {
                without_ms: patience_ms,
                silent_ms: patience_ms,
            },
        }
    }

    fn keeper(fence: Fence, shared: &Shared) -> Rc<Keeper> {
        Rc::new(Keeper {
            most: Cell::new(fence.patience),
            longer: Cell::new(None),
            note: fence.data_dir.join(NOTE),
            fence: RefCell::new(fence),
            shared: shared.clone(),
        })
    }

    /// Answers as a Patroni whose loop is stuck; how often it has.
    async fn patroni() -> (SocketAddr, Rc<Cell<u32>>, Task) {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = RealNet.listen(any).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Rc::new(Cell::new(0));
        let count = asked.clone();
        let task = RealSpawn.spawn("rest", async move {
            let (_never, stop) = Stop::new();
            let handler = move |_| {
                count.set(count.get() + 1);
                async { Response::text(StatusCode::SERVICE_UNAVAILABLE, "") }
            };
            let limits = ServerLimits::default();
            serve(listener, RealClock, RealSpawn, limits, stop, handler).await;
        });
        (addr, asked, task)
    }

    #[test]
    fn a_server_runs_on_while_patroni_says_anything_and_is_ended_when_it_is_silent() {
        let mut fake = Fake::start("fence", "trap 'exit 7' INT");
        block_on(async {
            let (addr, asked, patroni) = patroni().await;
            let fence = fence(&fake, &addr.to_string(), SHORT_MS);
            let keeper = keeper(fence, &Shared::default());
            let _kept = RealSpawn.spawn("fence", keeper.keep());
            // More answers than fit into its patience.
            let enough = u32::try_from(SHORT_MS / 500).unwrap() + 3;
            until("it is asked", || asked.get() >= enough).await;
            assert_eq!(fake.child.try_wait().unwrap(), None);
            drop(patroni);
            until("it is ended", || fake.child.try_wait().unwrap().is_some()).await;
        })
        .unwrap();
        assert_eq!(
            fake.child.wait().unwrap().code(),
            Some(7),
            "it ended cleanly"
        );
        fs::remove_dir_all(&fake.folder).unwrap();
    }

    #[test]
    fn what_a_last_life_has_left_is_ended_unless_it_is_the_same_server() {
        let mut fake = Fake::start("left", "trap 'exit 7' INT");
        let state = fake.folder.join("state");
        fs::create_dir(&state).unwrap();
        block_on(async {
            let shared = Shared::default();
            let same = fence(&fake, "127.50.0.201:1", 600_000);
            write(&state.join(NOTE), Some(&same)).unwrap();
            let mut fenced = Fenced::after_last_life(&state, &shared);
            fenced.change(Some(same)).await;
            assert_eq!(fake.child.try_wait().unwrap(), None, "it is adopted");
            let other = fence(&fake, "127.50.0.202:1", 600_000);
            fenced.change(Some(other.clone())).await;
            assert!(fake.child.wait().unwrap().code() == Some(7), "another VIP");
            assert_eq!(read(&state.join(NOTE)).unwrap(), Some(other));
            fenced.change(None).await;
            assert_eq!(read(&state.join(NOTE)).unwrap(), None);
        })
        .unwrap();
        fs::remove_dir_all(&fake.folder).unwrap();
    }

    #[test]
    fn a_ttl_that_was_edited_live_counts_now_and_in_the_next_life() {
        let mut fake = Fake::start("learn", "trap 'exit 7' INT");
        let left = fence(&fake, "127.50.0.201:1", 600_000);
        let keeper = keeper(left.clone(), &Shared::default());
        for nothing in [None, Some(&b"no"[..]), Some(b"[]"), Some(b"{\"ttl\": -1}")] {
            keeper.learn(nothing, RealClock.now().mono);
        }
        assert_eq!(*keeper.fence.borrow(), left);
        let now = Cell::new(RealClock.now().mono);
        let at_once = |config: &str| {
            keeper.learn(Some(config.as_bytes()), now.get());
            keeper.fence.borrow().patience.silent_ms / 1_000
        };
        let patience = |config: &str| {
            at_once(config);
            now.set(now.get() + LONGER_AFTER);
            at_once(config)
        };
        assert_eq!(at_once("{}"), 15, "Patroni's own");
        assert_eq!(at_once(r#"{"ttl": 60}"#), 15, "its session is of 30 s");
        assert_eq!(at_once(r#"{"ttl": 40}"#), 15);
        assert_eq!(patience(r#"{"ttl": "60", "loop_wait": 10.0}"#), 45);
        assert_eq!(patience(r#"{"ttl": 5}"#), 5, "Patroni makes 20 of it");
        assert_eq!(
            patience(r#"{"ttl": 9000}"#),
            600,
            "no longer than the file says"
        );
        assert_eq!(
            patience(r#"{"ttl": 40, "loop_wait": 5, "pause": null}"#),
            30
        );
        let learned = read(&keeper.note).unwrap().unwrap();
        let (without_ms, silent_ms) = (20_000, 30_000);
        assert_eq!(
            learned.patience,
            Patience {
                without_ms,
                silent_ms
            }
        );
        block_on(async {
            let mut fenced = Fenced::after_last_life(&fake.folder, &Shared::default());
            fenced.change(Some(left.clone())).await;
            let noted = || read(&keeper.note).unwrap();
            assert_eq!(noted(), Some(learned.clone()), "the shorter one");
            let rest = "127.50.0.201:2".parse().unwrap();
            fenced.change(Some(Fence { rest, ..left })).await;
            let other_port = Fence { rest, ..learned };
            assert_eq!(noted(), Some(other_port), "and with another port");
            fenced.change(None).await;
        })
        .unwrap();
        assert_eq!(fake.child.wait().unwrap().code(), Some(7));
        fs::remove_dir_all(&fake.folder).unwrap();
    }

    #[test]
    fn an_end_before_there_is_a_slot_ends_what_was_left_and_can_be_hurried() {
        let mut fake = Fake::start("early", "trap '' INT; trap 'exit 8' QUIT");
        block_on(async {
            let left = fence(&fake, "127.50.0.201:1", 600_000);
            write(&fake.folder.join(NOTE), Some(&left)).unwrap();
            let fenced = Fenced::after_last_life(&fake.folder, &Shared::default());
            let (asks, mut asked) = mpsc::channel(1);
            asks.send(Ask::Stop).await.unwrap();
            fenced.end(&mut asked).await;
        })
        .unwrap();
        assert_eq!(fake.child.wait().unwrap().code(), Some(8), "at once");
        fs::remove_dir_all(&fake.folder).unwrap();
    }

    #[test]
    fn who_has_a_process_may_be_silent_for_longer_and_who_stops_has_a_stops_time() {
        let fence = Fence {
            data_dir: PathBuf::new(),
            rest: "127.50.0.201:8008".parse().unwrap(),
            patience: Patience::new(Duration::from_secs(30), Duration::from_secs(10)),
        };
        let shared = Shared::default();
        let keeper = keeper(fence, &shared);
        let with = |pid: Option<u32>, state: &str| {
            let patroni = ChildStatus {
                name: NAME.to_owned(),
                pid,
                state: state.to_owned(),
                ..ChildStatus::default()
            };
            shared.update(|status| status.children = vec![patroni]);
            let (patience, limit) = keeper.patience();
            (patience.as_secs(), limit.as_secs())
        };
        assert_eq!(with(None, "waiting"), (5, 5));
        assert_eq!(with(Some(9), "starting"), (15, 5));
        assert_eq!(with(Some(9), "stopping"), (15, 60));
        shared.update(|status| status.phase = "stopping".to_owned());
        assert_eq!(with(None, "waiting"), (15, 60), "everything stops");
    }
}
