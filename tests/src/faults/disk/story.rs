//! One case: an owner and its holders, one fault on one of their disks, a restart, and what must hold afterwards.

use super::content::{Files, Keys, Shape};
use super::holder::Holder;
use super::owner::{Believed, Owner, Packs, recover};
use anyhow::Result;
use backmesh_store::faulty::{Fault, FaultyDisk, Journal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::Arc;

/// Whose disk has the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The owner's.
    Owner,
    /// The first holder's.
    Holder,
}

/// What happens to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// A call fails, so many after the start of the story.
    Call(u64, Fault),
    /// A bit flips while nobody runs.
    Rot,
}

impl Trouble {
    fn is_a_lie(self) -> bool {
        match self {
            Self::None => false,
            Self::Call(_, fault) => fault.is_a_lie(),
            Self::Rot => true,
        }
    }
}

/// How the process of the victim ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By kill -9.
    Kill,
    /// By kill -9, and the system forgets what it could not write.
    Evict,
    /// With the power.
    Cut,
}

/// A story before its fault.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How stripes are coded.
    pub shape: Shape,
    /// Whose disk it is about.
    pub victim: Victim,
    /// Whether it begins with empty disks, and not after a first backup.
    pub from_empty: bool,
    /// What the files are.
    pub seed: u64,
}

/// What is different from case to case of a story.
#[derive(Debug, Clone, Copy)]
pub struct Twist {
    /// What happens.
    pub trouble: Trouble,
    /// How the process ends.
    pub end: End,
    /// The file system.
    pub journal: Option<Journal>,
    /// What power cuts leave.
    pub seed: u64,
    /// Whether the program ends as it should before the process is ended.
    pub stops: bool,
}

/// What a case came to.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The call that failed, in words.
    pub failed: Option<String>,
    /// Calls to the victim's disk before its end.
    pub calls: u64,
    /// Backups that reached their end, all of which were restored.
    pub finished: usize,
    /// Backups that said that they did not.
    pub refused: usize,
    /// Starts that asked for a start of the machine.
    pub machine_starts: usize,
    /// Damage that was found and named.
    pub named: usize,
    /// Where syncs came from.
    pub sites: Vec<(String, u64)>,
}

/// A world between two runs: all that is on disks, and what was promised.
pub struct World {
    keys: Arc<Keys>,
    disk: FaultyDisk,
    holders: Vec<Holder>,
    believed: Believed,
    files: Files,
    finished: Vec<(u64, Files)>,
    /// How many chunks the owner's index keeps in its journal.
    chunks_max: usize,
}

impl World {
    /// Nobody has run yet.
    pub fn empty(keys: Arc<Keys>, victim: Victim) -> Self {
        let real = victim == Victim::Holder;
        let holder = |number| if real && number == 0 { Holder::on(0, joined()) } else { Holder::plain(number) };
        let holders = (0..usize::from(keys.shape.n)).map(holder).collect();
        let (believed, files, finished) = Default::default();
        Self { keys, disk: joined(), holders, believed, files, finished, chunks_max: 12 }
    }

    /// One backup has been made.
    ///
    /// # Errors
    /// Where not even that works.
    pub fn used(keys: Arc<Keys>, victim: Victim, seed: u64) -> Result<Self> {
        let mut world = Self::empty(keys, victim);
        let mut rng = StdRng::seed_from_u64(seed);
        world.holders.iter_mut().try_for_each(Holder::start)?;
        let mut owner = Owner::start(&world.disk, &world.keys, &mut world.believed, world.chunks_max)?;
        world.back_up(&mut owner, &mut rng)?;
        drop(owner);
        world.holders.iter_mut().for_each(Holder::stop);
        Ok(world)
    }

