//! The agent: the node in the foreground, from the lock on its state to a clean end.

use crate::advice::of_state;
use crate::holder::Holder;
use crate::members::Members;
use crate::node::{Going, Node};
use crate::serve::Conversations;
use crate::state::{State, StateError};
use crate::{nearby, schedule, takeover, upkeep};
use anyhow::Context;
use backmesh_control::{ExitCode, Failure};
use backmesh_net::{Net, NetConfig, NetEvent, Protocol};
use backmesh_store::{DbError, Records, RecordsError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

/// What the command line knows.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The state folder.
    pub state: PathBuf,
    /// Addresses to listen on, instead of those of the configuration.
    pub listen: Vec<String>,
    /// Whether mDNS is left alone, whatever the configuration says.
    pub no_mdns: bool,
    /// A person says that nobody else uses the state.
    pub only_copy: bool,
}

/// How long the end may take: a put into the shelf is finished, a backup stops at its next safe point.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why a run of all parts ended.
enum Ended {
    /// Someone asked for it.
    Stopped,
    /// The node took its vault over, and starts again as its writer.
    TakenOver,
    /// The key was locked away, and what was read with it is to leave the memory.
    LockedAway,
    /// Another process has the same keys, and stays.
    Copied,
}

/// Runs until it is told to stop.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub fn run(options: AgentOptions) -> anyhow::Result<ExitCode> {
    let state = State::open(&options.state)?;
    let lock = state.lock()?;
    if options.only_copy {
        state.claim()?;
    }
    state.require_only_copy()?;
    crate::os::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(run_parts(&options));
    runtime.shutdown_timeout(END_LIMIT);
    let why = match ended? {
        Ended::Stopped => return Ok(ExitCode::Done),
        Ended::Copied => {
            // Started again, by a person or a service manager, it must not begin anew.
            state.note_copied()?;
            return Err(StateError::Copied(options.state).into());
        }
        // Nothing that was opened as the guest of before is still in use.
        Ended::TakenOver => "the vault was taken over",
        // Keys of packs, lists of snapshots, names and contents that were read lie in memory that was given back, too.
        Ended::LockedAway => "the key was locked away",
    };
    tracing::info!("{why}; starting again");
    drop(lock);
    // A whole new process in the place of this one, with none of its memory.
    Err(crate::os::start_again()).with_context(|| format!("{why}, and the agent must be started again"))
}

async fn run_parts(options: &AgentOptions) -> anyhow::Result<Ended> {
    let files = State::open(&options.state)?;
    let (net, events) = start_network(&files, options).await?;
    let records = Arc::new(open_records(&files).map_err(of_state)?);
    let (members, drive) = Members::open(&files, net.clone(), Arc::clone(&records))?;
    let socket = Socket::bind(&files).map_err(of_state)?;
    let (ending, mut ended) = watch::channel(Going::On);
    let disk = Arc::clone(files.disk());
    let node = Arc::new(Node::open(disk, files, net.clone(), Arc::clone(&members), records, ending).map_err(of_state)?);

    let mut parts = JoinSet::new();
    let conversations = Conversations::default();
    parts.spawn(named("the part that keeps the members together", drive.run()));
    parts.spawn(named("the network", dispatch(events, Arc::clone(&members), Arc::clone(&node.holder))));
    parts.spawn(named("the control socket", conversations.clone().serve(socket.listener()?, Arc::clone(&node))));
    parts.spawn(named("the schedule", schedule::run(Arc::clone(&node), conversations.clone())));
    parts.spawn(named("the upkeep of the vault", upkeep::run(Arc::clone(&node))));
    if !options.no_mdns && !node.config().no_mdns {
        parts.spawn(named("the look-out for members nearby", nearby::run(Arc::clone(&node))));
    }
    tracing::info!(addresses = ?net.addresses(), "the node runs");
    crate::os::notify_ready();

    let why = tokio::select! {
        () = told_to_stop() => Ok(Ended::Stopped),
        going = ended.wait_for(|going| *going != Going::On) => Ok(match going.as_deref() {
            Ok(Going::Again) => Ended::LockedAway,
            _ => Ended::Stopped,
        }),
        () = members.yields() => Ok(Ended::Copied),
        taken = takeover::settle(&node), if node.taking_over => taken.map(|()| Ended::TakenOver),
        Some(part) = parts.join_next() => Err(died(part)),
    };
    tracing::info!("the node ends");
    if !matches!(why, Ok(Ended::TakenOver | Ended::LockedAway)) {
        crate::os::notify_stopping();
    }
    parts.shutdown().await;
    conversations.end(END_LIMIT).await;
    node.holder.close(END_LIMIT).await;
    upkeep::save_conduct(&node).await;
    net.shutdown().await;
    drop(socket);
    why
}

/// A part of the node, and what people call it once it has ended.
async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Half a node would look alive and do nothing: where one part dies, all ends, and a service manager starts it anew.
fn died(part: Result<&'static str, JoinError>) -> anyhow::Error {
    match part {
        Ok(name) => anyhow::anyhow!("{name} ended unexpectedly"),
        Err(error) => anyhow::Error::new(error).context("a part of the node failed"),
    }
}

