//! Files that are replaced as a whole or not at all.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::{chown, symlink};

use tempfile::TempDir;

use super::*;

const MODE: u32 = 0o700;

fn spec<'a>(name: &'a str, content: &'a str) -> FileSpec<'a> {
    FileSpec {
        name,
        content: content.as_bytes(),
        mode: 0o400,
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// What tells one state of a file from another: its inode and its time of change.
fn state(path: &Path) -> (u64, i64, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.ino(), meta.mtime_nsec(), meta.ctime_nsec())
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_is_missing_is_made_with_its_mode_and_its_files_with_theirs() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a/b/secrets");
    let folder = Folder::open(&path, MODE).unwrap();
    let written = folder.write(&[spec("one", "1"), spec("two", "2")]).unwrap();
    assert_eq!(written.changed, ["one", "two"]);
    assert_eq!((mode(&path), mode(&path.join("one"))), (0o700, 0o400));
    assert_eq!(names(&path), ["one", "two"]);
    assert_eq!(fs::read(path.join("two")).unwrap(), b"2");
}

#[test]
fn a_second_run_touches_nothing() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("secrets");
    let files = [spec("one", "1"), spec("two", "2")];
    Folder::open(&path, MODE).unwrap().write(&files).unwrap();
    let before = (
        state(&path),
        state(&path.join("one")),
        state(&path.join("two")),
    );
    let written = Folder::open(&path, MODE).unwrap().write(&files).unwrap();
    assert_eq!(written.unchanged, ["one", "two"]);
    assert_eq!(written.changed, Vec::<String>::new());
    let after = (
        state(&path),
        state(&path.join("one")),
        state(&path.join("two")),
    );
    assert_eq!(before, after);
}

#[test]
fn only_what_has_changed_is_replaced_and_a_reader_of_the_old_file_keeps_it() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("secrets"), MODE).unwrap();
    folder.write(&[spec("one", "1"), spec("two", "2")]).unwrap();
    let before = state(&folder.join("one"));
    let mut reader = File::open(folder.join("two")).unwrap();
    let written = folder.write(&[spec("one", "1"), spec("two", "3")]).unwrap();
    assert_eq!(written.changed, ["two"]);
    assert_eq!(state(&folder.join("one")), before);
    assert_eq!(fs::read(folder.join("two")).unwrap(), b"3");
    let mut old = String::new();
    reader.read_to_string(&mut old).unwrap();
    assert_eq!(old, "2");
}

#[test]
fn a_file_whose_mode_was_changed_is_put_right() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("secrets"), MODE).unwrap();
    folder.write(&[spec("one", "1")]).unwrap();
    chmod(&folder.join("one"), 0o644);
    assert_eq!(folder.write(&[spec("one", "1")]).unwrap().changed, ["one"]);
    assert_eq!(mode(&folder.join("one")), 0o400);
}

#[test]
fn a_folder_that_others_may_read_or_write_is_refused_with_what_was_found_and_expected() {
    let root = TempDir::new().unwrap();
    for (wanted, found) in [
        (0o700, 0o750),
        (0o700, 0o701),
        (0o700, 0o755),
        (0o755, 0o777),
    ] {
        chmod(root.path(), found);
        let error = Folder::open(root.path(), wanted).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("it has mode {found:04o}; expected")),
            "{text}"
        );
        assert!(text.contains(&format!("with mode {wanted:04o}")), "{text}");
        assert!(error.is_configuration());
    }
    for (wanted, found) in [(0o700, 0o700), (0o700, 0o500), (0o755, 0o700)] {
        chmod(root.path(), found);
        Folder::open(root.path(), wanted).unwrap();
    }
    chmod(root.path(), 0o700);
}

#[test]
fn a_link_a_file_and_somebody_elses_folder_are_refused() {
    let root = TempDir::new().unwrap();
    let (real, link) = (root.path().join("real"), root.path().join("link"));
    Folder::open(&real, MODE).unwrap();
    symlink(&real, &link).unwrap();
    let text = Folder::open(&link, MODE).unwrap_err().to_string();
    assert!(
        text.contains("it is a symbolic link; expected a folder of user"),
        "{text}"
    );

    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let text = Folder::open(&file, MODE).unwrap_err().to_string();
    assert!(text.contains("it is no folder"), "{text}");
    let below = Folder::open(&file.join("deeper"), MODE).unwrap_err();
    assert!(below.is_configuration(), "{below}");

    // Only root can give a folder away.
    if user() == 0 {
        chown(&real, Some(4711), None).unwrap();
        let text = Folder::open(&real, MODE).unwrap_err().to_string();
        assert!(text.contains("it belongs to user 4711"), "{text}");
    }
}

