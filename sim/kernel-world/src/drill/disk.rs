//! A member's disk: a folder, or a file system of its own that can be made to take no write.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::StageError;

/// How large a file system of its own is, bytes; the file is sparse.
const SIZE: u64 = 2 << 30;

/// A member's disk. Dropping it unmounts it.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// A folder at that place, on a file system of its own if that is wanted.
    ///
    /// # Errors
    /// When it cannot be made, so without loop devices.
    pub fn new(folder: &Path, own: bool) -> Result<Disk, StageError> {
        fs::create_dir_all(folder).map_err(super::file(folder))?;
        let mut disk = Disk {
            folder: folder.to_owned(),
            is_mounted: false,
        };
        if own {
            let image = folder.with_extension("img");
            let made = File::create(&image).and_then(|file| file.set_len(SIZE));
            made.map_err(super::file(&image))?;
            let mut make = Command::new("mkfs.ext4");
            make.args(["-q", "-F"]).arg(&image);
            super::run(make, "mkfs.ext4")?;
            let mut mount = Command::new("mount");
            mount.args(["-o", "loop"]).arg(&image).arg(folder);
            super::run(mount, "mount")?;
            disk.is_mounted = true;
        }
        Ok(disk)
    }

    /// Has it take writes again, if it does not.
    pub fn thaw(&self) {
        if self.is_mounted {
            // One that is not frozen says so.
            let _ = freeze(&self.folder, false);
        }
    }
}

/// A file system that takes no write. Dropping it has it take writes again.
pub struct Stall<'a>(&'a Path);

impl Stall<'_> {
    /// From now on.
    ///
    /// # Errors
    /// When it is none that can be frozen.
    pub fn begin(folder: &Path) -> Result<Stall<'_>, StageError> {
        // First: a helper that was interrupted may have done it nevertheless.
        let stall = Stall(folder);
        freeze(folder, true)?;
        Ok(stall)
    }

    /// It takes writes again.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(self) -> Result<(), StageError> {
        let folder = self.0;
        std::mem::forget(self);
        freeze(folder, false)
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        let _ = freeze(self.0, false);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            self.thaw();
            let mut unmount = Command::new("umount");
            unmount.arg("--lazy").arg(&self.folder);
            let _ = super::run(unmount, "umount");
        }
    }
}

/// Whether the file system mounted there takes no write.
///
/// # Errors
/// When it is none that can be frozen.
fn freeze(folder: &Path, on: bool) -> Result<(), StageError> {
    let mut command = Command::new("fsfreeze");
    command
        .arg(if on { "--freeze" } else { "--unfreeze" })
        .arg(folder);
    super::run(command, "fsfreeze")
}