/// Damaged records are put aside, not deleted. What they held of the workgroup is learnt again; of the vault, its holders have it all
/// ([`crate::catch_up`]); owners whose shards lie here bring their plans again. One look may fail where the next does not, so there are
/// two.
fn open_records(files: &State) -> anyhow::Result<Records> {
    let folder = files.records_path();
    let open = || Records::open(Arc::clone(files.disk()), &folder);
    let is_damage = |error: &RecordsError| matches!(error, RecordsError::Db(DbError::Damaged { .. }));
    match open().or_else(|error| if is_damage(&error) { open() } else { Err(error) }) {
        Err(RecordsError::Db(DbError::Damaged { reason, .. })) => {
            let aside = format!("records.damaged-{}", crate::os::now());
            Records::put_aside(files.disk(), &folder, &aside)?;
            let aside = folder.join(aside);
            tracing::warn!("the records are damaged ({reason}): they are in {} now, and are begun anew", aside.display());
            Ok(open()?)
        }
        opened => Ok(opened?),
    }
}

async fn start_network(files: &State, options: &AgentOptions) -> anyhow::Result<(Net, mpsc::Receiver<NetEvent>)> {
    let mut config = NetConfig::new(files.node_key()?);
    let chosen = if options.listen.is_empty() { files.config()?.listen } else { options.listen.clone() };
    if !chosen.is_empty() {
        config.listen = chosen;
    }
    Ok(Net::start(config).await?)
}

/// Hands inbound streams to whom they are for.
async fn dispatch(mut events: mpsc::Receiver<NetEvent>, members: Arc<Members>, holder: Arc<Holder>) {
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Inbound { peer, protocol: Protocol::Store, stream } => {
                tokio::spawn(Arc::clone(&holder).serve_store(peer, stream));
            }
            NetEvent::Inbound { peer, protocol: Protocol::Read, stream } => {
                tokio::spawn(Arc::clone(&holder).serve_read(peer, stream));
            }
            other => members.tell(other).await,
        }
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
}

/// The control socket; its file goes with it.
struct Socket {
    listener: std::os::unix::net::UnixListener,
    file: PathBuf,
}

impl Socket {
    /// The lock on the state is held, so a socket that is there is a dead agent's.
    fn bind(files: &State) -> anyhow::Result<Self> {
        let file = files.socket_file();
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let failure = Failure::new(ExitCode::Failed, format!("{} cannot be made: {error}", file.display()));
                return Err(failure.with_hint("remove what lies there: it is no socket, and nothing of the state").into());
            }
            _ => {}
        }
        let path = files.socket_path()?;
        let listener = crate::os::bind_private(path.path()).with_context(|| format!("{} cannot be made", file.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, file })
    }

    fn listener(&self) -> Result<UnixListener, StateError> {
        let io = |source| StateError::Io { doing: "open", path: self.file.clone(), source };
        UnixListener::from_std(self.listener.try_clone().map_err(io)?).map_err(io)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.file).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_store::Table;
    use backmesh_store::faulty::{Fault, FaultyDisk};
    use std::path::Path;

    #[test]
    fn damaged_records_are_begun_anew_and_kept_beside() {
        let files = |disk: &FaultyDisk| State::create_on(Arc::new(disk.clone()), Path::new("/state")).unwrap();
        let whole = FaultyDisk::new();
        let path = files(&whole).records_path();
        open_records(&files(&whole)).unwrap().put_many(&[(Table::Head, vec![1], vec![2])]).unwrap();
        let damaged = vec![0xa5; whole.bytes_of(&path.join("records.redb")).unwrap().len()];
        whole.set_bytes_of(&path.join("records.redb"), damaged.clone());
        let counted = whole.fork();
        let first = counted.calls();
        let state = files(&counted);
        let begun = counted.calls();
        open_records(&state).unwrap();
        for call in begun - first..counted.calls() - first {
            for (fault, cut) in [(Fault::Fail, false), (Fault::Fail, true), (Fault::Full, true), (Fault::Stop, true)] {
                let disk = whole.fork();
                disk.fail_at(disk.calls() + call, fault);
                let opened = open_records(&files(&disk)).map(|records| records.put_many(&[(Table::Head, vec![3], vec![4])]));
                drop(opened);
                if cut {
                    disk.cut_power(call);
                } else {
                    disk.kill();
                }
                open_records(&files(&disk)).unwrap_or_else(|error| panic!("call {call}, {fault:?}, {cut}: {error:#}"));
                let aside = disk.files().into_iter().find(|path| path.to_string_lossy().contains("records.damaged-"));
                let aside = aside.unwrap_or_else(|| panic!("call {call}, {fault:?}, {cut}: nothing is beside"));
                assert!(disk.bytes_of(&aside).is_some_and(|bytes| bytes == damaged), "call {call}, {fault:?}, {cut}");
            }
        }
    }

    #[test]
    fn one_short_read_does_not_cost_the_records() {
        let files = |disk: &FaultyDisk| State::create_on(Arc::new(disk.clone()), Path::new("/state")).unwrap();
        let whole = FaultyDisk::new();
        open_records(&files(&whole)).unwrap().put_many(&[(Table::Head, vec![1], vec![2])]).unwrap();
        let counted = whole.fork();
        let state = files(&counted);
        let first = counted.calls();
        open_records(&state).unwrap();
        for ahead in 0..counted.calls() - first {
            let disk = whole.fork();
            let state = files(&disk);
            disk.fail_at(disk.calls() + ahead, Fault::Short);
            let records = open_records(&state).unwrap();
            // The fault may come only now.
            let value = records.get(Table::Head, &[1]).or_else(|_| records.get(Table::Head, &[1])).unwrap();
            assert_eq!(value, Some(vec![2]), "call {ahead}: the records were begun anew");
        }
    }
}
