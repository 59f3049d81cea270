//! A workgroup with liars among its holders: what each behaviour costs an owner in time and memory, whether everything comes back, and
//! whether the liars are named. Every round has a new owner, who has no reason yet to mistrust anyone.

use super::{Behaviour, Liar};
use crate::tree::{differences, make_tree};
use crate::{Group, Node, text, wait_for};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The most memory that an attacked process may take, in KiB.
pub const MEMORY_KIB_MAX: u64 = 256 << 10;
/// How long it may take until what a liar did is shown: some of it is only known once a time limit has passed.
const NAMED_WITHIN: Duration = Duration::from_secs(20);

/// A workgroup, and what its owners back up.
pub struct Stage {
    /// The honest ones.
    pub group: Group,
    /// The others.
    pub liars: Vec<Liar>,
    data: PathBuf,
    owners: usize,
    joined: usize,
}

/// How one owner fared.
#[derive(Debug, Default)]
pub struct Act {
    /// How long its backup took.
    pub backup: Duration,
    /// How long its restore took.
    pub restore: Duration,
    /// Who used the processors in the meantime: for the backup, and for the restore.
    pub processor: [Processor; 2],
    /// The most memory its agent had, in KiB.
    pub memory_kib: u64,
    /// What it says the liars did, and how often.
    pub named: BTreeMap<String, u64>,
    /// What did not hold.
    pub failures: Vec<String>,
}

/// How much of the processors was used, in seconds of one of them. All share one machine here, so that what a liar burns of it for
/// nothing is missing to the owner: in a real workgroup it would be the liar's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processor {
    /// By the owner's agent.
    pub owner: f64,
    /// By the honest holders.
    pub holders: f64,
    /// By the liars, which run in this process.
    pub liars: f64,
}

impl Processor {
    fn since(self, before: Self) -> Self {
        let Self { owner, holders, liars } = before;
        Self { owner: self.owner - owner, holders: self.holders - holders, liars: self.liars - liars }
    }

    fn total(self) -> f64 {
        self.owner + self.holders + self.liars
    }
}

/// What a process has used so far, in seconds; 0 where it is gone.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th after it, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

impl Stage {
    /// So many honest holders and so many liars, and so many bytes to back up.
    ///
    /// # Errors
    /// Where they cannot be started.
    pub fn new(honest: usize, liars: usize, bytes: usize, seed: u64) -> Result<Self> {
        let group = Group::start(honest)?;
        let data = group.folder.path().join("data");
        make_tree(&data, seed, bytes)?;
        let mut stage = Self { group, liars: Vec::new(), data, owners: 0, joined: 0 };
        stage.renew(liars)?;
        Ok(stage)
    }

    /// New liars in the place of those that are there.
    ///
    /// # Errors
    /// Where they cannot join.
    pub fn renew(&mut self, count: usize) -> Result<()> {
        self.liars.clear();
        for _ in 0..count {
            self.joined += 1;
            self.liars.push(Liar::join(&self.group, &format!("liar{}", self.joined))?);
        }
        Ok(())
    }

    /// What is backed up.
    pub fn data(&self) -> &PathBuf {
        &self.data
    }

    /// A new owner, connected to all holders.
    ///
    /// # Errors
    /// Where it does not come to that.
    pub fn owner(&mut self) -> Result<Node> {
        self.owners += 1;
        let mut owner = self.group.blank(&format!("owner{}", self.owners));
        self.group.join(&owner, &self.group.token(&[]), "0").expect(0);
        owner.start()?;
        let holders = self.group.nodes.len() + self.liars.len();
        wait_for("all holders to be met", Duration::from_secs(60), || {
            let there = |peer: &&serde_json::Value| peer["connected"] == true && peer["offered_bytes"].as_u64() > Some(0);
            let peers = owner.peers();
            let liars = peers.iter().filter(there).filter(|peer| self.is_liar(peer)).count();
            Ok(liars == self.liars.len() && peers.iter().filter(there).count() >= holders)
        })?;
        owner.protect(&self.data);
        Ok(owner)
    }

