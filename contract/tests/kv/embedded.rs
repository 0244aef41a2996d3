//! The embedded store, on disk, over HTTP on loopback: one for each case, on its own thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use holdfast_contract::kv::{Case, Test, suite};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::kv::consul::Config;
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on, os_seed};
use holdfast_io::spawn::Spawn;
use holdfast_servers::kv::disk::Disk;
use holdfast_servers::kv::http::{KvOptions, serve_kv};
use holdfast_servers::kv::store::{Config as StoreConfig, Store};
use libtest_mimic::{Failed, Trial};

use super::latency;
use super::real::{RealConsul, TokioTime, client};

/// Every case, and how long operations take.
pub fn trials() -> Vec<Trial> {
    let trial = |case: Case| {
        let name = format!("kv/embedded/{}", case.name);
        Trial::test(name, move || {
            run(case.name, |kv| {
                (case.run)(Test::new(kv, Rc::new(TokioTime), case.name))
            })
        })
    };
    let mut trials: Vec<_> = suite().into_iter().map(trial).collect();
    let measured = Trial::test("kv/embedded/latency", || {
        run("latency", |kv| async move {
            latency::measure("embedded, on disk", kv).await
        })
    });
    trials.push(measured.with_ignored_flag(true));
    trials
}

fn run<F: Future<Output = ()>>(
    name: &str,
    body: impl FnOnce(Rc<RealConsul>) -> F,
) -> Result<(), Failed> {
    let folder = Folder::new(name)?;
    block_on(async {
        let listener = RealNet
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (disk, state) = Disk::open(&folder.0.join("kv")).unwrap();
        let now = RealClock.now();
        let seed = os_seed().unwrap();
        let store = Store::with_journal(StoreConfig::default(), seed, now, state, disk).unwrap();
        let (stop, stopped) = Stop::new();
        let options = KvOptions::default();
        let serving = serve_kv(listener, options, store, RealClock, RealSpawn, stopped);
        let _serving = RealSpawn.spawn("embedded store", serving);
        body(Rc::new(client(Config::new(vec![address.parse().unwrap()])))).await;
        drop(stop);
    })?;
    Ok(())
}

/// A folder that is removed afterwards, also when the case fails.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> std::io::Result<Folder> {
        let name = format!("embedded-{}-{name}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
