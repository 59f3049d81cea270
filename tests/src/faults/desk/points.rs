//! When a process is killed.

use crate::tree::Numbers;
use std::collections::HashMap;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// The calls by which a process changes what is on the disk.
const CALLS: [&str; 8] = ["write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "mkdir"];

/// A moment in the run of a process.
#[derive(Debug, Clone)]
pub(super) enum Point {
    /// So many milliseconds after it began.
    After(u64),
    /// Once it has written so many bytes.
    Written(u64),
    /// When it makes this call for the n-th time.
    Call(&'static str, u64),
}

/// How often each kind of run makes each call, as far as it turned out: points that no run comes to are not tried again and again.
#[derive(Debug, Default)]
pub(super) struct Calls(HashMap<(&'static str, &'static str), u64>);

impl Calls {
    /// Any point of a run that takes about so long, writes about so much, and calls the system about so often.
    pub(super) fn any(&self, kind: &'static str, numbers: &mut Numbers, (millis, bytes, calls): (u64, u64, u64)) -> Point {
        match numbers.number() >> 20 & 3 {
            0 => Point::After(numbers.number() % millis.max(1)),
            1 => Point::Written(numbers.number() % bytes.max(1)),
            _ => self.call(kind, numbers, calls),
        }
    }

    /// The n-th of any call that changes the disk.
    pub(super) fn call(&self, kind: &'static str, numbers: &mut Numbers, calls: u64) -> Point {
        let known = |call: &&str| self.0.get(&(kind, *call)).copied().unwrap_or(calls);
        let made: Vec<&str> = CALLS.iter().copied().filter(|call| known(call) > 0).collect();
        let call = made.get((numbers.number() >> 13) as usize % made.len().max(1)).copied().unwrap_or(CALLS[0]);
        Point::Call(call, 1 + numbers.number() % known(&call).max(1))
    }

    /// Learns whether a run came to its point.
    pub(super) fn learn(&mut self, kind: &'static str, point: &Point, hit: bool) {
        if let (Point::Call(call, nth), false) = (point, hit) {
            self.0.insert((kind, *call), nth - 1);
        }
    }
}

impl Point {
    /// The words before a command that let it be killed there; none where a watcher has to do it.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let Self::Call(call, nth) = self else { return Vec::new() };
        // The call of a name that this machine's libc does not use comes as its sibling.
        let calls = match *call {
            "rename" => "rename,renameat,renameat2",
            "unlink" => "unlink,unlinkat",
            "mkdir" => "mkdir,mkdirat",
            other => other,
        };
        let inject = format!("inject={calls}:signal=KILL:when={nth}");
        ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject]
            .map(str::to_owned)
            .to_vec()
    }

    /// Waits for the point or for `over`; whether it was the point. What strace does needs no watcher.
    pub(super) fn wait(&self, pid: u32, mut over: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        let written_before = written(pid);
        loop {
            let is_there = match self {
                Self::After(millis) => began.elapsed() >= Duration::from_millis(*millis),
                Self::Written(bytes) => written(pid).saturating_sub(written_before) >= *bytes,
                Self::Call(..) => !is_alive(pid),
            };
            if is_there || over() {
                return is_there;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The bytes that a process has given to the system to write.
fn written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

/// Whether any thread of a process is left: its locks go with the last.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    Path::new(&format!("/proc/{pid}")).exists() && (threads > 1 || !stat.contains(") Z"))
}

/// Kills a process that this one, or strace for it, started, and waits until it is gone with its locks.
pub(super) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    let began = Instant::now();
    while is_alive(pid) && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process that strace runs, or the process itself where it is no strace.
pub(super) fn traced(pid: u32) -> u32 {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() != "strace" {
        return pid;
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().find_map(|child| child.parse().ok()).unwrap_or(pid)
}

/// Runs a command of the command line that is killed at a point, and says whether it was before it had ended.
pub(super) fn run_killed(mut child: Child, point: &Point) -> bool {
    let pid = traced(child.id());
    let mut ended = None;
    let killed = point.wait(pid, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some()
    });
    if killed && !matches!(point, Point::Call(..)) {
        kill(pid);
    }
    let status = ended.or_else(|| child.wait().ok());
    // strace ends as its child did: by the signal.
    status.is_some_and(|status| status.code().is_none())
}
