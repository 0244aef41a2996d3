//! Whoever looks after the sidecars, as a machine's service manager does: one that ends by itself,
//! as its slot was lost, is started again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use holdfast_lab::Lab;
use holdfast_lab::process::Process;

use super::ground::STOP_BOUND;
use super::mesh;
use crate::stage::StageError;

/// How often sidecars are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One that ended is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Kept {
    process: Option<Process>,
    is_wanted: bool,
    ended_at: Option<Instant>,
    /// How often it ended by itself; each end is counted when it is seen, restarted or not.
    ends: u32,
}

/// Looks after the sidecars of a lab.
pub struct Keeper {
    kept: Arc<Mutex<BTreeMap<String, Kept>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    lab: Lab,
    holdfast: PathBuf,
}

impl Keeper {
    /// Of the lab with that prefix.
    ///
    /// # Errors
    /// When it is not there.
    pub fn new(prefix: &str, holdfast: PathBuf) -> Result<Keeper, StageError> {
        let kept: Arc<Mutex<BTreeMap<String, Kept>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let (lab, own) = (Lab::attach(prefix)?, Lab::attach(prefix)?);
        let (all, flag, program) = (Arc::clone(&kept), Arc::clone(&over), holdfast.clone());
        let thread = thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || {
                while !flag.load(Ordering::SeqCst) {
                    for (name, kept) in lock(&all).iter_mut() {
                        look(name, kept, &own, &program);
                    }
                    thread::sleep(LOOK_EVERY);
                }
            });
        Ok(Keeper {
            kept,
            over,
            thread: Some(thread.map_err(super::thread("keeper"))?),
            lab,
            holdfast,
        })
    }

    /// Starts one, if it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, name: &str) -> Result<(), StageError> {
        let mut all = lock(&self.kept);
        let kept = all.entry(name.to_owned()).or_default();
        kept.is_wanted = true;
        if kept
            .process
            .as_mut()
            .is_none_or(|process| process.ended().is_some())
        {
            kept.process = Some(spawn(name, &self.lab, &self.holdfast)?);
        }
        Ok(())
    }

    /// From now on one that ends stays dead.
    pub fn lose(&mut self, name: &str) {
        if let Some(kept) = lock(&self.kept).get_mut(name) {
            kept.is_wanted = false;
        }
    }

    /// Asks one to end, and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self, name: &str) -> Result<(), StageError> {
        self.lose(name);
        let process = lock(&self.kept)
            .get_mut(name)
            .and_then(|kept| kept.process.take());
        if let Some(process) = process {
            process.stop(STOP_BOUND)?;
        }
        Ok(())
    }

    /// Which ended by themselves since this was asked last, and how often.
    pub fn ended(&mut self) -> Vec<(String, u32)> {
        let mut ended = Vec::new();
        for (name, kept) in lock(&self.kept).iter_mut() {
            // One that ended since the last look is no less of an end.
            look(name, kept, &self.lab, &self.holdfast);
            let times = std::mem::take(&mut kept.ends);
            if times > 0 {
                ended.push((name.clone(), times));
            }
        }
        ended
    }

    /// Kills all of them.
    pub fn end(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        lock(&self.kept).clear();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(name: &str, kept: &mut Kept, lab: &Lab, holdfast: &Path) {
    if !kept.is_wanted
        || kept
            .process
            .as_mut()
            .is_none_or(|process| process.ended().is_none())
    {
        kept.ended_at = None;
        return;
    }
    let Some(ended_at) = kept.ended_at else {
        kept.ended_at = Some(Instant::now());
        kept.ends += 1;
        return;
    };
    if ended_at.elapsed() >= RESTART_AFTER {
        // What cannot be started now is tried at the next look.
        if let Ok(process) = spawn(name, lab, holdfast) {
            kept.ended_at = None;
            kept.process = Some(process);
        }
    }
}

fn spawn(name: &str, lab: &Lab, holdfast: &Path) -> Result<Process, StageError> {
    let folder = lab.folder();
    let hosts = folder.join(format!("{name}.hosts"));
    let mut command = super::with_hosts(lab, name, &hosts, holdfast)?;
    command
        .args(["sidecar", "--config"])
        .arg(folder.join(format!("{name}.toml")))
        .current_dir("/");
    mesh::environment(&mut command);
    Ok(Process::spawn(
        name,
        command,
        &folder.join(format!("{name}.log")),
    )?)
}
