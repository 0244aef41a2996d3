//! A folder whose files are replaced as a whole or not at all.
//!
//! Every file is first written beside its place and synced; only when all are, they are renamed,
//! and the folder is synced. A file that has its content and mode already is left alone.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files::{FileError, user};

/// Begins the names of files that are not complete yet; ours alone to remove.
const TEMP_PREFIX: &str = ".holdfast-tmp.";
/// Mode of parents that are created.
const PARENT_MODE: u32 = 0o755;

/// A folder of ours.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// For its lock and its sync.
    handle: File,
}

/// A file to write.
#[derive(Clone, Copy)]
pub struct FileSpec<'a> {
    /// Its name, without a path.
    pub name: &'a str,
    /// Its whole content.
    pub content: &'a [u8],
    /// Its mode.
    pub mode: u32,
}

/// What a [`Folder::write`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Names of the files that are new or replaced.
    pub changed: Vec<String>,
    /// Names of those that were left alone.
    pub unchanged: Vec<String>,
}

impl Folder {
    /// The folder at `path`, created with `mode` when it is not there. One that is there must be
    /// a folder, not a link to one, belong to this user (or root, when others may read it), and
    /// allow others no more than `mode` does.
    pub fn open(path: &Path, mode: u32) -> Result<Folder, FileError> {
        match fs::symlink_metadata(path) {
            Ok(meta) => check(path, &meta, mode)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, mode)?,
            Err(error) => return Err(FileError::io(path, "look at it")(error)),
        }
        let handle = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(FileError::io(path, "open the folder"))?;
        // What was checked by name may have been replaced since.
        let meta = handle.metadata();
        check(
            path,
            &meta.map_err(FileError::io(path, "look at it"))?,
            mode,
        )?;
        Ok(Folder {
            path: path.to_owned(),
            handle,
        })
    }

    /// Where a file of this name is.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file, at most `len_max` bytes of it; `None` when there is none.
    pub fn read(&self, name: &str, len_max: usize) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.join(name);
        match regular(&path)? {
            Some(_) => {
                read_at_most(&path, len_max).map(|mut content| Some(std::mem::take(&mut *content)))
            }
            None => Ok(None),
        }
    }

    /// Make these files so, all of them or, on an error before the first is in its place, none.
    pub fn write(&self, files: &[FileSpec<'_>]) -> Result<Written, FileError> {
        self.lock()?;
        let result = self.write_locked(files);
        // Closing would release it too; a failure here means that nobody waits for it.
        let _ = self.handle.unlock();
        result
    }

    fn lock(&self) -> Result<(), FileError> {
        self.handle.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => FileError::Busy {
                path: self.path.clone(),
            },
            fs::TryLockError::Error(error) => FileError::io(&self.path, "lock it")(error),
        })
    }

    fn write_locked(&self, files: &[FileSpec<'_>]) -> Result<Written, FileError> {
        self.remove_leftovers()?;
        let mut written = Written::default();
        let mut staged = Vec::new();
        for file in files {
            assert!(!file.name.contains('/') && !file.name.starts_with('.'));
            if self.is_so(file)? {
                written.unchanged.push(file.name.to_owned());
            } else {
                written.changed.push(file.name.to_owned());
                staged.push(*file);
            }
        }
        let staged = self.stage(&staged)?;
        staged.commit()?;
        if !written.changed.is_empty() {
            let sync = self.handle.sync_all();
            sync.map_err(FileError::io(&self.path, "sync the folder"))?;
        }
        Ok(written)
    }

    /// Whether the file is there with this content and mode.
    fn is_so(&self, file: &FileSpec<'_>) -> Result<bool, FileError> {
        let path = self.join(file.name);
        let Some(meta) = regular(&path)? else {
            return Ok(false);
        };
        let alike = meta.mode() & 0o7777 == file.mode
            && meta.uid() == user()
            && meta.len() == file.content.len() as u64;
        Ok(alike && read_at_most(&path, file.content.len() + 1)?.as_slice() == file.content)
    }

    /// Write all files beside their places.
    fn stage(&self, files: &[FileSpec<'_>]) -> Result<Staged, FileError> {
        let mut staged = Staged::default();
        for file in files {
            let temp = self.join(&format!("{TEMP_PREFIX}{}", file.name));
            write_new(&temp, file, &mut staged.renames, self.join(file.name))?;
        }
        Ok(staged)
    }

    /// Remove what an interrupted run left. The lock is ours, so nobody is writing them.
    fn remove_leftovers(&self) -> Result<(), FileError> {
        let listed = fs::read_dir(&self.path).map_err(FileError::io(&self.path, "list it"))?;
        for entry in listed {
            let entry = entry.map_err(FileError::io(&self.path, "list it"))?;
            if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                let path = entry.path();
                tracing::warn!(path = %path.display(), "removing what an interrupted run left");
                fs::remove_file(&path)
                    .map_err(FileError::io(&path, "remove what an interrupted run left"))?;
            }
        }
        Ok(())
    }
}

