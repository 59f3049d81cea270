//! The store stream: what an owner brings is judged, checked against its root, and answered once it is durable.

use super::Holder;
use super::intake::NotKept;
use anyhow::Context;
use backmesh_codec::tree;
use backmesh_format::copyset::Copyset;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, Signed, VaultId, Wire};
use backmesh_mesh::holding::{
    CopysetFacts, HeadFacts, Refused, ShardFacts, judge_copyset, judge_head, judge_member, judge_release, judge_shard,
    judge_unrelease,
};
use backmesh_mesh::message::{Refusal, STORE_REQUEST_FRAME_BYTES_MAX, StoreReply, StoreRequest};
use backmesh_net::{FrameWriter, Stream};
use backmesh_store::{RecordsError, ShelfKey, ShelfShard};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Replies that wait to be sent on one stream.
const REPLIES_WAITING: usize = 128;

pub(super) async fn serve(holder: &Arc<Holder>, peer: NodeId, stream: Stream) -> anyhow::Result<()> {
    let (mut reader, writer) = stream.split();
    let (replies, waiting) = mpsc::channel(REPLIES_WAITING);
    let sending = tokio::spawn(send_replies(writer, waiting));
    let served = async {
        while let Some(frame) = reader.next(STORE_REQUEST_FRAME_BYTES_MAX).await? {
            let request = StoreRequest::decode(frame).context("a request that cannot be read")?;
            answer(holder, peer, request, &replies).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = served.await {
        // Closed politely, the stream would leave a peer that goes on sending waiting for a window that nobody opens.
        sending.abort();
        return Err(error);
    }
    drop(replies);
    sending.await?
}

async fn send_replies(mut writer: FrameWriter, mut waiting: mpsc::Receiver<StoreReply>) -> anyhow::Result<()> {
    while let Some(reply) = waiting.recv().await {
        writer.send(&reply.encode()).await?;
        if waiting.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(writer.close().await?)
}

async fn answer(
    holder: &Arc<Holder>,
    peer: NodeId,
    request: StoreRequest,
    replies: &mpsc::Sender<StoreReply>,
) -> anyhow::Result<()> {
    let call = request.call();
    if let StoreRequest::Shard { shard, stripe, bytes, .. } = request {
        return take_shard(holder, peer, call, shard, *stripe, bytes, replies).await;
    }
    let worker = Arc::clone(holder);
    let done = tokio::task::spawn_blocking(move || match request {
        StoreRequest::Copyset { copyset, .. } => take_copyset(&worker, peer, *copyset),
        StoreRequest::Head { head, .. } => take_head(&worker, peer, &head),
        StoreRequest::Release { release, .. } => {
            let vault = release.writer.vault;
            let fence = worker.kept.fence(&vault, release.writer.seat);
            judge_release(worker.members.standing(&peer), fence, worker.kept.newest_release(&vault), &release)?;
            worker.kept.put_release(&release).map_err(failed)
        }
        StoreRequest::Unrelease { unrelease, .. } => {
            judge_unrelease(worker.kept.newest_release(&unrelease.vault), &unrelease)?;
            worker.kept.put_unrelease(&unrelease).map_err(failed)
        }
        StoreRequest::Shard { .. } => Ok(()),
    });
    reply(replies, call, done.await?).await
}

async fn reply(replies: &mpsc::Sender<StoreReply>, call: u64, done: Result<(), Refused>) -> anyhow::Result<()> {
    let reply = match done {
        Ok(()) => StoreReply::Done { call },
        Err(Refused { reason, text }) => StoreReply::Refused { call, reason, text },
    };
    replies.send(reply).await.context("the stream is closed")
}

fn failed(error: RecordsError) -> Refused {
    tracing::warn!("a record could not be kept: {error}");
    Refused { reason: Refusal::Failed, text: "this node's disk failed; its person was told".to_owned() }
}

fn take_copyset(holder: &Holder, peer: NodeId, copyset: Signed<Copyset>) -> Result<(), Refused> {
    let known = holder.kept.copyset(&copyset.writer.vault, &copyset.copyset);
    let owner = holder.kept.owner(&peer, &copyset.copyset);
    let facts = CopysetFacts {
        me: holder.me,
        asker: peer,
        standing: holder.members.standing(&peer),
        fence: holder.kept.fence(&copyset.writer.vault, copyset.writer.seat),
        known: known.as_deref(),
        budgets_bytes: owner.budgets_bytes,
        quota_bytes: holder.members.quota_bytes(),
        copysets: owner.copysets,
    };
    judge_copyset(&facts, &copyset)?;
    if known.is_some_and(|known| known.hash() == copyset.hash()) {
        return Ok(());
    }
    holder.kept.put_copyset(copyset).map_err(failed)
}

fn take_head(holder: &Holder, peer: NodeId, head: &Signed<Head>) -> Result<(), Refused> {
    let vault = head.writer.vault;
    let newest = holder.kept.newest_head(&vault, head.writer.seat);
    let facts = HeadFacts {
        standing: holder.members.standing(&peer),
        fence: holder.kept.fence(&vault, head.writer.seat),
        holds_vault: holder.kept.holds_vault(&vault),
        newest: newest.map(|(sequence, hash)| (sequence, hash == head.hash())),
        owner_bytes: owner_bytes(holder, &vault),
        quota_bytes: holder.members.quota_bytes(),
        free_bytes: holder.free_bytes(),
    };
    judge_head(&facts, head)?;
    if newest.is_some_and(|(_, hash)| hash == head.hash()) {
        return Ok(());
    }
    holder.kept.put_head(head).map_err(failed)
}

/// What is kept of the owner of a vault, in all its vaults, heads included.
fn owner_bytes(holder: &Holder, vault: &VaultId) -> u64 {
    let owner = holder.kept.copysets_after(vault, None).first().map(|set| set.writer.node);
    let vaults = owner.map_or_else(|| vec![*vault], |owner| holder.kept.vaults_of(&owner));
    vaults.iter().map(|vault| holder.shelf.usage_of(vault).bytes + holder.kept.heads_bytes(vault)).sum()
}

/// Judges a shard and compares it with its root; it is answered from a task of its own once it is on the disk, so that the next one
/// is read meanwhile.
async fn take_shard(
    holder: &Arc<Holder>,
    peer: NodeId,
    call: u64,
    shard: u8,
    stripe: Signed<Stripe>,
    bytes: Vec<u8>,
    replies: &mpsc::Sender<StoreReply>,
) -> anyhow::Result<()> {
    let memory = holder.intake.room(bytes.len()).await.context("the node is ending")?;
    if let Err(refused) = judge(holder, peer, &stripe, shard, &bytes) {
        return reply(replies, call, Err(refused)).await;
    }
    let record = stripe.to_wire();
    let shard = ShelfShard { vault: stripe.vault, pack: stripe.pack, copyset: stripe.copyset, shard, record, bytes };
    let kept = holder.intake.put(shard, memory).await;
    let replies = replies.clone();
    tokio::spawn(async move {
        let done = match kept.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotKept::Full(text))) => Err(Refused { reason: Refusal::Full, text }),
            Ok(Err(NotKept::Failed(text))) => Err(Refused { reason: Refusal::Failed, text }),
            Err(_) => Err(Refused { reason: Refusal::Busy, text: "this node is ending".to_owned() }),
        };
        reply(&replies, call, done).await.ok();
    });
    Ok(())
}

