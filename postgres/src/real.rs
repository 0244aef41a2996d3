//! The operating system: the only place that runs programs and touches files.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, Meta, Program, User};

/// More of what a program said is not read.
const OUTPUT_LEN_MAX: u64 = 64 << 10;
/// Room for what the system knows of a user; it says when that is too little.
const ACCOUNT_LEN_MAX: usize = 64 << 10;
/// How long a program that closed its outputs may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The operating system's files and programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHost;

impl Host for RealHost {
    async fn run(&self, program: Program<'_>) -> io::Result<String> {
        let mut command = Command::new(program.path);
        command.args(program.arguments).env_clear();
        command.env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (*name, value)),
        );
        // The caller's folder may be one that the user cannot enter.
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        // SAFETY: takes nothing, cannot fail.
        if unsafe { libc::geteuid() } != program.user.uid {
            command.gid(program.user.gid).uid(program.user.uid);
        }
        let (answer, answered) = tokio::sync::oneshot::channel();
        let limit = program.limit;
        // Its own thread: a program takes longer than a turn of the caller's loop may.
        std::thread::Builder::new()
            .name("run".to_owned())
            .spawn(move || {
                // Nobody is interested any more when this fails.
                let _ = answer.send(run(command, limit));
            })?;
        let lost = |_| io::Error::other("the thread that waited for it has ended");
        answered.await.map_err(lost)?
    }

    fn user(&self, name: &str) -> io::Result<Option<User>> {
        let name = CString::new(name)?;
        let mut room = vec![0_u8; ACCOUNT_LEN_MAX];
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, `room` with its length.
        let error = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                room.as_mut_ptr().cast(),
                room.len(),
                &raw mut found,
            )
        };
        match (error, found.is_null()) {
            // Systems say these for a name that nobody has.
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, true) => Ok(None),
            (0, false) => {
                // SAFETY: the call says that it has filled the entry in.
                let entry = unsafe { entry.assume_init() };
                Ok(Some(User {
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                }))
            }
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn may_become(&self, user: User) -> bool {
        // SAFETY: takes nothing, cannot fail.
        let own = unsafe { libc::geteuid() };
        own == 0 || own == user.uid
    }

    fn inspect(&self, path: &Path) -> io::Result<Option<Meta>> {
        Ok(if_there(fs::metadata(path))?.map(|found| Meta {
            owner: User {
                uid: found.uid(),
                gid: found.gid(),
            },
            mode: found.mode() & 0o7777,
            is_dir: found.is_dir(),
        }))
    }

    fn is_empty(&self, path: &Path) -> io::Result<bool> {
        Ok(if_there(fs::read_dir(path))?.is_none_or(|mut entries| entries.next().is_none()))
    }

    fn read(&self, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let Some(file) = if_there(File::open(path))? else {
            return Ok(None);
        };
        file.take(len_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn read_own(&self, path: &Path, owners: &[User], len_max: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match opened {
            // What the system says of a link that it may not follow (`ELOOP`) misleads.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(io::Error::other("it is a link: expected a regular file"));
            }
            opened => opened,
        };
        let Some(file) = if_there(file)? else {
            return Ok(None);
        };
        let found = file.metadata()?;
        if !found.is_file() {
            let kind = kind_of(&found.file_type());
            let problem = format!("it is {kind}: expected a regular file");
            return Err(io::Error::other(problem));
        }
        if !owners.iter().any(|owner| owner.uid == found.uid()) {
            let problem = format!("it belongs to the user {}", found.uid());
            return Err(io::Error::other(problem));
        }
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32, owner: Option<User>) -> io::Result<()> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut fresh = std::ffi::OsString::from(".");
        fresh.push(name);
        fresh.push(".new");
        let fresh = path.with_file_name(fresh);
        // What a crash left behind.
        if_there(fs::remove_file(&fresh))?;
        let written = write_new(&fresh, bytes, mode, owner).and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn make_dir(&self, path: &Path, mode: u32, owner: User) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        change_owner(&folder, owner)?;
        folder.set_permissions(Permissions::from_mode(mode))
    }

    fn disk_free(&self, path: &Path) -> io::Result<u64> {
        let there = path
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let there = CString::new(there.as_os_str().as_bytes())?;
        let mut found = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: both pointers are valid for the call.
        if unsafe { libc::statvfs(there.as_ptr(), found.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call says that it has filled it in.
        let found = unsafe { found.assume_init() };
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind_of(found: &fs::FileType) -> &'static str {
    match found {
        found if found.is_dir() => "a folder",
        found if found.is_fifo() => "a pipe",
        found if found.is_block_device() || found.is_char_device() => "a device",
        _ => "something else",
    }
}

/// To another owner only where it is another one: who is not root may keep what is its own.
fn change_owner(file: &File, owner: User) -> io::Result<()> {
    let found = file.metadata()?;
    match (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        true => Ok(()),
        false => fchown(file, Some(owner.uid), Some(owner.gid)),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<User>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    if let Some(owner) = owner {
        change_owner(&file, owner)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn run(mut command: Command, limit: Duration) -> io::Result<String> {
    let deadline = Instant::now() + limit;
    let (mut output, both) = io::pipe()?;
    command.stdout(both.try_clone()?).stderr(both);
    let mut child = command.spawn()?;
    // It holds the writing ends, and the end of what is said would never come.
    drop(command);
    let mut said = Vec::new();
    let read = read_until(&mut output, &mut said, deadline);
    if read.is_err() {
        // It still holds its outputs, so it has not ended, and its number is its own.
        let _ = child.kill();
    }
    end(&mut child);
    read.map(|()| String::from_utf8_lossy(&said).into_owned())
}

fn read_until(
    output: &mut io::PipeReader,
    said: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut ready = libc::pollfd {
            fd: output.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let left_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut ready, 1, left_ms) } {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it did not end in time",
                ));
            }
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
            _ => {}
        }
        let mut chunk = [0; 4096];
        match output.read(&mut chunk)? {
            0 => return Ok(()),
            len if said.len() as u64 <= OUTPUT_LEN_MAX => {
                said.extend_from_slice(chunk.get(..len).unwrap_or_default());
            }
            // Read on, or it would block; what it says is enough.
            _ => {}
        }
    }
}

