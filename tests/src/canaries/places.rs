//! Where canaries are looked for besides files: packets, memory, the list of processes.

use super::{Found, Search};
use crate::{signal, wait_for};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// All packets to and from one address of this machine, as tcpdump writes them.
pub struct Capture {
    tcpdump: Child,
    said: PathBuf,
    /// The file of packets.
    pub file: PathBuf,
}

impl Capture {
    /// Begins; files go to `folder`.
    ///
    /// # Errors
    /// Where tcpdump does not run.
    pub fn begin(folder: &Path, address: &str) -> Result<Self> {
        let (file, said) = (folder.join("packets.pcap"), folder.join("tcpdump.said"));
        let mut command = Command::new("tcpdump");
        command.args(["-i", "lo", "-U", "-n", "-s", "0", "-B", "131072", "-Z", "root", "-w"]).arg(&file).args(["host", address]);
        let tcpdump = command.stdout(Stdio::null()).stderr(fs::File::create(&said)?).spawn().context("tcpdump does not start")?;
        let capture = Self { tcpdump, said, file };
        wait_for("tcpdump", Duration::from_secs(30), || Ok(fs::read_to_string(&capture.said)?.contains("listening on")))?;
        Ok(capture)
    }

    /// Ends; how many packets were seen. None may have been missed.
    ///
    /// # Errors
    /// Where tcpdump failed or missed some.
    pub fn end(mut self) -> Result<u64> {
        signal(&self.tcpdump, Signal::INT);
        self.tcpdump.wait()?;
        let said = fs::read_to_string(&self.said)?;
        let count = |what: &str| {
            let line = said.lines().find(|line| line.ends_with(what))?;
            line.split(' ').next()?.parse::<u64>().ok()
        };
        ensure!(count("dropped by kernel") == Some(0), "tcpdump missed packets: {said}");
        count("captured").or_else(|| count("packet captured")).context("tcpdump tells no count")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.tcpdump.kill().ok();
        self.tcpdump.wait().ok();
    }
}

/// The memory of a process as a file, with all that it has mapped.
///
/// # Errors
/// Where gcore fails.
pub fn memory_image(pid: u32, folder: &Path, name: &str) -> Result<PathBuf> {
    let prefix = folder.join(name);
    let output =
        Command::new("gcore").arg("-a").arg("-o").arg(&prefix).arg(pid.to_string()).output().context("gcore does not start")?;
    let mut file = prefix.into_os_string();
    file.push(format!(".{pid}"));
    let file = PathBuf::from(file);
    ensure!(file.exists(), "gcore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(file)
}

/// What lists of processes showed for as long as this lives: arguments and environments of all processes, looked at again and again.
pub struct Processes {
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    looking: Option<JoinHandle<()>>,
}

impl Default for Processes {
    fn default() -> Self {
        let (seen, ended) = (Arc::<Mutex<BTreeSet<Vec<u8>>>>::default(), Arc::new(AtomicBool::new(false)));
        let looking = {
            let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    look(&seen);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        };
        Self { seen, ended, looking: Some(looking) }
    }
}

impl Processes {
    /// Searches what was seen so far.
    pub fn search(&self, search: &Search) -> Found {
        let mut found = Found::default();
        for text in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            search.bytes(Path::new("a process"), text, &mut found);
        }
        found
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.looking.take().map(JoinHandle::join);
    }
}

fn look(seen: &Mutex<BTreeSet<Vec<u8>>>) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if process.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
            for what in ["cmdline", "environ"] {
                let text = fs::read(process.path().join(what)).unwrap_or_default();
                seen.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
            }
        }
    }
}
