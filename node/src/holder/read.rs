//! The read stream: whoever proves the right to a vault is given its heads, plans and shards. Shards are checked against their root
//! each time they are read; a bad one is never served. A request is worked on once there is memory for its answer, which stays taken
//! until the answer is sent.

use super::Holder;
use crate::throttle::PacedWay;
use anyhow::{Context, bail};
use backmesh_codec::tree::{self, ProveError};
use backmesh_format::stripe::Stripe;
use backmesh_format::{CopysetId, NodeId, PackId, RecordHash, Signed, VaultId, Wire, limits};
use backmesh_mesh::holding::{ReadProof, Refused, judge_reader};
use backmesh_mesh::message::{
    READ_LIST_BYTES_MAX, READ_PACKS_MAX, READ_REQUEST_FRAME_BYTES_MAX, ReadReply, ReadRequest, Refusal,
};
use backmesh_net::{FrameError, FrameReader, FrameWriter, Pace, Stream};
use backmesh_policy::Offence;
use backmesh_store::{ShelfEntry, ShelfError, ShelfKey};
use std::sync::Arc;
use std::time::Duration;

/// How long a stranger may take to prove its right.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// What a list takes while it is made, in bytes: its records, and the frame.
const LIST_BYTES: usize = 2 * READ_LIST_BYTES_MAX + limits::HEAD_BYTES_MAX;
/// What any other answer takes at most, in bytes, shards left out.
const ANSWER_BYTES: usize = 256 << 10;

pub(super) async fn serve(holder: &Arc<Holder>, peer: NodeId, stream: Stream) -> anyhow::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let Some(pass) = holder.reading.enter(peer) else {
        holder.members.note(&peer, Offence::Protocol);
        return send(&mut writer, &refused(0, Refusal::Busy, "too many read streams are open: use those")).await;
    };
    let proof = tokio::time::timeout(PROOF_LIMIT, check_proof(holder, peer, &mut reader, &mut writer)).await;
    let vault = proof.context("no proof came in time")??;
    let pace: Arc<dyn Pace> = PacedWay::alone(&holder.throttles.serving_out);
    while let Some(frame) = request(holder, peer, &mut reader).await? {
        let request = ReadRequest::decode(&frame).inspect_err(|_| holder.members.note(&peer, Offence::Protocol));
        let request = request.context("a request that cannot be read")?;
        let worker = Arc::clone(holder);
        let (request, bytes) = tokio::task::spawn_blocking(move || {
            let bytes = answer_bytes(&worker, &vault, &request);
            (request, bytes)
        })
        .await?;
        let _room = pass.room(bytes).await.context("the node is ending")?;
        let worker = Arc::clone(holder);
        let reply = tokio::task::spawn_blocking(move || answer(&worker, &vault, request)).await?;
        // Only shards are held back: with the lists a recovery begins, and they are short.
        let is_shard = matches!(reply, ReadReply::Range { .. });
        writer.set_pace(is_shard.then(|| Arc::clone(&pace)));
        let (fields, tail) = reply.encode_parts();
        writer.send_parts(&[&fields, tail]).await?;
        writer.flush().await?;
    }
    Ok(writer.close().await?)
}

/// The next request; one of a length that no request has is taken notice of.
async fn request(holder: &Holder, peer: NodeId, reader: &mut FrameReader) -> Result<Option<Vec<u8>>, FrameError> {
    let frame = reader.next(READ_REQUEST_FRAME_BYTES_MAX).await;
    if matches!(frame, Err(FrameError::TooLong { .. })) {
        holder.members.note(&peer, Offence::Protocol);
    }
    frame
}

