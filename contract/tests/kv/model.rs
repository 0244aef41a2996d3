//! The simulated store, in virtual time, with each of several seeds.

use std::rc::Rc;
use std::time::Duration;

use holdfast_contract::kv::{Case, Test, suite};
use holdfast_core::entropy::Seed;
use holdfast_io::clock::Clock;
use holdfast_io::real::RealClock;
use holdfast_kv_model::asked::ModelKv;
use holdfast_kv_model::{Config, KvModel};
use libtest_mimic::Trial;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::real::TokioTime;

/// Seeds: each draws other delays and ends of sessions. A case takes milliseconds.
const SEEDS: u8 = 20;
/// Longest virtual time of a case: one that hangs would otherwise wait for ever.
const LIMIT: Duration = Duration::from_secs(600);

/// Every case, over [`SEEDS`].
pub fn trials() -> Vec<Trial> {
    let trial = |case: Case| {
        let name = format!("kv/model/{}", case.name);
        Trial::test(name, move || {
            (0..SEEDS).try_for_each(|seed| run(case, seed))
        })
    };
    suite().into_iter().map(trial).collect()
}

fn run(case: Case, seed: u8) -> Result<(), libtest_mimic::Failed> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let now = RealClock.now();
        let model = KvModel::new(Config::default(), Seed::new([seed; 32]), now);
        let kv = Rc::new(ModelKv::new(model, RealClock));
        let test = Test::new(kv, Rc::new(TokioTime), case.name);
        let ended = tokio::time::timeout(LIMIT, (case.run)(test)).await;
        ended.map_err(|_| format!("seed {seed}: no end within {LIMIT:?}").into())
    })
}