#[test]
fn a_folder_that_may_not_be_read_is_an_error_that_says_so() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("secrets");
    Folder::open(&path, MODE).unwrap();
    chmod(&path, 0o000);
    // Root reads it all the same.
    if user() != 0 {
        let error = Folder::open(&path, MODE).unwrap_err();
        assert!(
            error.to_string().contains("cannot open the folder"),
            "{error}"
        );
        assert!(error.is_configuration());
    }
    chmod(&path, 0o700);
}

#[test]
fn nothing_is_replaced_when_one_of_the_files_cannot_be() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("secrets"), MODE).unwrap();
    folder.write(&[spec("one", "1"), spec("two", "2")]).unwrap();
    let before = state(&folder.join("one"));
    for obstacle in ["folder", "link"] {
        let path = folder.join("three");
        match obstacle {
            "folder" => fs::create_dir(&path).unwrap(),
            _ => symlink("/nowhere", &path).unwrap(),
        }
        let files = [spec("one", "new"), spec("three", "3"), spec("two", "new")];
        let error = folder.write(&files).unwrap_err().to_string();
        assert!(
            error.contains("three: it is a") && error.contains(obstacle),
            "{error}"
        );
        assert_eq!(state(&folder.join("one")), before);
        assert_eq!(names(&folder.path), ["one", "three", "two"]);
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
    }
}

#[test]
fn a_write_that_fails_half_way_leaves_nothing_behind() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("secrets"), MODE).unwrap();
    // A name that is too long with the prefix only: the second file cannot be created.
    let long = "x".repeat(250);
    let error = folder
        .write(&[spec("one", "1"), spec(&long, "2")])
        .unwrap_err();
    assert!(error.to_string().contains("cannot create it"), "{error}");
    assert_eq!(names(&folder.path), Vec::<String>::new());
}

#[test]
fn what_an_interrupted_run_left_is_removed_and_the_old_files_are_whole() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("secrets"), MODE).unwrap();
    folder.write(&[spec("one", "1"), spec("two", "2")]).unwrap();
    // A crash after everything is staged, and before anything is in its place.
    let staged = folder
        .stage(&[spec("one", "new"), spec("two", "new")])
        .unwrap();
    std::mem::forget(staged);
    assert_eq!(names(&folder.path).len(), 4);
    assert_eq!(fs::read(folder.join("one")).unwrap(), b"1");
    // The same in the middle of the renames.
    let temp = folder.join(&format!("{TEMP_PREFIX}one"));
    fs::rename(&temp, folder.join("one")).unwrap();
    let written = folder
        .write(&[spec("one", "new"), spec("two", "new")])
        .unwrap();
    assert_eq!(
        (written.unchanged, written.changed),
        (vec!["one".to_owned()], vec!["two".to_owned()])
    );
    assert_eq!(names(&folder.path), ["one", "two"]);
}

#[test]
fn two_processes_do_not_write_at_once() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("secrets");
    let (one, other) = (
        Folder::open(&path, MODE).unwrap(),
        Folder::open(&path, MODE).unwrap(),
    );
    one.lock().unwrap();
    let error = other.write(&[spec("one", "1")]).unwrap_err();
    assert!(matches!(error, FileError::Busy { .. }));
    drop(one);
    other.write(&[spec("one", "1")]).unwrap();
}

#[test]
fn a_file_for_everybody_is_one_whatever_the_umask_says() {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(&root.path().join("run"), 0o755).unwrap();
    // SAFETY: it cannot fail; other tests set their modes explicitly as well.
    let before = unsafe { libc::umask(0o077) };
    let result = folder.write(&[FileSpec {
        name: "info.json",
        content: b"{}",
        mode: 0o444,
    }]);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    result.unwrap();
    assert_eq!(mode(&folder.join("info.json")), 0o444);
}
