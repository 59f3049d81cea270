//! A local network on one machine: hosts in network namespaces on a bridge, each with an address of its own, and what can go wrong on
//! the way between them. Root only; needs iproute2 and nftables, and python3 for delays.
//!
//! Names hold the process id, so that several runs can be beside each other; what a run that was killed left behind the next removes.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const DELAY: &str = include_str!("../benchmarks/delay.py");
const START: &str = "backmesh-lan-";
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// A local network; it goes when this is dropped.
#[derive(Debug)]
pub struct Lan {
    name: String,
    addresses: Vec<Ipv4Addr>,
    relays: Vec<Child>,
    rules: Vec<String>,
}

impl Lan {
    /// A network of so many hosts.
    ///
    /// # Errors
    /// Where the system does not make it.
    pub fn new(hosts: u8) -> Result<Self> {
        sweep();
        let name = format!("{START}{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let addresses = (1..=hosts).map(|host| Ipv4Addr::new(10, 78, 0, host)).collect();
        let lan = Self { name, addresses, relays: Vec::new(), rules: Vec::new() };
        let switch = lan.switch();
        ip(&format!("netns add {switch}\n"))?;
        ip_in(&switch, "link set lo up\nlink add br0 type bridge\nlink set br0 up\n")?;
        for host in 0..usize::from(hosts) {
            let there = lan.namespace(host);
            ip(&format!("netns add {there}\nlink add eth0 netns {there} type veth peer name p{host} netns {switch}\n"))?;
            ip_in(&switch, &format!("link set p{host} master br0 up\n"))?;
            lan.bring_up(host)?;
        }
        Ok(lan)
    }

    fn bring_up(&self, host: usize) -> Result<()> {
        let address = self.addresses[host];
        ip_in(&self.namespace(host), &format!("link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\n"))
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-h{host}", self.name)
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.addresses[host]
    }

    /// Nothing goes from one host to another; the way back stays.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn cut_one_way(&mut self, from: usize, to: usize) -> Result<()> {
        self.rule(format!("iifname p{from} oifname p{to} drop"))
    }

    /// Nothing goes between two hosts.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn cut(&mut self, a: usize, b: usize) -> Result<()> {
        self.cut_one_way(a, b)?;
        self.cut_one_way(b, a)
    }

    /// Nothing goes to a host or from it.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn isolate(&mut self, host: usize) -> Result<()> {
        self.rule(format!("iifname p{host} drop"))?;
        self.rule(format!("oifname p{host} drop"))
    }

    /// No TCP goes to a host or from it; UDP does.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn drop_tcp(&mut self, host: usize) -> Result<()> {
        self.rule(format!("iifname p{host} ip protocol tcp drop"))?;
        self.rule(format!("oifname p{host} ip protocol tcp drop"))
    }

    /// So many of a hundred packets are lost, wherever they go.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn lose(&mut self, percent: u8) -> Result<()> {
        self.rule(format!("numgen random mod 100 < {percent} drop"))
    }

    /// All that was cut or lost goes through again.
    ///
    /// # Errors
    /// Where nft does not do it.
    pub fn heal(&mut self) -> Result<()> {
        self.rules.clear();
        self.apply()
    }

    fn rule(&mut self, rule: String) -> Result<()> {
        self.rules.push(rule);
        self.apply()
    }

    /// All rules at once: there is no moment without those that were there.
    fn apply(&self) -> Result<()> {
        let rules: String = self.rules.iter().map(|rule| format!("add rule bridge faults way {rule}\n")).collect();
        let table = "add table bridge faults\ndelete table bridge faults\nadd table bridge faults\n\
                     add chain bridge faults way { type filter hook forward priority 0; policy accept; }\n";
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.switch(), "nft", "-f", "-"]);
        feed(nft, &format!("{table}{rules}"))
    }

    /// A host sends and receives so many Mbit/s.
    ///
    /// # Errors
    /// Where tc does not do it.
    pub fn rate(&self, host: usize, megabits: u32) -> Result<()> {
        let shape = |namespace: &str, device: &str| {
            let mut tc = Command::new("tc");
            tc.args(["-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf"]);
            tc.args(["rate", &format!("{megabits}mbit"), "burst", "32kbit", "latency", "200ms"]);
            feed(tc, "")
        };
        shape(&self.namespace(host), "eth0")?;
        shape(&self.switch(), &format!("p{host}"))
    }

    /// Puts a line with so many milliseconds there and back between a host and the others, before anything runs there.
    ///
    /// # Errors
    /// Where the relay does not start.
    pub fn delay(&mut self, host: usize, round_trip_ms: u32) -> Result<()> {
        let (switch, there) = (self.switch(), self.namespace(host));
        ip_in(&switch, &format!("link del p{host}\n"))?;
        let mut script = tempfile::NamedTempFile::new()?;
        script.write_all(DELAY.as_bytes())?;
        let mut relay = Command::new("python3");
        relay.arg(script.path()).args([&switch, &there, &format!("p{host}"), &(f64::from(round_trip_ms) / 2.0).to_string()]);
        let relay = relay.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("python3 does not start")?;
        self.relays.push(relay);
        let mut ready = String::new();
        let output = self.relays.last_mut().and_then(|relay| relay.stdout.take()).context("the relay's output is a pipe")?;
        BufReader::new(output).read_line(&mut ready)?;
        ensure!(ready.trim() == "ready", "the relay that delays did not start");
        ip_in(&switch, &format!("link set p{host} master br0 up\n"))?;
        ip_in(&there, &format!("link set p{host} name eth0\n"))?;
        self.bring_up(host)
    }

    /// Gives a host another address, as a router does that was restarted; the old one is gone.
    ///
    /// # Errors
    /// Where the system does not do it.
    pub fn move_host(&mut self, host: usize) -> Result<()> {
        let old = self.addresses[host];
        let [a, b, c, d] = old.octets();
        let new = Ipv4Addr::new(a, b, c + 1, d);
        self.addresses[host] = new;
        ip_in(&self.namespace(host), &format!("addr del {old}/16 dev eth0\naddr add {new}/16 dev eth0\n"))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            // It ends when its input does.
            drop(relay.stdin.take());
            relay.wait().ok();
        }
        remove(|namespace| namespace.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-')));
    }
}

/// Removes what runs left behind that are no more.
fn sweep() {
    remove(|namespace| {
        let process = namespace.strip_prefix(START).and_then(|rest| rest.split('-').next());
        process.is_some_and(|process| !PathBuf::from("/proc").join(process).exists())
    });
}

fn remove(is_meant: impl Fn(&str) -> bool) {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        if let Some(namespace) = line.split_whitespace().next().filter(|namespace| is_meant(namespace)) {
            Command::new("ip").args(["netns", "del", namespace]).status().ok();
        }
    }
}

fn ip(commands: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]);
    feed(ip, commands)
}

fn ip_in(namespace: &str, commands: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-n", namespace, "-batch", "-"]);
    feed(ip, commands)
}

fn feed(mut command: Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("ip, tc or nft is missing")?;
    child.stdin.take().context("the input is a pipe")?.write_all(input.as_bytes())?;
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        bail!("{command:?} failed: {}\n{input}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(())
}