/// Wait for a program that is about to end. Somebody else may have reaped it.
fn end(child: &mut Child) {
    let deadline = Instant::now() + END_LIMIT;
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use holdfast_io::real::block_on;

    use super::*;

    fn own() -> User {
        // SAFETY: take nothing, cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        User { uid, gid }
    }

    fn run_shell(script: &str, limit_ms: u64) -> io::Result<String> {
        let program = Program {
            path: Path::new("sh"),
            arguments: &["-c", script],
            environment: &[("GREETING", "hello".as_ref())],
            user: own(),
            limit: Duration::from_millis(limit_ms),
        };
        block_on(RealHost.run(program)).unwrap()
    }

    #[test]
    fn a_program_says_what_it_says_on_both_outputs() {
        assert_eq!(
            run_shell("echo $GREETING; echo you >&2; exit 3", 5000).unwrap(),
            "hello\nyou\n"
        );
        let long = run_shell("yes | head -c 1000000", 5000).unwrap();
        assert!(long.len() < 80 << 10, "{}", long.len());
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = run_shell("sleep 100", 50).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn files_are_written_as_a_whole_with_their_mode() {
        let folder = std::env::temp_dir().join(format!("holdfast-pghost-{}", std::process::id()));
        RealHost
            .make_dir(&folder.join("a/b"), 0o700, own())
            .unwrap();
        let file = folder.join("a/b/c");
        for text in [b"long text".as_slice(), b"short"] {
            RealHost.write(&file, text, 0o600, Some(own())).unwrap();
            assert_eq!(RealHost.read(&file, 100).unwrap().unwrap(), text);
        }
        let meta = RealHost.inspect(&file).unwrap().unwrap();
        assert_eq!((meta.mode, meta.owner, meta.is_dir), (0o600, own(), false));
        assert_eq!(
            fs::read_dir(folder.join("a/b")).unwrap().count(),
            1,
            "nothing is left over"
        );
        assert!(RealHost.disk_free(&folder.join("not/there")).unwrap() > 0);
        assert!(RealHost.is_empty(&folder.join("none")).unwrap());
        assert_eq!(RealHost.inspect(&folder.join("none")).unwrap(), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn in_a_folder_of_others_only_a_regular_file_of_theirs_is_read() {
        let folder = std::env::temp_dir().join(format!("holdfast-pgown-{}", std::process::id()));
        RealHost.make_dir(&folder, 0o700, own()).unwrap();
        let at = |name: &str| folder.join(name);
        RealHost
            .write(&at("file"), b"15\n", 0o600, Some(own()))
            .unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        RealHost.make_dir(&at("folder"), 0o700, own()).unwrap();
        let pipe = CString::new(at("pipe").as_os_str().as_bytes()).unwrap();
        // SAFETY: a path that ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let read = |name: &str, owner| RealHost.read_own(&at(name), &[owner], 100);
        assert_eq!(read("file", own()).unwrap().unwrap(), b"15\n");
        assert_eq!(read("none", own()).unwrap(), None);
        let other = User {
            uid: own().uid + 1,
            gid: 0,
        };
        for (name, owner, said) in [
            ("link", own(), "it is a link"),
            ("folder", own(), "it is a folder"),
            ("pipe", own(), "it is a pipe"),
            ("file", other, "it belongs to the user"),
        ] {
            let error = read(name, owner).unwrap_err().to_string();
            assert!(error.contains(said), "{name}: {error}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(RealHost.user("root").unwrap().map(|user| user.uid), Some(0));
        assert_eq!(RealHost.user("nobody-has-this-name").unwrap(), None);
    }
}
