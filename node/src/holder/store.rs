//! The store stream: what an owner brings is judged, checked against its root, and answered once it is durable.
//!
//! Of a member a frame is read once there is room for it. Of anyone else only a small one is, to say why it is refused; an un-release
//! is one, and needs no membership.

use super::gate::{Pass, Room};
use super::intake::NotKept;
use super::kept::Paced;
use super::{Holder, STRANGER_IDLE, STRANGER_STREAMS};
use crate::throttle::PacedWay;
use anyhow::Context;
use backmesh_codec::tree;
use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, Signed, VaultId, Wire};
use backmesh_mesh::holding::{
    CopysetFacts, HeadFacts, RecordRoom, Refused, ReleaseFacts, ShardFacts, UnreleaseFacts, judge_copyset, judge_head,
    judge_member, judge_release, judge_shard, judge_unrelease,
};
use backmesh_mesh::message::{Refusal, STORE_REQUEST_FRAME_BYTES_MAX, Standing, StoreReply, StoreRequest};
use backmesh_net::{FrameError, FrameReader, FrameWriter, Stream};
use backmesh_policy::Offence;
use backmesh_store::{DbError, DiskError, RecordsError, ShelfKey, ShelfShard};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

/// Replies that wait to be sent on one stream.
const REPLIES_WAITING: usize = 128;
/// The longest frame that is read of one who may not store, in bytes: any record but a head.
const STRANGER_FRAME_BYTES_MAX: usize = 64 << 10;
/// How long a last word may take before the stream is dropped.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);

/// Why a stream ended well.
enum End {
    /// The owner has nothing more.
    Done,
    /// A last refusal was said, and nothing more is read.
    Refused,
}

pub(super) async fn serve(holder: &Arc<Holder>, peer: NodeId, stream: Stream) -> anyhow::Result<()> {
    let (mut reader, writer) = stream.split();
    reader.set_pace(Some(PacedWay::alone(&holder.throttles.serving_in)));
    let (replies, waiting) = mpsc::channel(REPLIES_WAITING);
    let mut sending = tokio::spawn(send_replies(writer, waiting));
    let served = match holder.storing.enter(peer) {
        Some(pass) => take_requests(holder, peer, &pass, &mut reader, &replies).await,
        None => {
            holder.members.note(&peer, Offence::Protocol);
            refuse_stream(&replies, Refusal::Busy, "too many store streams are open: use those").await
        }
    };
    drop(replies);
    match served {
        Ok(End::Done) => Ok(sending.await??.close().await?),
        // Closed politely, the stream would leave a peer that goes on sending waiting for a window that nobody opens.
        Ok(End::Refused) => {
            if timeout(LAST_WORD_LIMIT, &mut sending).await.is_err() {
                sending.abort();
            }
            Ok(())
        }
        Err(error) => {
            sending.abort();
            Err(error)
        }
    }
}

