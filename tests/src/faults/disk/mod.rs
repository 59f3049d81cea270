//! Stories of owners and holders whose disks fail at every call, in every way; see `story`.
//!
//! A story is a plan: who has the bad disk, how stripes are coded, which files change. Each of its cases is the whole story with another
//! call as the point of failure and another way to fail. Everything follows from the seed and the number of the case.

pub mod command;
pub mod content;
pub mod holder;
pub mod owner;
pub mod story;

use backmesh_store::faulty::{Fault, Journal};
use content::{Keys, Shape};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use story::{End, Plan, Told, Trouble, Twist, Victim, World};

/// Cases of one story.
const CASES_PER_STORY: u64 = 500;

/// Ways to fail, in the order in which they take turns.
const TROUBLES: &[Option<Fault>] = &[
    Some(Fault::Fail),
    Some(Fault::Stop),
    Some(Fault::Full),
    Some(Fault::Lost),
    Some(Fault::Fail),
    Some(Fault::FullFrom),
    Some(Fault::Misdirected),
    Some(Fault::Stop),
    Some(Fault::Short),
    Some(Fault::Flip),
    None,
];

const SHAPES: &[Shape] = &[Shape { k: 1, n: 2 }, Shape { k: 1, n: 3 }, Shape { k: 2, n: 4 }];

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// The first case, otherwise 0.
    pub from: u64,
    /// How many cases.
    pub cases: u64,
    /// Only this one.
    pub only: Option<u64>,
    /// How many at once.
    pub threads: usize,
}

/// What came of all cases.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many were run.
    pub cases: u64,
    /// In how many the fault happened, by kind.
    pub happened: BTreeMap<String, u64>,
    /// Different calls at which one failed, by whose disk it was.
    pub calls: u64,
    /// Backups that reached their end; each was restored after two restarts.
    pub finished: u64,
    /// Backups and starts that said that they did not succeed.
    pub refused: u64,
    /// Starts that asked for a start of the machine.
    pub machine_starts: u64,
    /// Damage that was found and named.
    pub named: u64,
    /// What did not hold, by case.
    pub failures: Vec<(u64, String)>,
}

/// Stories that share their beginnings.
struct Worlds(Vec<(Shape, Victim, World, World)>);

impl Worlds {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let mut worlds = Vec::new();
        for shape in SHAPES {
            let keys = Arc::new(Keys::new(*shape));
            for victim in [Victim::Owner, Victim::Holder] {
                let used = World::used(Arc::clone(&keys), victim, seed)?;
                worlds.push((*shape, victim, World::empty(Arc::clone(&keys), victim), used));
            }
        }
        Ok(Self(worlds))
    }

    fn begin(&self, plan: &Plan) -> Option<World> {
        let found = self.0.iter().find(|(shape, victim, ..)| *shape == plan.shape && *victim == plan.victim);
        found.map(|(_, _, empty, used)| if plan.from_empty { empty.fork() } else { used.fork() })
    }
}

fn plan_of(story: u64, seed: u64) -> Plan {
    let victim = if story.is_multiple_of(2) { Victim::Owner } else { Victim::Holder };
    let shape = SHAPES[(story / 2) as usize % SHAPES.len()];
    Plan { shape, victim, from_empty: story % 5 == 4, seed: mix(seed, story) }
}

fn mix(seed: u64, number: u64) -> u64 {
    let hash = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// What this thread is doing.
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How the panic begins that no `catch_unwind` sees: another one came out of a destructor while one was being unwound.
const ABORTS: &str = "panic in a destructor during cleanup";

/// Runs the cases. Panics are told with the case in which nobody caught them: the database panics where it finds damage that it does
/// not expect.
///
/// # Errors
/// Where not even a run without faults works.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    with_quiet_panics(|| run_quietly(options))
}

fn with_quiet_panics<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        let (said, before) = (panic.to_string(), PANIC.with(|last| last.replace(panic.to_string())));
        if said.contains(ABORTS) {
            CASE.with(|case| eprintln!("ABORTED in {}: {before}", case.borrow()));
        }
    }));
    let done = work();
    std::panic::set_hook(hook);
    done
}

/// Runs a case, and tells a panic as what did not hold.
fn attempt(worlds: &Worlds, plan: &Plan, twist: &Twist, skipped: Option<&str>) -> Result<Told, String> {
    let work = || {
        let world = worlds.begin(plan).ok_or("no such world")?;
        story::run(world, plan, twist, skipped)
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(PANIC.with(RefCell::take)))
}