/// Files beside their places; removed unless they are put there.
#[derive(Default)]
struct Staged {
    renames: Vec<(PathBuf, PathBuf)>,
}

impl Staged {
    fn commit(mut self) -> Result<(), FileError> {
        for (temp, place) in &self.renames {
            fs::rename(temp, place).map_err(FileError::io(place, "put the new file there"))?;
        }
        self.renames.clear();
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (temp, _) in &self.renames {
            // One that is in its place already has no temporary name any more.
            let _ = fs::remove_file(temp);
        }
    }
}

/// Write and sync a new file, remembered before its first byte so that it is removed on failure.
fn write_new(
    temp: &Path,
    file: &FileSpec<'_>,
    renames: &mut Vec<(PathBuf, PathBuf)>,
    place: PathBuf,
) -> Result<(), FileError> {
    let mut open = File::options()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(temp)
        .map_err(FileError::io(temp, "create it"))?;
    renames.push((temp.to_owned(), place));
    let written = open
        .write_all(file.content)
        // The mode at creation is subject to the umask.
        .and_then(|()| open.set_permissions(Permissions::from_mode(file.mode)))
        .and_then(|()| open.sync_all());
    written.map_err(FileError::io(temp, "write it"))
}

/// A regular file's metadata; `None` when nothing is there.
fn regular(path: &Path) -> Result<Option<fs::Metadata>, FileError> {
    let found = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => return Ok(Some(meta)),
        Ok(meta) if meta.is_symlink() => "it is a symbolic link",
        Ok(meta) if meta.is_dir() => "it is a folder",
        Ok(_) => "it is no regular file",
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io(path, "look at it")(error)),
    };
    Err(FileError::found(path, found, "a regular file, or nothing"))
}

fn read_at_most(path: &Path, len_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(FileError::io(path, "open it"))?;
    // As large as it can become, so that no copy is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(len_max + 1));
    file.take(len_max as u64)
        .read_to_end(&mut content)
        .map_err(FileError::io(path, "read it"))?;
    Ok(content)
}

fn create(path: &Path, mode: u32) -> Result<(), FileError> {
    let io = |action| FileError::io(path, action);
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        let mut parents = DirBuilder::new();
        let created = parents.recursive(true).mode(PARENT_MODE).create(parent);
        created.map_err(FileError::io(parent, "create the folder"))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        // Somebody else was faster: what they made is checked like any other.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io("create the folder")(error)),
    }
    // The mode at creation is subject to the umask.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io("set the folder's mode"))
}

fn check(path: &Path, meta: &fs::Metadata, mode: u32) -> Result<(), FileError> {
    let expected = format!(
        "a folder of user {} with mode {mode:04o}, or nothing",
        user()
    );
    let wrong = |found: String| Err(FileError::found(path, found, &*expected));
    if meta.is_symlink() {
        return wrong("it is a symbolic link".to_owned());
    }
    if !meta.is_dir() {
        return wrong("it is no folder".to_owned());
    }
    let found = meta.mode() & 0o7777;
    if found & 0o777 & !mode != 0 {
        return wrong(format!("it has mode {found:04o}"));
    }
    let public = mode & 0o005 != 0;
    if meta.uid() != user() && !(public && meta.uid() == 0) {
        return wrong(format!("it belongs to user {}", meta.uid()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