    fn is_liar(&self, peer: &serde_json::Value) -> bool {
        self.liars.iter().any(|liar| peer["node"] == liar.node)
    }

    /// All liars do this to a node.
    pub fn turn(&self, behaviour: Behaviour, victim: &Node) {
        let address = victim.address();
        self.liars.iter().for_each(|liar| liar.turn(behaviour, &address));
    }

    /// What an owner says that the liars did.
    pub fn named(&self, owner: &Node) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for peer in owner.peers().iter().filter(|peer| self.is_liar(peer)) {
            for deed in peer["conduct"].as_array().into_iter().flatten() {
                let kind = deed["kind"].as_str().unwrap_or_default().to_owned();
                *named.entry(kind).or_default() += deed["count"].as_u64().unwrap_or(0);
            }
        }
        named
    }

    /// Lets a new owner back up and restore while the liars behave so.
    ///
    /// # Errors
    /// Where the stage breaks down; what does not hold is in the [`Act`].
    pub fn act(&mut self, behaviour: Behaviour) -> Result<Act> {
        let mut owner = self.owner()?;
        let mut act = Act::default();
        self.turn(behaviour, &owner);
        let (began, before) = (Instant::now(), self.processor(&owner));
        let outcome = owner.run(&["--json", "backup"]);
        act.backup = began.elapsed();
        act.processor[0] = self.processor(&owner).since(before);
        act.expect("the backup", &outcome);
        let target = self.group.folder.path().join("target");
        let (began, before) = (Instant::now(), self.processor(&owner));
        let outcome = owner.run(&["--json", "restore", "latest", "--to", text(&target)]);
        act.restore = began.elapsed();
        act.processor[1] = self.processor(&owner).since(before);
        act.expect("the restore", &outcome);
        act.same(self, &target)?;
        if behaviour == Behaviour::OldHead {
            self.old_head(&owner, &mut act)?;
        }
        if matches!(behaviour, Behaviour::Drops | Behaviour::Claims) {
            self.found_by_check(&owner, behaviour, &mut act);
        }
        self.await_names(&owner, behaviour, &mut act);
        act.memory_kib = owner.memory_peak_kib();
        if act.memory_kib > MEMORY_KIB_MAX {
            act.failures.push(format!("the owner took {} MiB", act.memory_kib >> 10));
        }
        self.turn(Behaviour::Honest, &owner);
        self.liars.iter().for_each(Liar::forget);
        owner.kill();
        if behaviour == Behaviour::Revoked {
            self.renew(self.liars.len())?;
        }
        Ok(act)
    }

    /// What everyone has used of the processors so far.
    fn processor(&self, owner: &Node) -> Processor {
        Processor {
            owner: owner.pid().map_or(0.0, processor_seconds),
            holders: self.group.nodes.iter().filter_map(Node::pid).map(processor_seconds).sum(),
            liars: processor_seconds(std::process::id()),
        }
    }

    fn await_names(&self, owner: &Node, behaviour: Behaviour, act: &mut Act) {
        let wanted = behaviour.named_as();
        let is_named = |named: &BTreeMap<String, u64>| wanted.is_empty() || wanted.iter().any(|kind| named.contains_key(*kind));
        let mut named = self.named(owner);
        wait_for("the liars to be named", NAMED_WITHIN, || {
            named = self.named(owner);
            Ok(is_named(&named))
        })
        .ok();
        if !is_named(&named) {
            act.failures.push(format!("the liars are named as {named:?}, not as any of {wanted:?}"));
        }
        if behaviour == Behaviour::Honest && named.keys().any(|kind| kind != "stalled") {
            act.failures.push(format!("honest members are named as {named:?}"));
        }
        act.named = named;
        for peer in owner.peers().iter().filter(|peer| !self.is_liar(peer)) {
            let deeds: Vec<&str> =
                peer["conduct"].as_array().into_iter().flatten().filter_map(|deed| deed["kind"].as_str()).collect();
            // A machine that is busy with all the others' processes may be late.
            if deeds.iter().any(|kind| !["stalled", "timed_out"].contains(kind)) {
                act.failures.push(format!("{} is honest and named as {deeds:?}", peer["name"]));
            }
        }
    }

    /// A second backup; its head is shown by the honest ones only, and a recovery finds it.
    fn old_head(&self, owner: &Node, act: &mut Act) -> Result<()> {
        let newest = self.data.join("newest");
        fs::write(&newest, &owner.name)?;
        act.expect("the second backup", &owner.run(&["--json", "backup"]));
        owner.run(&["--json", "check"]);
        let target = self.group.folder.path().join("recovered");
        let recovered = self.group.recover(&owner.name, &self.group.nodes[0], &["--to", text(&target)]);
        act.expect("the recovery", &recovered);
        act.same(self, &target)?;
        fs::remove_file(newest)?;
        Ok(())
    }

    /// What was acknowledged and is not there is found: by its list, or where that lies by reading.
    fn found_by_check(&self, owner: &Node, behaviour: Behaviour, act: &mut Act) {
        let words: &[&str] = match behaviour {
            Behaviour::Claims => &["--json", "check", "--read-data"],
            _ => &["--json", "check"],
        };
        let found = owner.run(words);
        if found.code != Some(3) {
            act.failures.push(format!("the check did not find what is missing: {found:?}"));
        }
    }
}

