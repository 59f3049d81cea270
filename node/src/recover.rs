//! Recovery after a total loss: the recovery phrase and one address of any member are enough. Reads only; needs no membership, writes
//! no state, fences nobody.

use crate::browse::info;
use crate::fetch::{Fetcher, Prover, Unsealing};
use crate::library::Library;
use crate::report::Report;
use crate::restore::{self, Wish};
use crate::takeover::{Asked, ask_everyone};
use backmesh_control::{Event, ExitCode, Failure, PathText, Phase, Problem, Progress, SelectError, Selector, SnapshotsResult};
use backmesh_format::keys::{KeyPair, VaultSecret};
use backmesh_format::vault::{Head, Snapshot};
use backmesh_format::{NodeId, Signed, UnixMillis};
use backmesh_net::{Net, NetConfig, NetEvent};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// What the command line knows.
pub struct RecoverOptions<'a> {
    /// What the phrase holds.
    pub phrase: VaultSecret,
    /// Where a member may be met: multiaddresses, perhaps with `/p2p/` and a peer id.
    pub seeds: Vec<String>,
    /// Only list the snapshots.
    pub list: bool,
    /// `latest`, or a prefix of a snapshot's id; none is the newest.
    pub snapshot: Option<String>,
    /// The newest snapshot begun at or before this moment.
    pub as_of: Option<UnixMillis>,
    /// Where to; absent only with `list`.
    pub to: Option<PathBuf>,
    /// What happens is told here, the result too; an error that ends the run is returned instead.
    pub sink: &'a mut dyn FnMut(Event),
}

