//! Two places with a network of their own between them, made of network namespaces: at full speed, or 100 Mbit/s with a delay. Root
//! only.

use crate::group::Site;
use crate::measure;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const NAMESPACES: [&str; 2] = ["backmesh-bench-a", "backmesh-bench-b"];
const ADDRESSES: [&str; 2] = ["10.177.0.1", "10.177.0.2"];
const DEVICE: &str = "bench0";
const DELAY: &str = include_str!("delay.py");

/// The two places; they go when this is dropped.
pub(crate) struct Line {
    /// Where the owner is, and where the holders are.
    pub(crate) sites: [Site; 2],
    relay: Option<Child>,
}

impl Line {
    /// A cable: as fast as the machine.
    pub(crate) fn fast() -> Result<Self> {
        let line = Self::namespaces()?;
        let [a, b] = NAMESPACES;
        ip(&["link", "add", DEVICE, "netns", a, "type", "veth", "peer", "name", DEVICE, "netns", b])?;
        line.bring_up()?;
        Ok(line)
    }

    /// So many Mbit/s each way, and so many milliseconds to the other end and back.
    pub(crate) fn slow(work: &Path, megabits: u32, round_trip_ms: u32) -> Result<Self> {
        let mut line = Self::namespaces()?;
        let script = work.join("delay.py");
        std::fs::write(&script, DELAY)?;
        let mut relay = Command::new("python3");
        relay.arg(&script).args(NAMESPACES).args([DEVICE, &(f64::from(round_trip_ms) / 2.0).to_string()]);
        let relay = line.relay.insert(measure::start(relay.stdin(Stdio::piped()).stdout(Stdio::piped()))?);
        let mut ready = String::new();
        BufReader::new(relay.stdout.take().context("the relay's output is a pipe")?).read_line(&mut ready)?;
        if ready.trim() != "ready" {
            bail!("the relay that delays did not start");
        }
        line.bring_up()?;
        for namespace in NAMESPACES {
            let rate = format!("{megabits}mbit");
            let shape = ["qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", &rate, "burst", "128kbit", "latency", "50ms"];
            measure::run(Command::new("tc").args(["-n", namespace]).args(shape))?;
        }
        Ok(line)
    }

    fn namespaces() -> Result<Self> {
        if measure::said("id", &["-u"]) != "0" {
            bail!("network namespaces want root");
        }
        let site = |at: usize| Site { namespace: Some(NAMESPACES[at].to_owned()), address: ADDRESSES[at].to_owned() };
        let line = Self { sites: [site(0), site(1)], relay: None };
        NAMESPACES.iter().try_for_each(|namespace| ip(&["netns", "add", namespace]))?;
        Ok(line)
    }

    fn bring_up(&self) -> Result<()> {
        for (namespace, address) in NAMESPACES.iter().zip(ADDRESSES) {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "up"])?;
        }
        Ok(())
    }

    /// Bytes that the owner's interface has sent.
    pub(crate) fn bytes_sent(&self) -> Result<u64> {
        let (_, table) = measure::run(self.sites[0].program("cat").arg("/proc/net/dev"))?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
        let field = line.and_then(|line| line.split_whitespace().nth(8)).context("the interface has no counters")?;
        Ok(field.parse()?)
    }

    /// Bytes a second that iperf3 moves from the owner's place to the holders'.
    pub(crate) fn iperf3(&self, seconds: u32) -> Result<f64> {
        let [owner, holders] = &self.sites;
        let mut server =
            measure::start(holders.program("iperf3").args(["--server", "--one-off"]).stdin(Stdio::null()).stdout(Stdio::null()))?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        let seconds = seconds.to_string();
        let client = measure::run(owner.program("iperf3").args(["--client", &holders.address, "--time", &seconds, "--json"]));
        if client.is_err() {
            server.kill()?;
        }
        server.wait()?;
        let report: serde_json::Value = serde_json::from_str(&client?.1)?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gave no figure")?;
        Ok(bits / 8.0)
    }
}

fn ip(args: &[&str]) -> Result<()> {
    measure::run(Command::new("ip").args(args)).map(drop)
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(mut relay) = self.relay.take() {
            // It ends when its input does; where it has ended before, that is as good.
            drop(relay.stdin.take());
            relay.wait().ok();
        }
        NAMESPACES.iter().for_each(|namespace| drop(measure::said("ip", &["netns", "delete", namespace])));
    }
}
