//! What a configuration names on this machine: programs, users, groups.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whether users and programs have to exist now: not where a configuration is checked on another
/// machine than the one it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// What does not exist is a warning.
    No,
    /// A user that does not exist is an error.
    Yes,
}

/// Where a program is: as it is named with a slash, else in `PATH`.
pub fn find_program(program: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return Some(program.to_owned()).filter(executable);
    }
    let folders = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    found.find(executable)
}

/// Whether there is a user of that name.
pub fn has_user(name: &str) -> bool {
    user_id(name).is_some()
}

/// The id of the user of that name.
pub fn user_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string, and the result is null or points to an entry that lives
    // until the next call. Nothing else asks for users at the same time: configuration is read
    // on one thread.
    unsafe {
        libc::getpwnam(name.as_ptr())
            .as_ref()
            .map(|user| user.pw_uid)
    }
}

/// Whether there is a group of that name.
pub fn has_group(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: as for users.
    unsafe { !libc::getgrnam(name.as_ptr()).is_null() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_users_and_groups_are_found_or_not() {
        assert!(find_program(Path::new("/bin/sh")).is_some());
        assert!(find_program(Path::new("/bin/no-such-program")).is_none());
        assert!(find_program(Path::new("/etc/passwd")).is_none());
        assert!(find_program(Path::new("no-such-program")).is_none());
        assert!(has_user("root") && has_group("root"));
        assert!(!has_user("no-such-user") && !has_group("no\0group"));
    }
}
