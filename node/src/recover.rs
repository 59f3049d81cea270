//! Recovery after a total loss: the recovery phrase and one address of any member are enough, or a member on the local network. Reads only; needs no membership, writes
//! no state, fences nobody.

use crate::browse::info;
use crate::fetch::{Fetcher, Heads, Prover, Unsealing};
use crate::library::Library;
use crate::nearby;
use crate::report::Report;
use crate::restore::{self, Spared, Wish};
use crate::survey::{Addresses, Asked, connect, survey};
use backmesh_control::{Event, ExitCode, Failure, PathText, Phase, Problem, Progress, SnapshotsResult};
use backmesh_format::keys::{ChunkIdKey, KeyPair, VaultSecret, wipe_stack};
use backmesh_format::vault::{Head, Snapshot};
use backmesh_format::{NodeId, Signed, UnixMillis};
use backmesh_net::{Net, NetConfig, NetEvent};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What the command line knows.
pub struct RecoverOptions<'a> {
    /// What the phrase holds.
    pub phrase: VaultSecret,
    /// Where a member may be met: multiaddresses, perhaps with `/p2p/` and a peer id; none looks on the local network.
    pub seeds: Vec<String>,
    /// Only list the snapshots.
    pub list: bool,
    /// `latest`, or a prefix of a snapshot's id; none is the newest.
    pub snapshot: Option<String>,
    /// The newest snapshot begun at or before this moment.
    pub as_of: Option<UnixMillis>,
    /// Absolute paths; none for everything.
    pub paths: Vec<PathText>,
    /// Where to; absent only with `list`.
    pub to: Option<PathBuf>,
    /// As root, give files to the numbers of their owners, not to users of the same names.
    pub numeric_owners: bool,
    /// Only what fits one of these patterns, where there are any.
    pub include: Vec<String>,
    /// Not what fits these.
    pub exclude: Vec<String>,
    /// Only show what would be done.
    pub dry_run: bool,
    /// What happens is told here, the result too; an error that ends the run is returned instead.
    pub sink: &'a mut dyn FnMut(Event),
}

/// Generations that may have been the vault's: each has a key of its own, derived from the phrase.
const GENERATIONS_MAX: u64 = 64;
/// Seats that may have been the vault's.
const SEATS_MAX: u16 = 8;
/// How long holders that cannot be reached are waited for, while they are dialled again and again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often missing holders are dialled again.
const DIAL_EVERY: Duration = Duration::from_secs(3);
/// After how many rounds of dialling a member is asked anew where the missing ones are.
const LOCATE_ROUNDS: usize = 5;