impl Act {
    fn expect(&mut self, what: &str, outcome: &crate::Outcome) {
        if outcome.code != Some(0) {
            self.failures.push(format!("{what} ended with {:?}: {} {}", outcome.code, outcome.stdout, outcome.stderr));
        }
    }

    fn same(&mut self, stage: &Stage, target: &PathBuf) -> Result<()> {
        let differences = differences(&stage.data, target);
        if !differences.is_empty() {
            let some: Vec<_> = differences.iter().take(5).collect();
            self.failures.push(format!("{} differences: {some:?}", differences.len()));
        }
        if target.exists() {
            fs::remove_dir_all(target)?;
        }
        Ok(())
    }
}

/// What to measure.
struct Options {
    behaviours: Vec<Behaviour>,
    rounds: usize,
    mebibytes: usize,
    seed: u64,
    ratio_max: f64,
}

const USAGE: &str = "usage: faults peers [--only BEHAVIOUR]... [--rounds N] [--mib N] [--seed N] [--ratio-max R]";

fn options(words: &[String]) -> Result<Options> {
    let mut options = Options { behaviours: Vec::new(), rounds: 3, mebibytes: 1024, seed: 1, ratio_max: 1.3 };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().map(String::as_str).unwrap_or_default();
        match word.as_str() {
            "--only" => {
                let names: Vec<&str> = Behaviour::ALL.iter().map(|behaviour| behaviour.name()).collect();
                let behaviour = Behaviour::named(value);
                options.behaviours.extend(behaviour);
                ensure!(behaviour.is_some(), "{value:?} is none of {}", names.join(", "));
            }
            "--rounds" => options.rounds = value.parse()?,
            "--mib" => options.mebibytes = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--ratio-max" => options.ratio_max = value.parse()?,
            _ => anyhow::bail!("{USAGE}"),
        }
    }
    if options.behaviours.is_empty() {
        options.behaviours = Behaviour::ALL[1..].to_vec();
    }
    Ok(options)
}

/// The median.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// One behaviour's runs, and as many without it.
#[derive(Default)]
struct Measured {
    clean: Vec<Act>,
    bad: Vec<Act>,
}

impl Measured {
    /// How long it took with liars; how many times as long as without; and from where to where the times without went.
    fn times(&self, of: fn(&Act) -> Duration) -> (f64, f64, String) {
        let seconds = |act: &Act| of(act).as_secs_f64();
        let (clean, bad) = (median(self.clean.iter().map(seconds)), median(self.bad.iter().map(seconds)));
        let least = self.clean.iter().map(seconds).fold(f64::INFINITY, f64::min);
        let most = self.clean.iter().map(seconds).fold(0.0, f64::max);
        (bad, bad / clean, format!("{least:.2} to {most:.2} s"))
    }