fn judge(holder: &Holder, peer: NodeId, stripe: &Signed<Stripe>, shard: u8, bytes: &[u8]) -> Result<(), Refused> {
    // A stranger's bytes are not worth a look into the shelf.
    judge_member(holder.members.standing(&peer))?;
    let copyset = holder.kept.copyset(&stripe.vault, &stripe.copyset);
    let key = ShelfKey { vault: stripe.vault, pack: stripe.pack, shard };
    let known = holder.shelf.record(&key).ok().flatten().and_then(|record| Signed::<Stripe>::from_wire(&record).ok());
    let facts = ShardFacts {
        me: holder.me,
        standing: holder.members.standing(&peer),
        copyset: copyset.as_deref(),
        fence: holder.kept.fence(&stripe.vault, stripe.seat),
        known: known.as_ref(),
        bytes: bytes.len() as u64,
        slot_bytes: holder.shelf.usage_of_copyset(&stripe.vault, &stripe.copyset).bytes,
        owner_bytes: owner_bytes(holder, &stripe.vault),
        quota_bytes: holder.members.quota_bytes(),
        free_bytes: holder.free_bytes(),
    };
    judge_shard(&facts, stripe, shard)?;
    if stripe.shard_roots.get(usize::from(shard)) != Some(&tree::root(bytes)) {
        return Err(Refused { reason: Refusal::WrongBytes, text: "the shard is not the one that its record names".to_owned() });
    }
    Ok(())
}