/// Fetches a snapshot.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub fn run(options: RecoverOptions<'_>) -> anyhow::Result<ExitCode> {
    crate::os::raise_open_files();
    let keys = Keys::of(&options.phrase);
    let RecoverOptions { phrase, seeds, list, snapshot, as_of, paths, to, numeric_owners, include, exclude, dry_run, sink } =
        options;
    let to = PathText::new(crate::os::path_bytes(&to.unwrap_or_default()));
    // What follows from it is all that is needed.
    drop(phrase);
    wipe_stack();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (report, mut events) = Report::new();
    let wish = Wish { paths, to, numeric_owners, include, exclude, dry_run, ..Wish::default() };
    let wish = Choice { list, snapshot, as_of, wish };
    let code = runtime.block_on(async {
        let work = tokio::spawn(async move { recover(keys, &seeds, wish, &report).await });
        let mut code = ExitCode::Done;
        while let Some(event) = events.recv().await {
            code = event.end().unwrap_or(code);
            sink(event);
        }
        work.await?.map(|()| code)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

/// What a recovery needs of all that follows from the phrase.
struct Keys {
    unsealing: Unsealing,
    prover: Prover,
    id_key: ChunkIdKey,
}

impl Keys {
    fn of(phrase: &VaultSecret) -> Self {
        // One list from the start: one that grows would leave copies behind.
        let mut secrets = Vec::with_capacity(usize::from(SEATS_MAX) * GENERATIONS_MAX as usize);
        for seat in 0..SEATS_MAX {
            secrets.extend((1..=GENERATIONS_MAX).map(|generation| phrase.unsealing_secret_of(seat, generation)));
        }
        Self { unsealing: Unsealing::new(secrets), prover: Prover::root(phrase), id_key: phrase.chunk_id_key() }
    }
}

/// What to recover.
struct Choice {
    list: bool,
    snapshot: Option<String>,
    as_of: Option<UnixMillis>,
    wish: Wish,
}

impl Choice {
    /// Whether the newest head says all that is needed.
    fn is_of_today(&self) -> bool {
        !self.list && self.as_of.is_none() && self.snapshot.as_deref().is_none_or(|snapshot| snapshot == "latest")
    }
}

async fn recover(keys: Keys, seeds: &[String], choice: Choice, report: &Report) -> anyhow::Result<()> {
    report.progress(Progress::new(Phase::Connecting));
    let (net, events) = network().await?;
    tokio::spawn(decline(events));
    let met = if seeds.is_empty() { nearby::meet(&net, report).await? } else { meet(&net, seeds, report).await? };
    let fetcher = Fetcher::new(net.clone(), keys.prover, keys.unsealing, keys.id_key);
    let fetcher = Arc::new(fetcher.with_patience(PATIENCE));
    let wanted = if choice.is_of_today() { Heads::Newest } else { Heads::All };
    let asked = ask_vault(&net, &fetcher, met, wanted, report).await?;
    // Ends with this function, however that ends.
    let mut redialling = JoinSet::new();
    redialling.spawn(redial(net.clone(), Arc::clone(&fetcher), asked.named.clone(), asked.addresses.clone(), report.clone()));
    redialling.spawn(learn_late(Arc::clone(&fetcher), asked.left.clone()));

    report.progress(Progress::new(Phase::Listing));
    let found = tokio::task::spawn_blocking({
        let (fetcher, report, runtime) = (Arc::clone(&fetcher), report.clone(), Handle::current());
        move || open_heads(&fetcher, &asked, &report, &runtime)
    });
    let found = found.await??;
    if choice.list {
        let snapshots = found.iter().map(|(snapshot, _)| info(snapshot)).collect();
        report.send(Event::result(SnapshotsResult { snapshots })).await;
        return Ok(());
    }
    let (snapshot, head) = choose(&found, &choice)?;
    let (snapshot, head) = (snapshot.clone(), head.clone());
    let restoring = tokio::task::spawn_blocking({
        let (report, runtime) = (report.clone(), Handle::current());
        move || {
            let body = fetcher.unsealing().open_head(&head).map_err(crate::serve::failed)?;
            let mut library = Library::new(fetcher, body, None, runtime);
            restore::run(&mut library, &snapshot, &choice.wish, Spared::default(), &report)
        }
    });
    let end = restoring.await??;
    report.send(end).await;
    net.shutdown().await;
    Ok(())
}

/// A network for this one piece of work, under a key that nobody knows and nobody will see again.
async fn network() -> anyhow::Result<(Net, mpsc::Receiver<NetEvent>)> {
    let mut config = NetConfig::new(KeyPair::from_secret(&rand::random()));
    config.listen = Vec::new();
    Ok(Net::start(config).await?)
}

/// Nobody is answered: what others open is dropped.
async fn decline(mut events: mpsc::Receiver<NetEvent>) {
    while events.recv().await.is_some() {}
}

/// Connects to all addresses given; one that answers is enough.
async fn meet(net: &Net, seeds: &[String], report: &Report) -> Result<Vec<NodeId>, Failure> {
    let mut dialling: FuturesUnordered<_> = seeds.iter().map(|seed| async move { (seed, net.dial(seed, None).await) }).collect();
    let (mut met, mut errors) = (Vec::new(), Vec::new());
    while let Some((seed, dialled)) = dialling.next().await {
        match dialled {
            Ok(node) => met.push(node),
            Err(error) => errors.push(format!("{}: {error}", backmesh_control::escape(seed.as_bytes()))),
        }
    }
    if met.is_empty() {
        let failure = Failure::new(ExitCode::TooFew, format!("no member can be reached: {}", errors.join("; ")));
        return Err(
            failure.with_hint("give the address of any member that is on, as `backmesh status` shows it there: --seed ADDR")
        );
    }
    for error in errors {
        report.progress(Progress::new(Phase::Connecting).with_message(error));
    }
    Ok(met)
}

/// Finds everyone who holds something of the vault, and asks them for heads and copysets; again and again for a while where holders
/// are known and none can be reached.
async fn ask_vault(net: &Net, fetcher: &Fetcher, met: Vec<NodeId>, wanted: Heads, report: &Report) -> Result<Asked, Failure> {
    let began = Instant::now();
    let asked = loop {
        // Of a list of all snapshots nobody knows when it is complete.
        let is_enough = |asked: &Asked| wanted == Heads::Newest && !asked.heads.is_empty() && asked.is_enough(&fetcher.sets());
        let asked = survey(net, fetcher, met.iter().copied(), wanted, is_enough).await;
        if asked.answered.is_empty() {
            let failure = Failure::new(
                ExitCode::Failed,
                "the members that were reached do not answer as members of a Backmesh workgroup do",
            );
            return Err(failure.with_hint("check the address, and that both programs are of this year"));
        }
        name_by_address(fetcher, &asked.addresses);
        let missing = missing(net, fetcher, &asked.named);
        if !asked.heads.is_empty() || missing.is_empty() || began.elapsed() >= PATIENCE || report.is_stopped() {
            break asked;
        }
        report.progress(waiting_for(fetcher, &missing));
        tokio::time::sleep(DIAL_EVERY).await;
    };
    let missing = missing(net, fetcher, &asked.named);
    if !asked.heads.is_empty() {
        if !missing.is_empty() {
            report.progress(waiting_for(fetcher, &missing));
        }
        return Ok(asked);
    }
    if missing.is_empty() {
        let failure =
            Failure::new(ExitCode::WrongKey, "nobody who can be reached keeps anything of the vault that this phrase names");
        return Err(failure.with_hint("is it the phrase of this workgroup, and had a backup ever reached its end?"));
    }
    let names = names(fetcher, &missing);
    let failure = Failure::new(ExitCode::TooFew, format!("the vault's holders are known and cannot be reached: {names}"));
    Err(failure.with_hint("try again when more machines are on: nothing is lost as long as enough of them come back"))
}

/// Holders that are not connected.
fn missing(net: &Net, fetcher: &Fetcher, named: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let connected: HashSet<NodeId> = net.peers().into_iter().collect();
    named.iter().copied().chain(fetcher.holders()).filter(|holder| !connected.contains(holder)).collect()
}

/// A stranger knows no names, but where machines stand.
fn name_by_address(fetcher: &Fetcher, addresses: &Addresses) {
    let first = |(node, addresses): (&NodeId, &Vec<String>)| addresses.first().map(|address| (*node, address.clone()));
    fetcher.name_holders(addresses.iter().filter_map(first));
}

fn names(fetcher: &Fetcher, holders: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = holders.iter().map(|holder| backmesh_control::escape(fetcher.name_of(holder).as_bytes())).collect();
    names.join(", ")
}

fn waiting_for(fetcher: &Fetcher, missing: &BTreeSet<NodeId>) -> Progress {
    let message = format!("{} of the vault's holders cannot be reached: {}", missing.len(), names(fetcher, missing));
    Progress::new(Phase::Connecting).with_message(message)
}

/// Dials holders that are missing until the task is dropped; who comes back is read from at once.
async fn redial(net: Net, fetcher: Arc<Fetcher>, named: BTreeSet<NodeId>, mut addresses: Addresses, report: Report) {
    let mut told = BTreeSet::new();
    for round in 1_usize.. {
        tokio::time::sleep(DIAL_EVERY).await;
        let before = missing(&net, &fetcher, &named);
        if before.is_empty() {
            continue;
        }
        connect(&net, &before, &addresses).await;
        let after = missing(&net, &fetcher, &named);
        for holder in before.difference(&after) {
            fetcher.learn_sets_of(*holder).await;
            fetcher.came_back(*holder);
        }
        if after != told && !after.is_empty() {
            report.progress(waiting_for(&fetcher, &after));
        }
        told.clone_from(&after);
        // A machine that comes back may stand elsewhere.
        if !after.is_empty() && round % LOCATE_ROUNDS == 0 {
            let peers = net.peers();
            let Some(member) = peers.get(round / LOCATE_ROUNDS % peers.len().max(1)) else { continue };
            for state in fetcher.locate(*member).await.map(|(_, states)| states).unwrap_or_default() {
                addresses.insert(state.node, state.addresses.clone());
            }
        }
    }
}

/// Learns the copysets of those who were not waited for: what lies with nobody else is read once it is known who has it.
async fn learn_late(fetcher: Arc<Fetcher>, holders: BTreeSet<NodeId>) {
    let learning = holders.into_iter().map(|holder| {
        let fetcher = &fetcher;
        async move {
            if fetcher.learn_sets_of(holder).await {
                fetcher.came_back(holder);
            }
        }
    });
    learning.collect::<FuturesUnordered<_>>().collect::<()>().await;
}

/// All snapshots that the heads name, oldest first, each with the newest head that names it. What counts is their order in the heads:
/// clocks may have been wrong.
fn open_heads(
    fetcher: &Arc<Fetcher>,
    asked: &Asked,
    report: &Report,
    runtime: &Handle,
) -> Result<Vec<(Snapshot, Signed<Head>)>, Failure> {
    let mut by_head: Vec<(Vec<Snapshot>, Signed<Head>)> = Vec::new();
    let mut last = None;
    for head in asked.newest_first() {
        let body = match fetcher.unsealing().open_head(head) {
            Ok(body) => body,
            Err(error) => {
                last = Some(Failure::new(ExitCode::WrongKey, format!("a head of the vault does not open: {error}")));
                continue;
            }
        };
        let inline = body.snapshots.clone();
        // Only the newest head's older pages are fetched: those of earlier heads are among them.
        let snapshots = if by_head.is_empty() {
            let mut library = Library::new(Arc::clone(fetcher), body, None, runtime.clone());
            library.snapshots().unwrap_or_else(|error| {
                report.problem(Problem::new(format!("older snapshots cannot be listed: {error}")));
                inline
            })
        } else {
            inline
        };
        by_head.push((snapshots, head.clone()));
    }
    let found = in_order(by_head);
    match (found.is_empty(), last) {
        (true, Some(failure)) => Err(failure),
        (true, None) => Err(Failure::new(ExitCode::Failed, "the vault has no snapshot: no backup has reached its end")),
        _ => Ok(found),
    }
}

/// Snapshots of heads, the newest head first, in one line, oldest first: what only an older head names comes before.
fn in_order<H: Clone>(by_head: Vec<(Vec<Snapshot>, H)>) -> Vec<(Snapshot, H)> {
    let mut known = HashSet::new();
    let fresh: Vec<Vec<(Snapshot, H)>> = by_head
        .into_iter()
        .map(|(snapshots, head)| {
            let fresh = snapshots.into_iter().filter(|snapshot| known.insert(snapshot.id()));
            fresh.map(|snapshot| (snapshot, head.clone())).collect()
        })
        .collect();
    fresh.into_iter().rev().flatten().collect()
}

fn choose<'a>(found: &'a [(Snapshot, Signed<Head>)], choice: &Choice) -> Result<&'a (Snapshot, Signed<Head>), Failure> {
    let until: Vec<&(Snapshot, Signed<Head>)> =
        found.iter().filter(|(snapshot, _)| choice.as_of.is_none_or(|moment| snapshot.started_at <= moment)).collect();
    if until.is_empty() {
        let failure = Failure::new(ExitCode::Failed, "no snapshot is that old");
        return Err(failure.with_hint("backmesh recover --list shows all of them"));
    }
    let selector = choice.snapshot.as_deref().unwrap_or("latest");
    let picked = crate::browse::selector(selector)?
        .pick(&until, |(snapshot, _)| (snapshot.id(), snapshot.started_at))
        .map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?;
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_last_of_the_newest_head_whatever_the_clock_said() {
        // The clock ran in 2040 for a while; and a snapshot that only an older head names stays before those of the newest.
        let snapshots = |times: &[UnixMillis]| times.iter().copied().map(Snapshot::empty).collect();
        let heads = vec![(snapshots(&[2, 90, 5]), "new"), (snapshots(&[2, 70]), "old")];
        let found: Vec<(UnixMillis, &str)> =
            in_order(heads).iter().map(|(snapshot, head)| (snapshot.started_at, *head)).collect();
        assert_eq!(found, [(70, "old"), (2, "new"), (90, "new"), (5, "new")]);
    }
}
