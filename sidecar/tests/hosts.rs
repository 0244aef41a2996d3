//! A hosts file that is mounted, as in a container.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null;

use common::{Folder, root};
use holdfast_sidecar::hosts::{self, Written};

fn mount(from: Option<&Path>, to: &Path, flags: libc::c_ulong) {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (from, to) = (from.map(text), text(to));
    let from = from.as_ref().map_or(null(), |from| from.as_ptr());
    // SAFETY: texts that end with a zero and outlive the call, or null where nothing is read.
    let result = unsafe { libc::mount(from, to.as_ptr(), null(), flags, null()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_mounted_file_is_written_in_its_place() {
    if !root() {
        return;
    }
    let folder = Folder::new("mounted");
    let (under, path) = (folder.file("under"), folder.file("hosts"));
    fs::write(&under, "127.0.0.1 localhost\n").unwrap();
    fs::write(&path, "").unwrap();
    // SAFETY: a flag; the mounts are then this thread's alone.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE);
    mount(Some(&under), &path, libc::MS_BIND);
    let names = [("127.50.0.1".parse().unwrap(), "worker-1".to_owned())];
    assert_eq!(hosts::write(&path, &names).unwrap(), Written::InPlace);
    assert_eq!(hosts::write(&path, &names).unwrap(), Written::Unchanged);
    let text = fs::read_to_string(&under).unwrap();
    assert!(text.starts_with("127.0.0.1 localhost\n"), "{text}");
    assert!(text.contains("127.50.0.1 worker-1\n"), "{text}");
    assert_eq!(hosts::write(&path, &[]).unwrap(), Written::InPlace);
    assert_eq!(fs::read_to_string(&under).unwrap(), "127.0.0.1 localhost\n");
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a text that ends with a zero.
    unsafe { libc::umount(path.as_ptr()) };
}
