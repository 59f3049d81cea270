//! What a process used: wall, CPU, memory. Everything is read from /proc.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks of /proc a second; the same on every Linux.
const TICKS: f64 = 100.0;
/// How often the peak memory of a running command is read.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What some work used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// Seconds on the wall.
    pub(crate) wall: f64,
    /// Seconds of CPU, user and system.
    pub(crate) cpu: f64,
    /// The most memory resident at once, in bytes.
    pub(crate) peak: u64,
}

/// Runs a command to its end, with what it said on standard output. Its CPU is what this process's ended children used meanwhile, so
/// nothing else may end at the same time.
pub(crate) fn run(command: &mut Command) -> Result<(Used, String)> {
    run_any(command, &[0])
}

/// The same for a command that may end with any of some codes.
pub(crate) fn run_any(command: &mut Command, codes: &[i32]) -> Result<(Used, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let before = children_cpu()?;
    let began = Instant::now();
    let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let said = child.stdout.take().map(drain);
    let complained = child.stderr.take().map(drain);
    let mut peak = 0;
    let status = loop {
        peak = memory(child.id(), "VmHWM").unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let used = Used { wall: began.elapsed().as_secs_f64(), cpu: children_cpu()? - before, peak };
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let (said, complained) = (text(said), text(complained));
    if !status.code().is_some_and(|code| codes.contains(&code)) {
        let last: Vec<&str> = complained.lines().chain(said.lines()).filter(|line| !line.is_empty()).collect();
        bail!("{name} ended with {status}: {}", last[last.len().saturating_sub(3)..].join("; "));
    }
    Ok((used, said))
}

/// Starts a command, saying which if it cannot be.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.spawn().with_context(|| format!("{name} cannot be started"))
}

fn drain(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What cannot be read was not said.
        from.read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// What a small command says, or nothing.
pub(crate) fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn fields(pid: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is not there"))?;
    // The name may contain anything, so what follows its last bracket is read: field 3 and on.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn children_cpu() -> Result<f64> {
    let fields = fields("self")?;
    Ok((fields[13] + fields[14]) as f64 / TICKS)
}

/// Seconds of CPU that a running process has used.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let fields = fields(&pid.to_string())?;
    Ok((fields[11] + fields[12]) as f64 / TICKS)
}

/// A line of /proc/PID/status that counts kB, in bytes.
pub(crate) fn memory(pid: u32, line: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix("kB"));
    Ok(found.with_context(|| format!("no {line}"))?.trim().parse::<u64>()? << 10)
}

/// Forgets the peak memory of a process of ours, so that the next step has its own.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// The model of the processor, and how many there are.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("unknown", |(_, name)| name);
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    format!("{} x {}, {} GB of memory", count, model.trim(), kib / 976_563)
}

/// The bytes of all files below a folder, by their lengths.
pub(crate) fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                sum += entry.metadata()?.len();
            }
        }
    }
    Ok(sum)
}

/// Lets everything written reach the disk, so that one program does not pay for another.
pub(crate) fn settle() -> Result<()> {
    run(&mut Command::new("sync")).map(drop)
}

/// The one in the middle by CPU.
pub(crate) fn middle(mut used: Vec<Used>) -> Result<Used> {
    used.sort_by(|one, other| one.cpu.total_cmp(&other.cpu));
    used.get(used.len() / 2).copied().context("nothing was measured")
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