fn run_quietly(options: &Options) -> anyhow::Result<Report> {
    let worlds = Worlds::new(options.seed)?;
    let cases = options.only.map_or(options.from..options.from + options.cases, |only| only..only + 1);
    let (first, last) = (cases.start / CASES_PER_STORY, cases.end.div_ceil(CASES_PER_STORY));
    let next = AtomicU64::new(first);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let story = next.fetch_add(1, Ordering::Relaxed);
                    if story >= last {
                        break;
                    }
                    let own = (story * CASES_PER_STORY).max(cases.start)..((story + 1) * CASES_PER_STORY).min(cases.end);
                    run_story(&worlds, story, own, options, &report);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort();
    Ok(report)
}

fn run_story(worlds: &Worlds, story: u64, cases: std::ops::Range<u64>, options: &Options, report: &Mutex<Report>) {
    let plan = plan_of(story, options.seed);
    let attempt = |trouble, seed| attempt(worlds, &plan, &story::twist(trouble, seed), None);
    let whole = attempt(Trouble::None, plan.seed);
    let calls = whole.as_ref().map_or(1, |told| told.calls.max(1));
    for case in cases {
        let number = case % CASES_PER_STORY;
        let call = (number * calls / CASES_PER_STORY + story) % calls;
        let trouble = match TROUBLES[((number + story) % TROUBLES.len() as u64) as usize] {
            Some(fault) => Trouble::Call(call, fault),
            None => Trouble::Rot,
        };
        CASE.with(|doing| *doing.borrow_mut() = format!("case {case} of seed {}", options.seed));
        let told = match &whole {
            Err(error) => Err(format!("without a fault: {error}")),
            Ok(_) => attempt(trouble, mix(plan.seed, case)),
        };
        if options.only.is_some() {
            eprintln!("{plan:#?}\n{:#?}\n{told:#?}", story::twist(trouble, mix(plan.seed, case)));
        }
        content::forget_read();
        note(report, case, &plan, trouble, told);
    }
}

fn note(report: &Mutex<Report>, case: u64, plan: &Plan, trouble: Trouble, told: Result<Told, String>) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.cases += 1;
    match told {
        Ok(told) => {
            let kind = match trouble {
                Trouble::Call(_, fault) => format!("{:?} {fault:?}", plan.victim),
                other => format!("{:?} {other:?}", plan.victim),
            };
            *report.happened.entry(kind).or_default() += u64::from(told.failed.is_some());
            report.finished += told.finished as u64;
            report.refused += told.refused as u64;
            report.machine_starts += told.machine_starts as u64;
            report.named += told.named as u64;
        }
        Err(error) => {
            let failure = format!("{:?}, {trouble:?}: {error}", plan.victim);
            eprintln!("FAILED case {case}: {failure}");
            report.failures.push((case, failure));
        }
    }
}

/// A place from which syncs come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Whose program it is in.
    pub is_owner: bool,
    /// What is synced, and what the program is doing.
    pub name: String,
}

/// Leaves out the syncs of each place that is wanted in turn, with power cuts at calls all over the story, and says what was noticed in the first case
/// in which something was; nothing where all of `tries` cases went well.
///
/// # Errors
/// Where not even a run without faults works.
pub fn leave_out_syncs(seed: u64, wanted: Wanted<'_>, tries: u64) -> anyhow::Result<Vec<(Site, Option<String>)>> {
    with_quiet_panics(|| leave_out(seed, wanted, tries))
}

/// Says whether a place is looked at: whether it is in the owner's program, and its name.
pub type Wanted<'a> = &'a dyn Fn(bool, &str) -> bool;

fn leave_out(seed: u64, wanted: Wanted<'_>, tries: u64) -> anyhow::Result<Vec<(Site, Option<String>)>> {
    let worlds = Worlds::new(seed)?;
    let mut found = Vec::new();
    for victim in [Victim::Owner, Victim::Holder] {
        let plan = |from_empty, seed| Plan { shape: SHAPES[1], victim, from_empty, seed };
        let mut sites = BTreeMap::new();
        for from_empty in [false, true] {
            let whole = Twist { trouble: Trouble::None, end: End::Cut, journal: None, seed, stops: true };
            let told = attempt(&worlds, &plan(from_empty, mix(seed, tries)), &whole, None).map_err(anyhow::Error::msg)?;
            sites.extend(told.sites.into_iter().map(|(site, _)| (site, told.calls)));
        }
        for (name, calls) in sites.into_iter().filter(|(name, _)| wanted(victim == Victim::Owner, name)) {
            let noticed = (0..tries).find_map(|number| {
                let seed = mix(seed, number);
                let trouble = Trouble::Call(seed % calls, Fault::Stop);
                let journal = [None, Some(Journal::Loose)][number as usize % 2];
                let twist = Twist { trouble, end: End::Cut, journal, seed, stops: number % 3 == 0 };
                attempt(&worlds, &plan(number % 4 == 3, seed), &twist, Some(&name)).err()
            });
            content::forget_read();
            found.push((Site { is_owner: victim == Victim::Owner, name }, noticed));
        }
    }
    Ok(found)
}
