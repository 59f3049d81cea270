//! A check: is everything that the vault should have still there, and does it open? It asks the holders, changes nothing and repairs
//! nothing. Memory holds one record a pack, and one pack with its shards at a time.
//!
//! The order: the head at its holders; which stripes the holders list; with `--read-data` the shards themselves; the index; the
//! catalogues, which also name the files that what is missing would be needed for.

mod catalogue;
mod heads;
mod index;
mod reading;
mod slice;
mod stripes;

use crate::fetch::FetchError;
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::serve::failed;
use backmesh_control::{CheckResult, ExitCode, Failure, PathText, Phase, Problem, Progress, ReadCheck};
use backmesh_format::index::PackPlace;
use backmesh_format::stripe::Purpose;
use backmesh_format::{NodeId, PackId};
use slice::Slice;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Problems of one kind that are named; the rest is counted.
const NAMED_MAX: u64 = 100;

/// What a person wants checked.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Names of snapshots; none for all.
    pub snapshots: Vec<String>,
    /// How many of a hundred packs to read; none reads no contents.
    pub read_percent: Option<u8>,
    /// Which ones.
    pub run: Option<u64>,
}

/// Checks the node's own vault.
///
/// # Errors
/// What kept the check from being made; what it finds is no error.
pub async fn check(node: &Arc<Node>, wish: Wish, report: &Report) -> Result<CheckResult, Failure> {
    let (node, report) = (Arc::clone(node), report.clone());
    tokio::task::spawn_blocking(move || run(&node, &wish, &report)).await.map_err(failed)?
}

/// What is known of a pack.
struct Pack {
    place: PackPlace,
    purpose: Purpose,
    /// Its number in the local index, and how many chunks are listed there; none for what an earlier machine wrote.
    local: Option<(u32, u32)>,
    /// A bit for each slot whose holder has its shard.
    held: u128,
}

/// The work of one check.
struct Check<'a> {
    node: &'a Arc<Node>,
    report: &'a Report,
    runtime: Handle,
    packs: BTreeMap<PackId, Pack>,
    /// Holders that do not answer.
    silent: BTreeSet<NodeId>,
    /// Packs that cannot be rebuilt, or do not open.
    lost: HashSet<PackId>,
    result: CheckResult,
    told: Instant,
}

fn run(node: &Arc<Node>, wish: &Wish, report: &Report) -> Result<CheckResult, Failure> {
    let began = Instant::now();
    if node.vault.head().is_none() {
        let failure = Failure::new(ExitCode::Failed, "there is nothing to check: no backup has reached its end");
        return Err(failure.with_hint("backmesh backup makes the first one"));
    }
    for name in &wish.snapshots {
        crate::browse::selector(name)?;
    }
    node.fetcher.learn_sets(node.sets.all().iter().map(|set| (**set).clone()));
    node.fetcher.name_holders(node.members.view().peers.iter().map(|peer| (peer.node, peer.name.clone())));
    let locked = node.vault.unsealing.is_empty();
    let mut library = if locked { None } else { Some(crate::restore::library(node)?) };
    let mut check = Check {
        node,
        report,
        runtime: Handle::current(),
        packs: BTreeMap::new(),
        silent: BTreeSet::new(),
        lost: HashSet::new(),
        result: CheckResult { locked, ..CheckResult::default() },
        told: Instant::now(),
    };
    let chosen = library.as_mut().map(|library| check.choose(library, &wish.snapshots)).transpose()?.flatten();

    check.heads();
    check.known_packs(library.as_mut())?;
    check.stripes()?;
    if let Some(percent) = wish.read_percent {
        check.read(library.as_mut(), percent, wish.run)?;
    }
    if let Some(library) = &mut library {
        check.index(library)?;
        check.catalogues(library, chosen.unwrap_or_default())?;
    }

    let mut result = check.result;
    result.silent = check.silent.iter().map(|holder| node.fetcher.name_of(holder)).collect();
    result.seconds = began.elapsed().as_secs_f64();
    result.problems = report.problems();
    Ok(result)
}

impl Check<'_> {
    /// The snapshots to look into, the newest first; none where their list cannot be read, which is a problem.
    fn choose(
        &mut self,
        library: &mut Library,
        names: &[String],
    ) -> Result<Option<Vec<backmesh_format::vault::Snapshot>>, Failure> {
        let mut snapshots = match library.snapshots() {
            Ok(snapshots) => snapshots,
            Err(error) => {
                self.unreadable("the list of older snapshots", &error);
                return Ok(None);
            }
        };
        if !names.is_empty() {
            let picked: Result<Vec<_>, Failure> = names
                .iter()
                .map(|name| crate::browse::pick_of(&snapshots, &crate::browse::selector(name)?).map(|snapshot| snapshot.id()))
                .collect();
            let picked: HashSet<_> = picked?.into_iter().collect();
            snapshots.retain(|snapshot| picked.contains(&snapshot.id()));
        }
        snapshots.reverse();
        Ok(Some(snapshots))
    }

    /// Whether a holder answers, as far as is known now.
    fn answers(&self, holder: &NodeId) -> bool {
        !self.silent.contains(holder) && self.node.members.is_connected(holder)
    }

    fn name(&self, holder: &NodeId) -> String {
        self.node.fetcher.name_of(holder)
    }

    fn problem(&self, message: impl Into<String>) {
        self.report.problem(Problem::new(message));
    }

    /// What cannot be read is a problem, unless it may be read once others answer.
    fn unreadable(&mut self, what: &str, error: &FetchError) {
        if error.passes() && !self.silent.is_empty() {
            self.result.too_few = true;
            self.report.progress(Progress::new(Phase::Comparing).with_message(format!("{what} cannot be read now: {error}")));
        } else {
            self.problem(format!("{what} cannot be read: {error}"));
        }
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.report.is_stopped() { Err(Failure::new(ExitCode::Interrupted, "the check was interrupted")) } else { Ok(()) }
    }

    fn tell(&mut self, progress: impl FnOnce() -> Progress) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            self.report.progress(progress());
        }
    }
}

/// Names some, counts the rest.
#[derive(Default)]
struct Named {
    count: u64,
}

impl Named {
    fn take(&mut self, check: &Check<'_>, problem: impl FnOnce() -> Problem) {
        self.count += 1;
        if self.count <= NAMED_MAX {
            check.report.problem(problem());
        }
    }

    fn finish(self, check: &Check<'_>, what: &str) -> u64 {
        if self.count > NAMED_MAX {
            check.problem(format!("{} {what} more", self.count - NAMED_MAX));
        }
        self.count
    }
}

fn path(key: &[u8]) -> PathText {
    PathText::new(&crate::restore::shown(key))
}

impl Check<'_> {
    /// Reads shards, and what is in them.
    fn read(&mut self, library: Option<&mut Library>, percent: u8, run: Option<u64>) -> Result<(), Failure> {
        let run = match run {
            Some(run) => run,
            None => self.node.vault.next_check_run().map_err(failed)?,
        };
        self.result.read = Some(ReadCheck { percent, run, ..ReadCheck::default() });
        self.read_packs(library, &Slice::new(percent, run))
    }
}