    /// The same on other disks.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            disk: self.disk.fork(),
            holders: self.holders.iter().map(Holder::fork).collect(),
            believed: self.believed.clone(),
            files: self.files.clone(),
            finished: self.finished.clone(),
            chunks_max: self.chunks_max,
        }
    }

    fn victim(&self, victim: Victim) -> FaultyDisk {
        match (victim, &self.holders[0].disk) {
            (Victim::Holder, Some(disk)) => disk.clone(),
            _ => self.disk.clone(),
        }
    }

    fn back_up(&mut self, owner: &mut Owner, rng: &mut StdRng) -> Result<u64> {
        self.files = self.files.changed(rng);
        let sequence = owner.back_up(&self.keys, &self.files, &mut self.holders, &mut self.believed, rng)?;
        self.finished.push((sequence, self.files.clone()));
        Ok(sequence)
    }

    /// Every backup that reached its end comes back as it was.
    fn restore_all(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let up = self.holders.iter().filter(|holder| holder.is_up());
        let heads: Vec<_> = up.flat_map(|holder| holder.heads().unwrap_or_default()).collect();
        let mut packs = Packs::new();
        for (sequence, files) in &self.finished {
            let head = heads.iter().find(|head| head.sequence == *sequence);
            let head = head.ok_or_else(|| format!("no holder has head {sequence}, which counted as accepted"))?;
            let restored = recover(&self.keys, head, &mut self.holders, &mut packs, rng);
            let restored = restored.map_err(|error| format!("the backup of head {sequence} cannot be restored: {error:#}"))?;
            let expected = files.0.iter().map(|(name, (_, bytes))| (name.clone(), bytes.clone())).collect();
            if restored != expected {
                return Err(format!("the backup of head {sequence} comes back with other bytes"));
            }
        }
        Ok(())
    }
}

/// A disk with the state folder of a node that has joined.
fn joined() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.set_bytes_of(Path::new("/state/certificate.bin"), vec![1; 100]);
    disk.make_dir(Path::new("/state"));
    disk
}

/// Runs a case; what is wrong, in words, where something is.
///
/// # Errors
/// What does not hold.
pub fn run(mut world: World, plan: &Plan, twist: &Twist, skipped: Option<&str>) -> Result<Told, String> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    world.chunks_max = if plan.seed.is_multiple_of(2) { 12 } else { 1000 };
    let victim = world.victim(plan.victim);
    twist.journal.into_iter().for_each(|journal| victim.set_journal(journal));
    skipped.into_iter().for_each(|site| victim.skip_syncs_at(site));
    let first = victim.calls();
    if let Trouble::Call(call, fault) = twist.trouble {
        victim.fail_at(first + call, fault);
    }
    let mut told = Told::default();
    run_faulty(&mut world, twist, &mut told, &mut rng);
    (told.calls, told.failed) = (victim.calls() - first, victim.failed_call());
    world.holders.iter_mut().for_each(Holder::drop_open);
    end(&victim, twist, twist.seed, &mut told);

    let failed = told.failed.clone().unwrap_or_default();
    let mut case = Case { world, victim, twist, told, rng };
    check(&mut case).map_err(|error| format!("{error}; {failed}"))?;
    case.told.finished = case.world.finished.len();
    case.told.sites = case.victim.sync_sites();
    Ok(case.told)
}

fn check(case: &mut Case<'_>) -> Result<(), String> {
    let seed = case.twist.seed;
    case.check_after_restart(seed ^ 1)?;
    // What the first start after it took for durable must be so.
    case.world.holders.iter_mut().for_each(Holder::drop_open);
    case.victim.cut_power(seed ^ 2);
    case.check_after_restart(seed ^ 3)
}

fn end(victim: &FaultyDisk, twist: &Twist, seed: u64, told: &mut Told) {
    match twist.end {
        End::Kill => victim.kill(),
        End::Evict => victim.kill_and_evict(seed),
        End::Cut => victim.cut_power(seed),
    }
    if twist.trouble == Trouble::Rot {
        told.failed = victim.rot(seed);
    }
}