    /// Who used the processors, with liars and in brackets without, and how much of them was used.
    fn processor(&self, part: usize, of: fn(&Act) -> Duration) -> String {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let middle = |acts: &[Act], of: &dyn Fn(&Act) -> f64| median(acts.iter().map(of));
        let share = |what: fn(Processor) -> f64| {
            let used = |act: &Act| what(act.processor[part]);
            format!("{:.1} ({:.1})", middle(&self.bad, &used), middle(&self.clean, &used))
        };
        let busy = |act: &Act| 100.0 * act.processor[part].total() / (cores * of(act).as_secs_f64());
        format!(
            "owner {} s, holders {} s, liars {} s, {:.0} % ({:.0} %) of {cores} processors",
            share(|used| used.owner),
            share(|used| used.holders),
            share(|used| used.liars),
            middle(&self.bad, &busy),
            middle(&self.clean, &busy)
        )
    }

    fn named(&self) -> String {
        let mut named: BTreeMap<&str, u64> = BTreeMap::new();
        for (kind, count) in self.bad.iter().flat_map(|act| &act.named) {
            *named.entry(kind).or_default() += count;
        }
        named.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<String>>().join(", ")
    }
}

/// Runs with a behaviour and without, on one workgroup, in turn and in changing order: what slows the machine down slows both.
fn measure(behaviour: Behaviour, options: &Options) -> Result<Measured> {
    // Nothing is ever deleted at holders, so each behaviour has holders of its own.
    let mut stage = Stage::new(8, 2, options.mebibytes << 20, options.seed)?;
    let mut measured = Measured::default();
    for round in 0..options.rounds {
        let order = if round % 2 == 0 { [Behaviour::Honest, behaviour] } else { [behaviour, Behaviour::Honest] };
        for now in order {
            let act = stage.act(now)?;
            if now == Behaviour::Honest { measured.clean.push(act) } else { measured.bad.push(act) }
        }
    }
    Ok(measured)
}

/// Measures ten holders, two of them liars, and prints some lines for each behaviour; whether all held.
///
/// # Errors
/// Where the words make no sense, or the workgroup breaks down.
pub fn run(words: &[String]) -> Result<bool> {
    let options = options(words)?;
    println!("ten holders, two of them liars; {} MiB, {} rounds, seed {}", options.mebibytes, options.rounds, options.seed);
    println!("{:<14} {:>8} {:>6} {:>8} {:>6} {:>8}  named as", "behaviour", "backup", "ratio", "restore", "ratio", "memory");
    let (mut failures, mut acts) = (0, 0);
    for behaviour in &options.behaviours {
        let measured = measure(*behaviour, &options)?;
        acts += measured.clean.len() + measured.bad.len();
        let (backup, backup_ratio, clean_backup) = measured.times(|act| act.backup);
        let (restore, restore_ratio, clean_restore) = measured.times(|act| act.restore);
        let memory = measured.bad.iter().map(|act| act.memory_kib >> 10).max().unwrap_or(0);
        println!(
            "{:<14} {backup:>6.2} s {backup_ratio:>6.2} {restore:>6.2} s {restore_ratio:>6.2} {memory:>4} MiB  {}",
            behaviour.name(),
            measured.named()
        );
        println!("  clean: backup {clean_backup}, restore {clean_restore}");
        println!("  processor, backup:  {}", measured.processor(0, |act| act.backup));
        println!("  processor, restore: {}", measured.processor(1, |act| act.restore));
        for failure in measured.clean.iter().chain(&measured.bad).flat_map(|act| &act.failures) {
            println!("  FAILED: {failure}");
            failures += 1;
        }
        for (what, ratio) in [("backup", backup_ratio), ("restore", restore_ratio)] {
            if ratio > options.ratio_max {
                println!("  FAILED: the {what} took more than {} times as long as without liars", options.ratio_max);
                failures += 1;
            }
        }
    }
    println!("{acts} backups and restores, {failures} failures");
    Ok(failures == 0)
}
