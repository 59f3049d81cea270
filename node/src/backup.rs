//! A backup, from the folders to a head that a few strangers' disks keep.
//!
//! The order is what makes it safe: shards are durable at their holders before the index names their packs, the index is durable
//! before the snapshot, the snapshot is in a head that enough holders have accepted. Wherever it is interrupted, nothing refers to
//! what is not there, and the next backup sends nothing again that was acknowledged.

mod commit;
mod packing;
mod scan;
mod totals;

pub(crate) use commit::{Given, send_head};

use crate::catch_up::{BehindError, catch_up_to_write};
use crate::node::Node;
use crate::os::background::blocking;
use crate::outbox::OutboxError;
use crate::report::Report;
use crate::running::{Run, attend};
use crate::sets::SetsError;
use crate::units::count;
use crate::vault::{Listed, SignHeadError};
use backmesh_codec::buffer::Buffers;
use backmesh_codec::frame::CompressError;
use backmesh_codec::stripe::BuildError;
use backmesh_control::{BackupResult, ExitCode, Failure, Phase, Progress};
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{Snapshot, System};
use backmesh_format::wire::Bytes;
use backmesh_source::{BadPattern, WalkOptions};
use backmesh_store::{ChunkIndexError, RecordsError, StatCacheError};
use packing::{Packing, pack_frames};
use scan::{Chunks, PageChunks, Scan, Scanned};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use thiserror::Error;
use totals::Totals;

/// Frames that wait for a packing thread, about 1 MiB each.
const FRAMES_WAITING: usize = 4;
/// Threads that compress and seal. The walk itself is busy with one more.
const PACKERS_MAX: usize = 4;
/// How long a backup waits for holders that went away before it gives up, to go on from there the next time.
const HOLDERS_PATIENCE: Duration = Duration::from_secs(30);