/// Two backups, and a look at what they gave, in a run in which anything may fail.
fn run_faulty(world: &mut World, twist: &Twist, told: &mut Told, rng: &mut StdRng) {
    let started = world.holders.iter_mut().map(Holder::start).filter(Result::is_err).count();
    told.refused += started;
    let Ok(mut owner) = Owner::start(&world.disk, &world.keys, &mut world.believed, world.chunks_max) else {
        told.refused += 1;
        return;
    };
    for _ in 0..2 {
        told.refused += usize::from(world.back_up(&mut owner, rng).is_err());
    }
    // What is served is right or is not served; whether all can be had is asked later.
    world.restore_all(rng).ok();
    drop(owner);
    if twist.stops {
        world.holders.iter_mut().for_each(Holder::stop);
    }
}

struct Case<'a> {
    world: World,
    victim: FaultyDisk,

    twist: &'a Twist,
    told: Told,
    rng: StdRng,
}

impl Case<'_> {
    fn is_a_lie(&self) -> bool {
        self.twist.trouble.is_a_lie()
    }

    /// Starts all, checks what was promised, backs up, and restores everything.
    fn check_after_restart(&mut self, seed: u64) -> Result<(), String> {
        let Some(mut owner) = self.start(seed)? else {
            // Only after a lie: what others hold is enough.
            return self.world.restore_all(&mut self.rng);
        };
        self.check_promises(&owner)?;
        let backed_up = self.world.back_up(&mut owner, &mut self.rng);
        if let Err(error) = backed_up {
            if !self.is_a_lie() {
                return Err(format!("a backup after the restart fails: {error:#}"));
            }
            self.told.named += 1;
        }
        self.world.restore_all(&mut self.rng)
    }

    /// Starts all; none where damage was named that keeps the owner down.
    fn start(&mut self, seed: u64) -> Result<Option<Owner>, String> {
        for again in [false, true] {
            let started = self.world.holders.iter_mut().map(Holder::start).find_map(Result::err);
            let opened = Owner::start(&self.world.disk, &self.world.keys, &mut self.world.believed, self.world.chunks_max);
            let error = match (started, opened) {
                (None, Ok(owner)) => return Ok(Some(owner)),
                (Some(error), Ok(owner)) => {
                    if self.may_stay_down(&error) {
                        return Ok(Some(owner));
                    }
                    error
                }
                (_, Err(error)) => error,
            };
            let text = format!("{error:#}");
            let wants_machine_start = text.contains("start the machine again") || text.contains("read-only");
            if !again && wants_machine_start {
                self.told.machine_starts += 1;
                self.world.holders.iter_mut().for_each(Holder::drop_open);
                self.victim.cut_power(seed);
            } else if self.may_stay_down(&error) {
                return Ok(None);
            } else {
                return Err(format!("a start fails: {text}"));
            }
        }
        Err("a start fails".to_owned())
    }

    /// Whether it may be that a node does not start: its disk lied, and it says which file is damaged.
    fn may_stay_down(&mut self, error: &anyhow::Error) -> bool {
        let is_named = self.is_a_lie() && error.to_string().contains("/state");
        self.told.named += usize::from(is_named);
        is_named
    }

    fn check_promises(&mut self, owner: &Owner) -> Result<(), String> {
        let mut missing = owner.missing(&self.world.believed);
        let keys = Arc::clone(&self.world.keys);
        missing.extend(self.world.holders.iter_mut().filter(|holder| holder.is_up()).flat_map(|holder| holder.missing(&keys)));
        if self.is_a_lie() {
            self.told.named += missing.len();
            Ok(())
        } else if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("of what was promised, this is not there: {}", missing.join("; ")))
        }
    }
}

/// The parts of a case that follow from a number.
pub fn twist(trouble: Trouble, seed: u64) -> Twist {
    let mut rng = StdRng::seed_from_u64(seed);
    let end = [End::Kill, End::Evict, End::Cut, End::Cut][rng.random_range(0..4)];
    let journal = [None, Some(Journal::Folders), Some(Journal::Ordered), Some(Journal::Loose)][rng.random_range(0..4)];
    Twist { trouble, end, journal, seed, stops: rng.random() }
}
