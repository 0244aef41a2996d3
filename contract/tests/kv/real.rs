//! Cases in real time, each on a thread of its own, through the real client.

use std::rc::Rc;
use std::sync::Once;
use std::time::{Duration, Instant};

use holdfast_contract::kv::{Case, Running, Test, Time};
use holdfast_io::clock::Clock;
use holdfast_io::kv::consul::{Config, Consul};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use libtest_mimic::{Failed, Trial};

/// What is missing is said once.
static SAID: Once = Once::new();

/// tokio's clock: the system's, or in a paused runtime a virtual one.
pub struct TokioTime;

impl Time for TokioTime {
    fn now(&self) -> Instant {
        RealClock.now().mono
    }

    fn sleep(&self, for_: Duration) -> Running {
        Box::pin(RealClock.sleep(for_))
    }
}

/// The client that everybody uses.
pub type RealConsul = Consul<RealNet, RealClock, RealSpawn>;

/// A client with this configuration.
pub fn client(config: Config) -> RealConsul {
    Consul::new(RealNet, RealClock, RealSpawn, config).expect("the configuration works")
}

/// What a trial returns when what it needs is not installed.
pub enum Missing {
    /// This must not be so here.
    Fail(String),
    /// Then it is not run.
    Skip(String),
}

/// A trial of a case on whatever `connect` finds. `prefix` is unique among the trials.
pub fn trial(
    implementation: &'static str,
    case: Case,
    connect: impl Fn() -> Result<Config, Missing> + Send + 'static,
) -> Trial {
    let name = format!("kv/{implementation}/{}", case.name);
    Trial::test(name, move || {
        run(&connect, |kv| {
            (case.run)(Test::new(kv, Rc::new(TokioTime), case.name))
        })
    })
}

/// Run `body` with a client of whatever `connect` finds.
pub fn run<F: Future<Output = ()>>(
    connect: &dyn Fn() -> Result<Config, Missing>,
    body: impl FnOnce(Rc<RealConsul>) -> F,
) -> Result<(), Failed> {
    let config = match connect() {
        Ok(config) => config,
        Err(Missing::Fail(why)) => return Err(why.into()),
        Err(Missing::Skip(why)) => {
            SAID.call_once(|| println!("SKIPPED, like all others that need it: {why}"));
            return Ok(());
        }
    };
    block_on(async { body(Rc::new(client(config))).await })?;
    Ok(())
}
