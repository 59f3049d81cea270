//! What an operating system does differently, for the node: private files, locks, the clock, the machine's id and name, free space,
//! the path of the control socket; below `os/`, priorities and what the desktop says. Nothing outside names `std::os::unix`.

pub mod background;
pub mod desktop;

use backmesh_format::UnixMillis;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The bits of a mode that let anyone but the owner in.
const OTHERS: u32 = 0o077;

/// The bytes of a path.
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The path with these bytes.
pub fn path_from_bytes(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Creates a file that only its owner can read.
///
/// # Errors
/// `AlreadyExists` where something is there.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Refuses a link, which leads to a file that is not ours to write over.
///
/// # Errors
/// As where a file is opened without following links.
pub fn refuse_link(path: &Path) -> io::Result<()> {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if is_link { Err(rustix::io::Errno::LOOP.into()) } else { Ok(()) }
}

/// The mode of a file, if it is there and lets anyone but its owner in.
///
/// # Errors
/// Where the system refuses.
pub fn exposed_mode(path: &Path) -> io::Result<Option<u32>> {
    let mode = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?.mode(),
    };
    Ok((mode & OTHERS != 0).then_some(mode & 0o7777))
}

/// Makes a file's or folder's names durable.
///
/// # Errors
/// Where the system refuses.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether an error means that a file system knows no locks.
pub fn has_no_locks(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(number, Some(rustix::io::Errno::NOLCK | rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS))
}

/// The space that this user may still fill on the disk of `path`, in bytes.
///
/// # Errors
/// Where the system refuses.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The time by this machine's clock.
pub fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis::try_from(since.as_millis()).unwrap_or(UnixMillis::MAX)
}

/// Whether the process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the system calls this machine, for ever; none in some containers. `BACKMESH_MACHINE_ID` replaces it.
pub fn system_machine_id() -> Option<String> {
    let given = std::env::var("BACKMESH_MACHINE_ID").ok();
    let kept = || ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| std::fs::read_to_string(path).ok());
    given.or_else(kept).map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The machine's name, up to its first dot.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().filter(|short| !short.is_empty()).unwrap_or("unnamed").to_owned()
}

/// A path of the control socket that is short enough for the system, valid while this lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Keeps the number in a path below /proc/self/fd meaning the folder.
    _folder: Option<File>,
}

/// The longest path of a socket is 107 bytes on Linux, 103 on macOS.
const SOCKET_PATH_BYTES_MAX: usize = 100;

impl SocketPath {
    /// The socket `name` in `folder`: where that is too long, by way of an open descriptor of the folder.
    ///
    /// # Errors
    /// Where the folder cannot be opened.
    pub fn new(folder: &Path, name: &str) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let path = folder.join(name);
        if path_bytes(&path).len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let folder = File::open(folder)?;
        Ok(Self { path: format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()).into(), _folder: Some(folder) })
    }
}

impl SocketPath {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl std::ops::Deref for SocketPath {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for SocketPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// A connection to the agent.
pub type ControlStream = std::os::unix::net::UnixStream;

/// Connects to the agent; none where nobody listens.
///
/// # Errors
/// Where the system refuses for any other reason.
pub fn connect(socket: &SocketPath) -> io::Result<Option<ControlStream>> {
    match ControlStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Listens at a socket that only the owner can connect to.
///
/// # Errors
/// Where the system refuses, or something is there already.
pub fn bind_private(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // Until the mode is set, the folder keeps others out.
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reads from a place in a file, whatever its position.
///
/// # Errors
/// Where the system refuses or the file ends before.
pub fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Keeps the process's memory, with its keys and what it reads, out of core dumps, also of those that a program of the system takes,
/// and from other processes of the same user. Where the system refuses nothing is lost but that.
pub fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Standard input without a buffer, which would keep what was read.
///
/// # Errors
/// Where it is closed.
pub fn stdin_unbuffered() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Allows the process as many open files as the system lets it have: some distributions begin with 1,024.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Starts the program anew in this process, as it was started; returns only where the system refuses. What is not to be inherited,
/// such as locks and sockets, is closed by the system.
pub fn start_again() -> io::Error {
    start_again_with(std::env::args_os().collect())
}

fn start_again_with(words: Vec<OsString>) -> io::Error {
    use std::os::unix::process::CommandExt;
    let mut words = words.into_iter();
    // Found also where the program's file was replaced or deleted meanwhile.
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words).exec()
}

/// How an argument begins that was hidden: the number of a descriptor follows, of a file in memory that holds it.
const HIDDEN_PREFIX: &str = "hidden-in-memory:";

/// Takes an argument that is a secret out of the list of processes: the program starts anew in this process, with another word in its
/// place. Returns only where that cannot be done.
///
/// # Errors
/// Where the system refuses.
pub fn hide_argument(secret: &str) -> io::Result<std::convert::Infallible> {
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::os::fd::AsRawFd;
    // Inherited on purpose.
    let mut file = File::from(memfd_create("argument", MemfdFlags::empty())?);
    io::Write::write_all(&mut file, secret.as_bytes())?;
    let hidden = OsString::from(format!("{HIDDEN_PREFIX}{}", file.as_raw_fd()));
    let words = std::env::args_os().map(|word| if word == secret { hidden.clone() } else { word }).collect();
    Err(start_again_with(words))
}

/// What [`hide_argument`] has hidden behind a word; none for any other word.
///
/// # Errors
/// Where it is not there.
pub fn hidden_argument(word: &str) -> Option<io::Result<File>> {
    let number: u32 = word.strip_prefix(HIDDEN_PREFIX)?.parse().ok()?;
    Some(File::open(format!("/proc/self/fd/{number}")))
}

/// Tells a service manager that the agent is up.
pub fn notify_ready() {
    notify(b"READY=1");
}

/// Tells a service manager that the agent is ending.
pub fn notify_stopping() {
    notify(b"STOPPING=1");
}

/// The protocol of `sd_notify(3)`: one datagram to the socket named by the environment. Nobody may be listening.
fn notify(message: &[u8]) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let _ = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).and_then(|address| socket.send_to_addr(message, &address)),
        None => socket.send_to(message, &name),
    };
}

/// The major and the minor number of a device.
pub fn device_numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_work_however_deep_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for folder in [folder.path().to_owned(), folder.path().join("d".repeat(150))] {
            std::fs::create_dir_all(&folder).unwrap();
            let path = SocketPath::new(&folder, "s.sock").unwrap();
            assert!(connect(&path).unwrap().is_none());
            let listener = bind_private(path.path()).unwrap();
            let file = folder.join("s.sock");
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
            assert!(connect(&path).unwrap().is_some());
            drop(listener);
            assert!(connect(&SocketPath::new(&folder, "s.sock").unwrap()).unwrap().is_none());
        }
    }
}
