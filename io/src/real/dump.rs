//! Flight recorder dumps as files.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::dump::{DumpReason, DumpSink, DumpTrigger};

/// Dumps that are kept; older ones are deleted.
const DUMPS_MAX: usize = 8;
/// How their names begin and end: nothing else in the folder is touched.
const PREFIX: &str = "holdfast-recorder-";
const SUFFIX: &str = ".jsonl";

/// A folder of dumps, one JSON object per line, at most eight files.
#[derive(Clone, Debug)]
pub struct DumpDir(PathBuf);

impl DumpDir {
    /// Dump into this folder; it is made when it does not exist.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<DumpDir> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        Ok(DumpDir(path))
    }

    fn remove_old(&self) -> io::Result<()> {
        let mut names: Vec<PathBuf> = fs::read_dir(&self.0)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_dump(path))
            .collect();
        // The name begins with the time in digits of fixed width: this is the order of age.
        names.sort();
        let surplus = names.len().saturating_sub(DUMPS_MAX);
        names.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

fn is_dump(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

impl DumpSink for DumpDir {
    fn write(&self, reason: DumpReason, lines: &[String]) -> io::Result<String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = since.map_or(0, |since| since.as_millis());
        let name = format!("{PREFIX}{ms:015}-{}{SUFFIX}", reason.as_str());
        let (path, partial) = (self.0.join(&name), self.0.join(format!(".{name}.partial")));
        let mut file = io::BufWriter::new(fs::File::create(&partial)?);
        for line in lines {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.into_inner()?.sync_all()?;
        fs::rename(&partial, &path)?;
        self.remove_old()?;
        Ok(path.display().to_string())
    }
}

/// A `tracing` layer that asks for a dump whenever an ERROR is logged.
#[derive(Clone, Debug)]
pub struct DumpOnError(pub DumpTrigger);

impl<S: Subscriber> Layer<S> for DumpOnError {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            self.0.request(DumpReason::Error);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_last_eight_dumps_are_kept_whole_and_other_files_are_left_alone() {
        let path = std::env::temp_dir().join(format!("holdfast-dump-{}", std::process::id()));
        let dir = DumpDir::new(&path).unwrap();
        fs::write(path.join("other.jsonl"), "mine").unwrap();
        for index in 0..10 {
            // Names within one millisecond would replace each other.
            fs::write(
                path.join(format!("{PREFIX}{index:015}-error{SUFFIX}")),
                "old",
            )
            .unwrap();
        }
        let last = dir
            .write(
                DumpReason::Signal,
                &["{}".to_owned(), "{\"a\":1}".to_owned()],
            )
            .unwrap();
        assert_eq!(fs::read_to_string(&last).unwrap(), "{}\n{\"a\":1}\n");
        let dumps = fs::read_dir(&path)
            .unwrap()
            .filter(|e| is_dump(&e.as_ref().unwrap().path()));
        assert_eq!(dumps.count(), DUMPS_MAX);
        assert_eq!(
            fs::read_to_string(path.join("other.jsonl")).unwrap(),
            "mine"
        );
        fs::remove_dir_all(&path).unwrap();
    }
}