/// Generations that may have been the vault's: each has a key of its own, derived from the phrase.
const GENERATIONS_MAX: u64 = 64;
/// Seats that may have been the vault's.
const SEATS_MAX: u16 = 8;
/// How long holders may take to be connected before the work begins without them.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Fetches a snapshot.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub fn run(options: RecoverOptions<'_>) -> anyhow::Result<ExitCode> {
    let RecoverOptions { phrase, seeds, list, snapshot, as_of, to, sink } = options;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (report, mut events) = Report::new();
    let wish = Choice { list, snapshot, as_of, to };
    let code = runtime.block_on(async {
        let work = tokio::spawn(async move { recover(&phrase, &seeds, wish, &report).await });
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

/// What to recover.
struct Choice {
    list: bool,
    snapshot: Option<String>,
    as_of: Option<UnixMillis>,
    to: Option<PathBuf>,
}

async fn recover(phrase: &VaultSecret, seeds: &[String], choice: Choice, report: &Report) -> anyhow::Result<()> {
    report.progress(Progress::new(Phase::Connecting));
    let (net, events) = network().await?;
    tokio::spawn(decline(events));
    let met = meet(&net, seeds, report).await?;
    let unsealing = Unsealing::new(
        (0..SEATS_MAX)
            .flat_map(|seat| (1..=GENERATIONS_MAX).map(move |generation| (seat, generation)))
            .map(|(seat, generation)| phrase.unsealing_secret_of(seat, generation)),
    );
    let fetcher = Arc::new(Fetcher::new(net.clone(), Prover::root(phrase), unsealing, phrase.chunk_id_key()));
    let asked = ask_vault(&net, &fetcher, met, report).await?;

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
    let to = PathText::new(crate::os::path_bytes(&choice.to.unwrap_or_default()));
    let restoring = tokio::task::spawn_blocking({
        let (report, runtime) = (report.clone(), Handle::current());
        move || {
            let body = fetcher.unsealing().open_head(&head).map_err(crate::serve::failed)?;
            let mut library = Library::new(fetcher, body, None, runtime);
            restore::run(&mut library, &snapshot, &Wish { to, ..Wish::default() }, Vec::new(), &report)
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

/// Finds everyone who holds something of the vault, and asks them for heads and copysets.
async fn ask_vault(net: &Net, fetcher: &Fetcher, met: Vec<NodeId>, report: &Report) -> Result<Asked, Failure> {
    let mut addresses: HashMap<NodeId, Vec<String>> = HashMap::new();
    let mut holders: HashSet<NodeId> = HashSet::new();
    let mut answered = 0;
    for member in &met {
        let Some((pointers, states)) = fetcher.locate(*member).await else { continue };
        answered += 1;
        holders.extend(pointers.iter().flat_map(|pointer| pointer.holders.iter().copied()));
        for state in states {
            addresses.entry(state.node).or_default().extend(state.addresses.iter().cloned());
        }
    }
    if answered == 0 {
        let failure =
            Failure::new(ExitCode::Failed, "the members that were reached do not answer as members of a Backmesh workgroup do");
        return Err(failure.with_hint("check the address, and that both programs are of this year"));
    }
    connect(net, &holders, &addresses).await;
    let mut asked = ask_everyone(fetcher, net.peers()).await;
    // Copysets may name holders that no pointer did.
    let more: HashSet<NodeId> = fetcher.holders().into_iter().filter(|holder| !holders.contains(holder)).collect();
    if !more.is_empty() {
        connect(net, &more, &addresses).await;
        asked = ask_everyone(fetcher, net.peers()).await;
    }
    if asked.heads.is_empty() {
        let failure =
            Failure::new(ExitCode::WrongKey, "nobody who can be reached keeps anything of the vault that this phrase names");
        let hint = if holders.is_empty() {
            "is it the phrase of this workgroup, and had a backup ever reached its end?"
        } else {
            "its holders are known, but cannot be reached now: try again when more machines are on"
        };
        return Err(failure.with_hint(hint));
    }
    let unreachable = fetcher.holders().iter().filter(|holder| !net.peers().contains(holder)).count();
    if unreachable > 0 {
        let message = format!("{unreachable} of {} holders cannot be reached", fetcher.holders().len());
        report.progress(Progress::new(Phase::Connecting).with_message(message));
    }
    Ok(asked)
}

/// Connects to all holders at once, each at the first of its addresses that answers.
async fn connect(net: &Net, holders: &HashSet<NodeId>, addresses: &HashMap<NodeId, Vec<String>>) {
    let connected = net.peers();
    let dialling = holders.iter().filter(|holder| !connected.contains(holder)).map(|holder| async move {
        for address in addresses.get(holder).into_iter().flatten() {
            if net.dial(address, Some(*holder)).await.is_ok() {
                return;
            }
        }
    });
    let all = dialling.collect::<FuturesUnordered<_>>().collect::<Vec<()>>();
    tokio::time::timeout(CONNECT_LIMIT, all).await.ok();
}

/// All snapshots that the heads name, oldest first, each with the newest head that names it.
fn open_heads(
    fetcher: &Arc<Fetcher>,
    asked: &Asked,
    report: &Report,
    runtime: &Handle,
) -> Result<Vec<(Snapshot, Signed<Head>)>, Failure> {
    let mut found: Vec<(Snapshot, Signed<Head>)> = Vec::new();
    let mut last = None;
    let mut heads: Vec<&Signed<Head>> = asked.heads.iter().collect();
    heads.sort_by_key(|head| std::cmp::Reverse((head.writer.generation, head.sequence)));
    for head in heads {
        let body = match fetcher.unsealing().open_head(head) {
            Ok(body) => body,
            Err(error) => {
                last = Some(Failure::new(ExitCode::WrongKey, format!("a head of the vault does not open: {error}")));
                continue;
            }
        };
        let inline = body.snapshots.clone();
        let newest = found.is_empty();
        // Only the newest head's older pages are fetched: those of earlier heads are among them.
        let snapshots = if newest {
            let mut library = Library::new(Arc::clone(fetcher), body, None, runtime.clone());
            library.snapshots().unwrap_or_else(|error| {
                report.problem(Problem::new(format!("older snapshots cannot be listed: {error}")));
                inline
            })
        } else {
            inline
        };
        for snapshot in snapshots {
            if !found.iter().any(|(known, _)| known.id() == snapshot.id()) {
                found.push((snapshot, head.clone()));
            }
        }
    }
    found.sort_by_key(|(snapshot, _)| snapshot.started_at);
    match (found.is_empty(), last) {
        (true, Some(failure)) => Err(failure),
        (true, None) => Err(Failure::new(ExitCode::Failed, "the vault has no snapshot: no backup has reached its end")),
        _ => Ok(found),
    }
}

fn choose<'a>(found: &'a [(Snapshot, Signed<Head>)], choice: &Choice) -> Result<&'a (Snapshot, Signed<Head>), Failure> {
    let until: Vec<&(Snapshot, Signed<Head>)> =
        found.iter().filter(|(snapshot, _)| choice.as_of.is_none_or(|moment| snapshot.started_at <= moment)).collect();
    if until.is_empty() {
        let failure = Failure::new(ExitCode::Failed, "no snapshot is that old");
        return Err(failure.with_hint("backmesh recover --list shows all of them"));
    }
    let selector = choice.snapshot.as_deref().unwrap_or("latest");
    let selector: Selector = selector.parse().map_err(|error: SelectError| Failure::new(ExitCode::Usage, error.to_string()))?;
    let picked = selector
        .pick(&until, |(snapshot, _)| snapshot.id())
        .map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?;
    Ok(picked)
}