async fn send_replies(mut writer: FrameWriter, mut waiting: mpsc::Receiver<StoreReply>) -> anyhow::Result<FrameWriter> {
    while let Some(reply) = waiting.recv().await {
        writer.send(&reply.encode()).await?;
        if waiting.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(writer)
}

/// The last word on a stream whose requests are not read: it answers none of them by its number.
async fn refuse_stream(replies: &mpsc::Sender<StoreReply>, reason: Refusal, text: &str) -> anyhow::Result<End> {
    reply(replies, 0, Err(Refused { reason, text: text.to_owned() })).await?;
    Ok(End::Refused)
}

async fn take_requests(
    holder: &Arc<Holder>,
    peer: NodeId,
    pass: &Pass,
    reader: &mut FrameReader,
    replies: &mpsc::Sender<StoreReply>,
) -> anyhow::Result<End> {
    let mut stranger: Option<OwnedSemaphorePermit> = None;
    loop {
        let may_store = judge_member(holder.members.standing(&peer));
        let (bytes_max, idle) = match &may_store {
            Ok(()) => (STORE_REQUEST_FRAME_BYTES_MAX, None),
            Err(_) => (STRANGER_FRAME_BYTES_MAX, Some(STRANGER_IDLE)),
        };
        if may_store.is_ok() {
            stranger = None;
        } else if stranger.is_none() {
            stranger = Arc::clone(&holder.strangers).try_acquire_owned().ok();
            if stranger.is_none() {
                let text = format!("{STRANGER_STREAMS} who are not members are asking already: try again later");
                return refuse_stream(replies, Refusal::Busy, &text).await;
            }
        }
        reader.set_idle_timeout(idle);
        let bytes = match (reader.next_bytes(bytes_max).await, may_store) {
            (Err(FrameError::TooLong { .. }), Err(Refused { reason, text })) => {
                return refuse_stream(replies, reason, &text).await;
            }
            (bytes, _) => noted(holder, peer, bytes)?,
        };
        let Some(bytes) = bytes else { return Ok(End::Done) };
        let memory = pass.room(bytes).await.context("the node is ending")?;
        let Some(frame) = reader.next(bytes_max).await? else { return Ok(End::Done) };
        let request = StoreRequest::decode(frame).inspect_err(|_| holder.members.note(&peer, Offence::Protocol));
        let request = request.context("a request that cannot be read")?;
        answer(holder, peer, request, memory, replies).await?;
    }
}

/// Takes notice of a frame that no honest member announces.
fn noted<T>(holder: &Holder, peer: NodeId, read: Result<T, FrameError>) -> Result<T, FrameError> {
    if matches!(read, Err(FrameError::TooLong { .. })) {
        holder.members.note(&peer, Offence::Protocol);
    }
    read
}

/// Takes notice of what no honest member brings.
fn judge_bringer(holder: &Holder, peer: &NodeId, done: &Result<(), Refused>) {
    let offence = match done {
        Err(Refused { reason: Refusal::Writer, .. }) => Offence::Forged,
        Err(Refused { reason: Refusal::WrongBytes, .. }) => Offence::WrongBytes,
        Err(Refused { reason: Refusal::BadRecord, .. }) => Offence::Protocol,
        _ => return,
    };
    holder.members.note(peer, offence);
}

async fn answer(
    holder: &Arc<Holder>,
    peer: NodeId,
    request: StoreRequest,
    memory: Room,
    replies: &mpsc::Sender<StoreReply>,
) -> anyhow::Result<()> {
    let call = request.call();
    let standing = holder.members.standing(&peer);
    if let StoreRequest::Shard { shard, stripe, bytes, .. } = request {
        return match judge_member(standing).and_then(|()| require_disk(holder)) {
            Ok(()) => take_shard(holder, (peer, standing), call, (*stripe, shard, bytes), memory, replies).await,
            // A stranger's bytes are not worth a look into the shelf.
            refused => reply(replies, call, refused).await,
        };
    }
    if !matches!(request, StoreRequest::Unrelease { .. }) {
        // A broken disk keeps no un-release out: it saves what is on it.
        if let Err(refused) = judge_member(standing).and_then(|()| require_disk(holder)) {
            return reply(replies, call, Err(refused)).await;
        }
    }
    let worker = Arc::clone(holder);
    let done = tokio::task::spawn_blocking(move || match request {
        StoreRequest::Copyset { copyset, .. } => take_copyset(&worker, peer, standing, *copyset),
        StoreRequest::Head { head, .. } => take_head(&worker, standing, &head),
        StoreRequest::Release { release, .. } => take_release(&worker, standing, &release),
        StoreRequest::Unrelease { unrelease, .. } => take_unrelease(&worker, &unrelease),
        StoreRequest::Shard { .. } => Ok(()),
    });
    let done = done.await?;
    judge_bringer(holder, &peer, &done);
    reply(replies, call, done).await
}

async fn reply(replies: &mpsc::Sender<StoreReply>, call: u64, done: Result<(), Refused>) -> anyhow::Result<()> {
    let reply = match done {
        Ok(()) => StoreReply::Done { call },
        Err(Refused { reason, text }) => StoreReply::Refused { call, reason, text },
    };
    replies.send(reply).await.context("the stream is closed")
}

/// A write of records failed. After a failed sync none succeeds; that is said once.
fn failed(holder: &Holder, error: &RecordsError) -> Refused {
    let RecordsError::Db(db) = error;
    let final_word = matches!(db, DbError::Disk(DiskError::Unconfirmed { .. } | DiskError::Poisoned { .. }));
    if !final_word {
        tracing::warn!("a record could not be kept: {error}");
    } else if !holder.records_broken.swap(true, Ordering::AcqRel) {
        tracing::error!("no records of others are kept until this node starts again: {error}");
    }
    match db {
        DbError::Disk(DiskError::Full { .. }) => Refused { reason: Refusal::Full, text: "this node's disk is full".to_owned() },
        _ => disk_failed(),
    }
}

fn disk_failed() -> Refused {
    Refused { reason: Refusal::Failed, text: "this node's disk failed; its person was told".to_owned() }
}

/// Refuses what a disk would have to take that does not confirm what it is given: its owner should know that it is no lack of space.
fn require_disk(holder: &Holder) -> Result<(), Refused> {
    if holder.is_broken() { Err(disk_failed()) } else { Ok(()) }
}

fn take_copyset(holder: &Holder, peer: NodeId, standing: Standing, copyset: Signed<Copyset>) -> Result<(), Refused> {
    let known = holder.kept.copyset(&copyset.writer.vault, &copyset.copyset);
    let owner = holder.kept.owner(&peer, (&copyset.writer.vault, &copyset.copyset));
    let facts = CopysetFacts {
        me: holder.me,
        asker: peer,
        standing,
        fence: holder.kept.fence(&copyset.writer.vault, copyset.writer.seat),
        known: known.as_deref(),
        budgets_bytes: owner.budgets_bytes,
        quota_bytes: holder.members.quota_bytes(),
        copysets: owner.copysets,
        free_bytes: holder.free_bytes(),
    };
    judge_copyset(&facts, &copyset)?;
    if known.is_some_and(|known| known.hash() == copyset.hash()) {
        return Ok(());
    }
    holder.kept.put_copyset(copyset).map_err(|error| failed(holder, &error))
}

fn take_head(holder: &Holder, standing: Standing, head: &Signed<Head>) -> Result<(), Refused> {
    let vault = head.writer.vault;
    let newest = holder.kept.newest_head(&vault, head.writer.seat);
    let facts = HeadFacts {
        standing,
        fence: holder.kept.fence(&vault, head.writer.seat),
        holds_vault: holder.kept.holds_vault(&vault),
        newest: newest.map(|(rank, hash)| (rank, hash == head.hash())),
        room: room(holder, &head.writer.node, &vault, Paced::Head),
    };
    judge_head(&facts, head)?;
    if newest.is_some_and(|(_, hash)| hash == head.hash()) {
        return Ok(());
    }
    holder.kept.put_head(head).map_err(|error| failed(holder, &error))
}

fn take_release(holder: &Holder, standing: Standing, release: &Signed<Release>) -> Result<(), Refused> {
    let writer = &release.writer;
    let facts = ReleaseFacts {
        standing,
        fence: holder.kept.fence(&writer.vault, writer.seat),
        holds_vault: holder.kept.holds_vault(&writer.vault),
        newest: holder.kept.newest_release(writer),
        room: room(holder, &writer.node, &writer.vault, Paced::Release),
    };
    judge_release(&facts, release)?;
    holder.kept.put_release(release).map_err(|error| failed(holder, &error))
}

fn take_unrelease(holder: &Holder, unrelease: &Signed<Unrelease>) -> Result<(), Refused> {
    let vault = &unrelease.vault;
    let Some(owner) = holder.kept.owner_of(vault) else {
        return Err(Refused { reason: Refusal::UnknownCopyset, text: "this node holds nothing of the vault".to_owned() });
    };
    let facts = UnreleaseFacts {
        holds_vault: true,
        newest: holder.kept.newest_unrelease(vault),
        unrelease_bytes: holder.kept.owner_records(&owner).unrelease_bytes,
        room: room(holder, &owner, vault, Paced::Unrelease),
    };
    judge_unrelease(&facts, unrelease)?;
    holder.kept.put_unrelease(unrelease).map_err(|error| failed(holder, &error))
}

/// The room for a record of an owner's vault.
fn room(holder: &Holder, owner: &NodeId, vault: &VaultId, kind: Paced) -> RecordRoom {
    RecordRoom {
        owner_bytes: owner_bytes(holder, owner),
        quota_bytes: holder.members.quota_bytes(),
        free_bytes: holder.free_bytes(),
        today: holder.kept.taken_today(vault, kind),
    }
}

/// What is kept of an owner, in all its vaults, records included.
fn owner_bytes(holder: &Holder, owner: &NodeId) -> u64 {
    let records = holder.kept.owner_records(owner);
    let shards: u64 = match records.vaults.as_slice() {
        [] => 0,
        [vault] => holder.shelf.usage_of(vault).bytes,
        several => {
            let all = holder.shelf.vaults().into_iter();
            all.filter(|(vault, _)| several.binary_search(vault).is_ok()).map(|(_, usage)| usage.bytes).sum()
        }
    };
    shards.saturating_add(records.bytes)
}

/// Judges a shard and compares it with its root; it is answered from a task of its own once it is on the disk, so that the next one
/// is read meanwhile.
async fn take_shard(
    holder: &Arc<Holder>,
    (peer, standing): (NodeId, Standing),
    call: u64,
    (stripe, shard, bytes): (Signed<Stripe>, u8, Vec<u8>),
    memory: Room,
    replies: &mpsc::Sender<StoreReply>,
) -> anyhow::Result<()> {
    let worker = Arc::clone(holder);
    let judged = tokio::task::spawn_blocking(move || {
        judge(&worker, standing, &stripe, shard, &bytes)?;
        let record = stripe.to_wire();
        Ok(ShelfShard { vault: stripe.vault, pack: stripe.pack, copyset: stripe.copyset, shard, record, bytes })
    });
    let shard = match judged.await? {
        Ok(shard) => shard,
        Err(refused) => {
            let refused = Err(refused);
            judge_bringer(holder, &peer, &refused);
            return reply(replies, call, refused).await;
        }
    };
    let key = ShelfKey { vault: shard.vault, pack: shard.pack, shard: shard.shard };
    let kept = holder.intake.put(shard, memory).await;
    let (holder, replies) = (Arc::clone(holder), replies.clone());
    tokio::spawn(async move {
        let done = match kept.await {
            Ok(Ok(())) => {
                holder.damaged.forget(&key);
                Ok(())
            }
            Ok(Err(NotKept::Full(text))) => Err(Refused { reason: Refusal::Full, text }),
            Ok(Err(NotKept::Failed(text))) => Err(Refused { reason: Refusal::Failed, text }),
            Err(_) => Err(Refused { reason: Refusal::Busy, text: "this node is ending".to_owned() }),
        };
        reply(&replies, call, done).await.ok();
    });
    Ok(())
}

fn judge(holder: &Holder, standing: Standing, stripe: &Signed<Stripe>, shard: u8, bytes: &[u8]) -> Result<(), Refused> {
    let copyset = holder.kept.copyset(&stripe.vault, &stripe.copyset);
    let key = ShelfKey { vault: stripe.vault, pack: stripe.pack, shard };
    let known = holder.shelf.record(&key).ok().flatten().and_then(|record| Signed::<Stripe>::from_wire(&record).ok());
    let facts = ShardFacts {
        me: holder.me,
        standing,
        copyset: copyset.as_deref(),
        fence: holder.kept.fence(&stripe.vault, stripe.seat),
        known: known.as_ref(),
        bytes: bytes.len() as u64,
        slot_bytes: holder.shelf.usage_of_copyset(&stripe.vault, &stripe.copyset).bytes,
        owner_bytes: copyset.as_ref().map_or(0, |set| owner_bytes(holder, &set.writer.node)),
        quota_bytes: holder.members.quota_bytes(),
        free_bytes: holder.free_bytes(),
    };
    judge_shard(&facts, stripe, shard)?;
    if stripe.shard_roots.get(usize::from(shard)) != Some(&tree::root(bytes)) {
        return Err(Refused { reason: Refusal::WrongBytes, text: "the shard is not the one that its record names".to_owned() });
    }
    Ok(())
}