async fn check_proof(
    holder: &Holder,
    peer: NodeId,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> anyhow::Result<VaultId> {
    let nonce: [u8; 32] = rand::random();
    send(writer, &ReadReply::Challenge { nonce }).await?;
    let frame = request(holder, peer, reader).await?.context("no proof came")?;
    let ReadRequest::Prove { vault, how, key, signature } = ReadRequest::decode(&frame)? else {
        bail!("something else than a proof came first");
    };
    let proof = ReadProof { vault: &vault, how: &how, key: &key, signature: &signature };
    match judge_reader(&proof, &nonce, &holder.me, &peer, |seat| holder.kept.fence(&vault, seat)) {
        Ok(()) => send(writer, &ReadReply::Proved).await.map(|()| vault),
        Err(Refused { reason, text }) => {
            send(writer, &ReadReply::Refused { call: 0, reason, text: text.clone() }).await?;
            bail!("a proof was refused: {text}");
        }
    }
}

async fn send(writer: &mut FrameWriter, reply: &ReadReply) -> anyhow::Result<()> {
    let (fields, tail) = reply.encode_parts();
    writer.send_parts(&[&fields, tail]).await?;
    Ok(writer.flush().await?)
}

/// How much memory an answer may take. For a range the whole shard is read, as its proof needs all of it.
fn answer_bytes(holder: &Holder, vault: &VaultId, request: &ReadRequest) -> usize {
    match request {
        ReadRequest::Heads { .. } | ReadRequest::Copysets { .. } => LIST_BYTES,
        ReadRequest::Range { pack, shard, bytes, .. } => {
            let key = ShelfKey { vault: *vault, pack: *pack, shard: *shard };
            let record = holder.shelf.record(&key).ok().flatten();
            let stripe = record.and_then(|record| Signed::<Stripe>::from_wire(&record).ok());
            let whole = stripe.map_or(0, |stripe| stripe.shard_bytes);
            let range = (*bytes).min(whole);
            whole as usize + range as usize + range as usize / 64 + ANSWER_BYTES
        }
        _ => ANSWER_BYTES,
    }
}

fn answer(holder: &Holder, vault: &VaultId, request: ReadRequest) -> ReadReply {
    match request {
        ReadRequest::Prove { .. } => refused(0, Refusal::Proof, "the proof was given already"),
        ReadRequest::Where { call } => {
            let (pointers, states) = holder.members.locate(vault);
            ReadReply::Where { call, pointers, states }
        }
        ReadRequest::Heads { call, after } => heads(holder, vault, call, after),
        ReadRequest::Copysets { call, after } => copysets(holder, vault, call, after.as_ref()),
        ReadRequest::Stripe { call, pack } => match stripe(holder, vault, &pack) {
            Some(stripe) => ReadReply::Stripe { call, stripe: Box::new(stripe) },
            None => ReadReply::Missing { call },
        },
        ReadRequest::Range { call, pack, shard, offset, bytes, with_stripe } => {
            let key = ShelfKey { vault: *vault, pack, shard };
            range(holder, &key, call, offset, bytes, with_stripe)
        }
        ReadRequest::Packs { call, copyset, after } => packs(holder, vault, call, &copyset, after),
    }
}

fn refused(call: u64, reason: Refusal, text: &str) -> ReadReply {
    ReadReply::Refused { call, reason, text: text.to_owned() }
}

fn heads(holder: &Holder, vault: &VaultId, call: u64, after: Option<RecordHash>) -> ReadReply {
    let all = holder.kept.heads(vault);
    let from = after.and_then(|after| all.iter().position(|(name, _)| name.hash == after)).map_or(0, |at| at + 1);
    let (mut heads, mut sum, mut more) = (Vec::new(), 0, false);
    for (name, bytes) in &all[from..] {
        if !heads.is_empty() && sum + bytes > READ_LIST_BYTES_MAX as u64 {
            more = true;
            break;
        }
        sum += bytes;
        heads.extend(holder.kept.head(vault, name).ok().flatten());
    }
    ReadReply::Heads { call, heads, more }
}

fn copysets(holder: &Holder, vault: &VaultId, call: u64, after: Option<&CopysetId>) -> ReadReply {
    let (mut copysets, mut sum, mut more) = (Vec::new(), 0, false);
    for set in holder.kept.copysets_after(vault, after) {
        let bytes = set.to_wire().len();
        if !copysets.is_empty() && sum + bytes > READ_LIST_BYTES_MAX {
            more = true;
            break;
        }
        sum += bytes;
        copysets.push((*set).clone());
    }
    ReadReply::Copysets { call, copysets, more }
}

/// A pack's record, from any of its shards that are here.
fn stripe(holder: &Holder, vault: &VaultId, pack: &PackId) -> Option<Signed<Stripe>> {
    let entries = holder.shelf.shards_of(pack).ok()?;
    let records = entries.iter().filter(|entry| entry.vault == *vault).filter_map(|entry| {
        let key = ShelfKey { vault: entry.vault, pack: entry.pack, shard: entry.shard };
        holder.shelf.record(&key).ok().flatten()
    });
    records.filter_map(|record| Signed::from_wire(&record).ok()).max_by_key(|stripe: &Signed<Stripe>| stripe.n())
}

fn range(holder: &Holder, key: &ShelfKey, call: u64, offset: u32, bytes: u32, with_stripe: bool) -> ReadReply {
    if holder.damaged.has(key) {
        return ReadReply::Missing { call };
    }
    let bad = |what: &str| {
        holder.damaged.note(key, what);
        ReadReply::Missing { call }
    };
    let stored = match holder.shelf.read(key) {
        Ok(Some(stored)) => stored,
        Ok(None) => return ReadReply::Missing { call },
        Err(error @ (ShelfError::Damaged { .. } | ShelfError::Gone { .. })) => return bad(&error.to_string()),
        Err(error) => {
            tracing::warn!(pack = %key.pack, shard = key.shard, "a shard on the shelf could not be read: {error}");
            return refused(call, Refusal::Failed, "this node's disk failed");
        }
    };
    let Ok(stripe) = Signed::<Stripe>::from_wire(&stored.record) else { return bad("its record cannot be read") };
    let Some(root) = stripe.shard_roots.get(usize::from(key.shard)) else { return bad("its record does not name it") };
    let end = u64::from(offset) + u64::from(bytes);
    match tree::prove(root, &stored.bytes, u64::from(offset)..end) {
        Ok(proof) => ReadReply::Range { call, stripe: with_stripe.then(|| Box::new(stripe)), proof },
        Err(ProveError::Range { .. }) => refused(call, Refusal::Range, "the range is not within the shard"),
        Err(ProveError::Damaged) => bad("its bytes are not those of its root"),
    }
}

fn packs(holder: &Holder, vault: &VaultId, call: u64, copyset: &CopysetId, after: Option<PackId>) -> ReadReply {
    let mut after = after.map(|pack| (pack, u8::MAX));
    let whole = |entry: &&ShelfEntry| !holder.damaged.has(&ShelfKey { vault: entry.vault, pack: entry.pack, shard: entry.shard });
    loop {
        let mut listed = holder.shelf.list_copyset(vault, copyset, after, READ_PACKS_MAX + 1).unwrap_or_default();
        let more = listed.len() > READ_PACKS_MAX;
        listed.truncate(READ_PACKS_MAX);
        let mut packs: Vec<PackId> = listed.iter().filter(whole).map(|entry| entry.pack).collect();
        packs.dedup();
        // An empty list would be taken for the end.
        if !packs.is_empty() || !more {
            return ReadReply::Packs { call, packs, more };
        }
        after = listed.last().map(|entry| (entry.pack, entry.shard));
    }
}