/// Why a backup did not reach its end. What was stored stays stored.
#[derive(Debug, Error)]
pub enum BackupError {
    /// Another one is running.
    #[error("a backup is running already")]
    Running,
    /// Nothing is protected, although something was.
    #[error("nothing is protected any more, and the newest snapshot has {}", .0.join(", "))]
    NoLongerProtected(Vec<String>),
    /// The vault is being taken over from another machine.
    #[error("this machine is taking the vault over and has not yet heard from enough members that hold it")]
    TakingOver,
    /// Nothing is protected.
    #[error("nothing is protected yet")]
    NothingProtected,
    /// Whoever asked for it went away, or the agent is stopping.
    #[error("the backup was interrupted; the next one goes on from here")]
    Interrupted,
    /// A defect of the program ended it.
    #[error("the backup broke off because of a defect of the program; its log says where")]
    Broken,
    /// Another part of the backup failed first.
    #[error("the backup stopped")]
    Stopped,
    /// A rule of a protected folder makes no sense.
    #[error("the rules in config.toml cannot be used: {0}")]
    Rules(#[from] BadPattern),
    /// Holders cannot be had.
    #[error(transparent)]
    Sets(#[from] SetsError),
    /// Shards do not reach their holders.
    #[error(transparent)]
    Outbox(OutboxError),
    /// The head does not reach its holders.
    #[error(
        "only {accepted} holders have accepted the new head, {needed} are needed{}",
        refused.as_ref().map(|text| format!("; one refused: {text}")).unwrap_or_default()
    )]
    TooFewHeads {
        /// How many did.
        accepted: usize,
        /// How many must.
        needed: usize,
        /// What the last one that refused said.
        refused: Option<String>,
    },
    /// A frame could not be compressed.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// A stripe could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The local index failed.
    #[error(transparent)]
    Index(#[from] ChunkIndexError),
    /// The records failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The stat cache failed.
    #[error(transparent)]
    StatCache(#[from] StatCacheError),
    /// The head could not be signed.
    #[error(transparent)]
    Head(#[from] SignHeadError),
    /// Holders know more of the vault than this state, and it cannot be taken over.
    #[error(transparent)]
    Behind(#[from] BehindError),
    /// The catalogue or the index could not be written.
    #[error("the catalogue cannot be written: {0}")]
    Catalogue(String),
}

impl BackupError {
    /// Whether it only says that something else failed first.
    fn is_consequence(&self) -> bool {
        matches!(self, Self::Stopped)
    }

    fn is_own_disk(&self) -> bool {
        let outbox = matches!(self, Self::Outbox(OutboxError::Spool(_) | OutboxError::Index(_)));
        outbox || matches!(self, Self::Index(_) | Self::Records(_) | Self::StatCache(_) | Self::Head(SignHeadError::Records(_)))
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::from(&error)
    }
}

impl From<&BackupError> for Failure {
    fn from(error: &BackupError) -> Self {
        let (code, hint) = match error {
            BackupError::NothingProtected => (ExitCode::Usage, Some("name what to keep: backmesh protect DIR")),
            BackupError::NoLongerProtected(_) => {
                (ExitCode::Usage, Some("if config.toml was lost or emptied, name them again: backmesh protect DIR"))
            }
            BackupError::Interrupted | BackupError::Outbox(OutboxError::Interrupted) => (ExitCode::Interrupted, None),
            BackupError::Sets(SetsError::Alone | SetsError::Offline { .. } | SetsError::Placement(_)) => {
                (ExitCode::TooFew, Some("backmesh peers shows who is a member and who can be reached; others join with a token"))
            }
            BackupError::Outbox(OutboxError::TooFewHolders { .. }) | BackupError::TooFewHeads { .. } => (
                ExitCode::TooFew,
                Some("nothing is lost: what is not delivered stays here; back up again when more members are on"),
            ),
            BackupError::Outbox(OutboxError::Fenced(_)) => (
                ExitCode::Failed,
                Some("this machine no longer writes to the vault: to back up again, join with a new state and a new token"),
            ),
            BackupError::Behind(BehindError::Locked { .. }) => (
                ExitCode::WrongKey,
                Some("backmesh key unlock --phrase-file FILE, then back up, then lock it again: so nothing of it gets lost"),
            ),
            BackupError::Behind(BehindError::Unheard { .. } | BehindError::Unguided) => (
                ExitCode::TooFew,
                Some(
                    "back up again when they are on: a new list of snapshots would hide the old one; backmesh peers shows who is on. \
                     If they are gone for good, join again with a new state",
                ),
            ),
            BackupError::TakingOver => (
                ExitCode::TooFew,
                Some("it goes on by itself once members that know the vault can be reached; backmesh peers shows who is on"),
            ),
            _ => (ExitCode::Failed, None),
        };
        let failure = Self::new(code, error.to_string());
        let hint = hint.map(str::to_owned).or_else(|| crate::advice::advice(error));
        let hint = hint.or_else(|| error.is_own_disk().then(|| "what was stored so far stays stored".to_owned()));
        hint.map_or_else(|| failure.clone(), |hint| failure.clone().with_hint(hint))
    }
}

/// Backs up everything that is protected; where a backup runs already, only says so.
///
/// # Errors
/// [`BackupError`]. Files that cannot be read are problems in the report, not errors.
pub async fn back_up(node: &Arc<Node>, report: &Report) -> Result<BackupResult, BackupError> {
    let run = node.backing_up.begin().await.map_err(|_| BackupError::Running)?;
    back_up_in(node, run, report).await
}

/// As [`back_up`], for a person: a backup that runs already is waited for, and what it says is passed on.
///
/// # Errors
/// As [`back_up`].
pub async fn back_up_or_attend(node: &Arc<Node>, report: &Report) -> Result<BackupResult, Failure> {
    let begun = tokio::select! {
        begun = node.backing_up.begin() => begun,
        () = report.stopped() => return Err(BackupError::Interrupted.into()),
    };
    match begun {
        Ok(run) => back_up_in(node, run, report).await.map_err(Failure::from),
        Err(hearing) => {
            let ended = attend(hearing, |event| report.pass_on(event));
            tokio::select! { ended = ended => ended, () = report.stopped() => Err(BackupError::Interrupted.into()) }
        }
    }
}

async fn back_up_in(node: &Arc<Node>, run: Run, report: &Report) -> Result<BackupResult, BackupError> {
    if node.taking_over {
        return Err(BackupError::TakingOver);
    }
    let ended = back_up_alone(node, &report.heard_by(run.teller())).await;
    node.rest().await;
    let told = match &ended {
        Ok(done) => Ok(done.clone()),
        Err(error) => Err(Failure::from(error)),
    };
    run.end(told);
    ended
}

async fn back_up_alone(node: &Arc<Node>, report: &Report) -> Result<BackupResult, BackupError> {
    let (clock, started_at) = (Instant::now(), crate::os::now());
    let sent_before = node.outgoing.bytes_sent();
    let config = node.config();
    let roots = config.protect.clone();
    if roots.is_empty() {
        return Err(nothing_protected(node));
    }
    let options = WalkOptions { exclude: vec![node.state.clone()], rules: config.walk_rules()? };

    let packing = Arc::new(prepare(node, report)?);
    catch_up_to_write(node).await?;
    let (scanned, cache) = scan_and_pack(node, &packing, report, roots.clone(), options).await?;

    report.progress(Progress::new(Phase::Delivering));
    node.outbox.all_enough(HOLDERS_PATIENCE, report).await?;

    report.progress(Progress::new(Phase::Finishing));
    let segments = index_new_chunks(node, &packing, report).await?;
    node.outbox.all_enough(HOLDERS_PATIENCE, report).await?;
    // Only now: a holder may have refused their packs for good, and then the next backup has to write them again.
    segments.into_iter().for_each(|(purpose, listed)| node.vault.set_segments(purpose, listed));

    let snapshot = snapshot(node, &scanned, &packing, started_at, &roots, report.problems());
    let (id, finished_at) = (snapshot.id(), snapshot.finished_at);
    let head = commit::commit_head(node, snapshot).await?;
    node.schedule.succeeded(finished_at, roots);
    remember_what_helps(node, cache).await;
    node.members.announce_vault(&node.vault, &node.sets);
    tracing::info!(snapshot = %id, sequence = head.sequence, "a backup is done");

    Ok(BackupResult {
        snapshot: id.to_string(),
        files: scanned.files,
        bytes_read: scanned.bytes_read,
        bytes_added: packing.bytes_added.load(Ordering::Relaxed),
        bytes_sent: node.outgoing.bytes_sent() - sent_before,
        seconds: clock.elapsed().as_secs_f64(),
        problems: report.problems(),
        complete: node.outbox.shards_pending() == 0,
        notes: notes(&scanned),
        left_out: crate::preview::left_out(&scanned.left_out),
    })
}

/// The backup counts already: what cannot be written now costs the next one time, and nothing else.
async fn remember_what_helps(node: &Node, cache: backmesh_store::StatCacheWriter) {
    match tokio::task::spawn_blocking(move || cache.finish()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("the next backup reads files again that have not changed: {error}"),
        Err(error) => tracing::warn!("the next backup reads files again that have not changed: {error}"),
    }
    if let Err(error) = node.sets.save() {
        tracing::warn!("how full the copysets are cannot be remembered now: {error}");
    }
}

/// A configuration that was lost looks like one in which nothing was ever protected; the vault knows better.
fn nothing_protected(node: &Node) -> BackupError {
    let body = node.vault.body();
    let roots = body.snapshots.last().map(|newest| newest.roots.as_slice()).unwrap_or_default();
    match roots {
        [] => BackupError::NothingProtected,
        roots => BackupError::NoLongerProtected(roots.iter().map(|root| backmesh_control::escape(&root.0)).collect()),
    }
}

fn notes(scanned: &Scanned) -> Vec<String> {
    let sockets = count(scanned.sockets, "socket is", "sockets are");
    let note = format!("{sockets} only listed: the program that makes one makes it anew");
    if scanned.sockets > 0 { vec![note] } else { Vec::new() }
}

/// Checks that there are holders at all before anything is read.
fn prepare(node: &Node, report: &Report) -> Result<Packing, BackupError> {
    node.sets.check()?;
    Ok(Packing {
        outbox: Arc::clone(&node.outbox),
        sets: Arc::clone(&node.sets),
        writer: Arc::clone(&node.vault.writer),
        id_key: node.vault.id_key.clone(),
        recipients: vec![node.vault.writer.certificate.sealing],
        buffers: Buffers::default(),
        bytes_added: AtomicU64::new(0),
        report: report.clone(),
        failed: AtomicBool::new(false),
    })
}

/// Walks, reads, chunks, compresses, seals, codes and sends, all at once: one thread that reads, some that seal.
async fn scan_and_pack(
    node: &Arc<Node>,
    packing: &Arc<Packing>,
    report: &Report,
    roots: Vec<PathBuf>,
    options: WalkOptions,
) -> Result<(Scanned, backmesh_store::StatCacheWriter), BackupError> {
    let (node, packing, report) = (Arc::clone(node), Arc::clone(packing), report.clone());
    let work = blocking(report.is_in_background(), move || {
        let (data, data_frames) = mpsc::sync_channel(FRAMES_WAITING);
        let (pages, page_frames) = mpsc::sync_channel(FRAMES_WAITING);
        let (data_frames, page_frames) = (Arc::new(Mutex::new(data_frames)), Arc::new(Mutex::new(page_frames)));
        let packers = std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1)).clamp(1, PACKERS_MAX);
        node.outbox.begin();
        let scanned = std::thread::scope(|threads| {
            let packing = &*packing;
            // The threads own the receiving ends: when the last of them has failed, the scan cannot send any more and ends too.
            let mut packed: Vec<_> = (0..packers)
                .map(|_| {
                    let frames = Arc::clone(&data_frames);
                    threads.spawn(move || pack_frames(packing, Purpose::Data, &frames))
                })
                .collect();
            packed.push(threads.spawn(move || pack_frames(packing, Purpose::Catalogue, &page_frames)));
            drop(data_frames);
            let scanned = scan(&node, packing, &report, (&roots, &options), data, pages);
            let ended = packed.into_iter().map(|thread| thread.join().unwrap_or(Err(BackupError::Stopped)));
            // A thread's own failure says more than that the others stopped because of it.
            let failed = ended.filter_map(Result::err).reduce(|first, next| if first.is_consequence() { next } else { first });
            failed.map_or(scanned, Err)
        });
        node.outbox.rest();
        if scanned.is_err() {
            node.outbox.disclaim_unpacked();
        }
        scanned
    });
    work.await.ok_or(BackupError::Stopped)?
}

fn scan(
    node: &Node,
    packing: &Packing,
    report: &Report,
    (roots, options): (&[PathBuf], &WalkOptions),
    data: packing::Frames,
    pages: packing::Frames,
) -> Result<(Scanned, backmesh_store::StatCacheWriter), BackupError> {
    let data = Chunks::new(packing, data);
    let pages = PageChunks::new(packing, &pages);
    let (before, cache) = node.stat_cache()?;
    let sent_before = node.outgoing.bytes_sent();
    let bytes_sent = || node.outgoing.bytes_sent() - sent_before;
    let totals = Totals::of(&node.vault.body().snapshots, roots);
    Scan::new(report, data, pages, before, cache, &bytes_sent, totals).run(roots, options)
}

/// First the page of older snapshots, if one is due, then the index, which has to name that page.
async fn index_new_chunks(
    node: &Arc<Node>,
    packing: &Arc<Packing>,
    report: &Report,
) -> Result<Vec<(Purpose, Vec<Listed>)>, BackupError> {
    let paged_out = in_thread(node, packing, report, commit::page_out_snapshots).await?;
    if let Some(paged_out) = paged_out {
        node.outbox.all_enough(HOLDERS_PATIENCE, report).await?;
        paged_out.accept(node);
    }
    in_thread(node, packing, report, |node, packing| {
        let mut segments = Vec::new();
        for purpose in [Purpose::Data, Purpose::Catalogue] {
            segments.extend(commit::write_segments(node, packing, purpose)?.map(|listed| (purpose, listed)));
        }
        Ok(segments)
    })
    .await
}

async fn in_thread<T: Send + 'static>(
    node: &Arc<Node>,
    packing: &Arc<Packing>,
    report: &Report,
    work: impl FnOnce(&Node, &Packing) -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let (node, packing) = (Arc::clone(node), Arc::clone(packing));
    blocking(report.is_in_background(), move || work(&node, &packing)).await.ok_or(BackupError::Stopped)?
}

fn snapshot(node: &Node, scanned: &Scanned, packing: &Packing, started_at: u64, roots: &[PathBuf], problems: u64) -> Snapshot {
    Snapshot {
        started_at,
        finished_at: crate::os::now(),
        seat: node.vault.writer.certificate.seat,
        host: node.members.view().name.clone(),
        system: System::Unix,
        roots: roots.iter().map(|root| Bytes(crate::os::path_bytes(root).to_vec())).collect(),
        catalogue: scanned.catalogue.clone(),
        files: scanned.files,
        entries: scanned.entries,
        bytes: scanned.bytes,
        bytes_added: packing.bytes_added.load(Ordering::Relaxed),
        problems,
        tags: Vec::new(),
    }
}
