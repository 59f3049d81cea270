//! How the lying member answers: a small holder that keeps what it is given in memory, and whose answers are bent on their way out.

use super::{Behaviour, Core, Kept};
use anyhow::{Result, bail};
use backmesh_codec::tree;
use backmesh_format::keys::KeyPair;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::wire::Bytes;
use backmesh_format::{NodeId, PackId, Signed, VaultId};
use backmesh_mesh::message::{
    READ_REQUEST_FRAME_BYTES_MAX, ReadReply, ReadRequest, Refusal, STORE_REQUEST_FRAME_BYTES_MAX, StoreReply, StoreRequest,
};
use backmesh_net::{FrameWriter, Pace, Protocol, Stream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How late a late answer is.
const LATE: Duration = Duration::from_secs(3);
/// Acknowledgements of one request in a flood.
const FLOOD: usize = 100_000;
/// Frames kept to be replayed.
const CAPTURED_MAX: usize = 64;

/// Both halves of a conversation write here.
type Out = Arc<Mutex<FrameWriter>>;

/// Serves a stream until the member changes its behaviour, which drops it.
pub(super) async fn until_it_turns(core: Arc<Core>, peer: NodeId, protocol: Protocol, stream: Stream) {
    let mut turned = core.behaviour.subscribe();
    turned.borrow_and_update();
    let served = async {
        match protocol {
            Protocol::Store => serve_store(&core, stream).await,
            _ => serve_read(&core, peer, stream).await,
        }
    };
    tokio::select! { _ = served => {}, _ = turned.changed() => {} }
}

/// One byte, and a second until the next.
struct Trickle;

impl Pace for Trickle {
    fn piece_bytes_max(&self) -> usize {
        1
    }

    fn moved(&self, _: usize) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        Some(Box::pin(tokio::time::sleep(Duration::from_secs(1))))
    }
}

/// A frame whose announced length is never reached.
async fn endless(out: &Out) -> Result<()> {
    let part = vec![0x55; 16 << 20];
    let parts: Vec<&[u8]> = (0..200).map(|_| &part[..]).collect();
    Ok(out.lock().await.send_parts(&parts).await?)
}

async fn serve_store(core: &Arc<Core>, stream: Stream) -> Result<()> {
    let behaviour = core.behaviour();
    let (mut reader, writer) = stream.split();
    let out: Out = Arc::new(Mutex::new(writer));
    if behaviour == Behaviour::Silent {
        return std::future::pending().await;
    }
    if behaviour == Behaviour::Trickles {
        out.lock().await.set_pace(Some(Arc::new(Trickle)));
    }
    while let Some(frame) = reader.next(STORE_REQUEST_FRAME_BYTES_MAX).await? {
        if behaviour == Behaviour::Replays {
            core.kept().capture(&frame);
        }
        let request = StoreRequest::decode(frame)?;
        let call = request.call();
        core.kept().take(behaviour, request);
        let done = StoreReply::Done { call };
        match behaviour {
            Behaviour::Late => {
                let out = Arc::clone(&out);
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    say(&out, &done).await
                });
            }
            Behaviour::Refuses => {
                let text = "no".to_owned();
                say(&out, &StoreReply::Refused { call, reason: Refusal::Failed, text }).await?;
            }
            Behaviour::Unasked => say(&out, &StoreReply::Done { call: call + 1_000_000 }).await?,
            Behaviour::Early => {
                say(&out, &done).await?;
                say(&out, &StoreReply::Done { call: call + 1 }).await?;
            }
            Behaviour::Floods => {
                for _ in 0..FLOOD {
                    out.lock().await.send(&done.encode()).await?;
                }
                out.lock().await.flush().await?;
            }
            Behaviour::Closes => return Ok(()),
            Behaviour::Endless => return endless(&out).await,
            _ => say(&out, &done).await?,
        }
    }
    Ok(())
}

async fn say(out: &Out, reply: &StoreReply) -> Result<()> {
    let mut out = out.lock().await;
    out.send(&reply.encode()).await?;
    Ok(out.flush().await?)
}

async fn serve_read(core: &Arc<Core>, _peer: NodeId, stream: Stream) -> Result<()> {
    let behaviour = core.behaviour();
    let (mut reader, writer) = stream.split();
    let out: Out = Arc::new(Mutex::new(writer));
    if behaviour == Behaviour::Silent {
        return std::future::pending().await;
    }
    tell(&out, ReadReply::Challenge { nonce: [7; 32] }).await?;
    let Some(frame) = reader.next(READ_REQUEST_FRAME_BYTES_MAX).await? else { return Ok(()) };
    if behaviour == Behaviour::Replays {
        core.kept().capture(&frame);
    }
    let ReadRequest::Prove { vault, .. } = ReadRequest::decode(&frame)? else { bail!("no proof") };
    tell(&out, ReadReply::Proved).await?;
    if behaviour == Behaviour::Trickles {
        out.lock().await.set_pace(Some(Arc::new(Trickle)));
    }
    while let Some(frame) = reader.next(READ_REQUEST_FRAME_BYTES_MAX).await? {
        let request = ReadRequest::decode(&frame)?;
        let call = request.call();
        let honest = answer(core, &vault, request);
        let bent = bend(behaviour, call, honest);
        match behaviour {
            Behaviour::Late => {
                let out = Arc::clone(&out);
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    tell(&out, bent).await
                });
            }
            Behaviour::Closes => return Ok(()),
            Behaviour::Endless => return endless(&out).await,
            Behaviour::Floods => {
                for _ in 0..FLOOD / 100 {
                    let Ok(()) = tell(&out, bent.clone()).await else { bail!("nobody listens any more") };
                }
            }
            _ => tell(&out, bent).await?,
        }
    }
    Ok(())
}

async fn tell(out: &Out, reply: ReadReply) -> Result<()> {
    let (fields, tail) = reply.encode_parts();
    let mut out = out.lock().await;
    out.send_parts(&[&fields, tail]).await?;
    Ok(out.flush().await?)
}

impl Kept {
    /// Keeps what a request brings, or claims to.
    fn take(&mut self, behaviour: Behaviour, request: StoreRequest) {
        match request {
            StoreRequest::Copyset { copyset, .. } => {
                self.sets.insert((copyset.writer.vault, copyset.copyset), *copyset);
            }
            StoreRequest::Head { head, .. } => self.heads.push(*head),
            StoreRequest::Shard { stripe, .. } if matches!(behaviour, Behaviour::Drops | Behaviour::Claims) => {
                self.claimed.insert(stripe.pack, stripe.copyset);
            }
            StoreRequest::Shard { shard, stripe, bytes, .. } => {
                self.shards.insert((stripe.pack, shard), (*stripe, bytes));
            }
            StoreRequest::Release { .. } | StoreRequest::Unrelease { .. } => {}
        }
    }

    fn capture(&mut self, frame: &[u8]) {
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push(frame.to_vec());
        }
    }

    fn stripe(&self, pack: &PackId) -> Option<&Signed<Stripe>> {
        let mut of_pack = self.shards.range((*pack, 0)..=(*pack, u8::MAX));
        of_pack.next().map(|(_, (stripe, _))| stripe)
    }
}

/// What a holder with what it keeps would say.
fn answer(core: &Core, vault: &VaultId, request: ReadRequest) -> ReadReply {
    let kept = core.kept();
    match request {
        ReadRequest::Prove { .. } => ReadReply::Proved,
        ReadRequest::Where { call } => {
            let (pointers, states) = core.members.locate(vault);
            ReadReply::Where { call, pointers, states }
        }
        ReadRequest::Heads { call, .. } => {
            let mut heads: Vec<Signed<Head>> = kept.heads.iter().filter(|head| head.writer.vault == *vault).cloned().collect();
            heads.reverse();
            if core.behaviour() == Behaviour::OldHead {
                heads.drain(..heads.len().saturating_sub(1));
            }
            ReadReply::Heads { call, heads, more: false }
        }
        ReadRequest::Copysets { call, .. } => {
            let copysets = kept.sets.iter().filter(|((of, _), _)| of == vault).map(|(_, set)| set.clone()).collect();
            ReadReply::Copysets { call, copysets, more: false }
        }
        ReadRequest::Stripe { call, pack } => match kept.stripe(&pack) {
            Some(stripe) => ReadReply::Stripe { call, stripe: Box::new(stripe.clone()) },
            None => ReadReply::Missing { call },
        },
        ReadRequest::Range { call, pack, shard, offset, bytes, .. } => {
            if core.behaviour() == Behaviour::Claims {
                return ReadReply::Range { call, stripe: None, proof: vec![0x5a; bytes as usize] };
            }
            let Some((stripe, content)) = kept.shards.get(&(pack, shard)) else { return ReadReply::Missing { call } };
            let range = u64::from(offset)..u64::from(offset) + u64::from(bytes);
            let root = stripe.shard_roots.get(usize::from(shard));
            match root.and_then(|root| tree::prove(root, content, range).ok()) {
                Some(proof) => ReadReply::Range { call, stripe: None, proof },
                None => ReadReply::Missing { call },
            }
        }
        ReadRequest::Packs { call, copyset, after } => {
            let held = kept.shards.values().map(|(stripe, _)| (stripe.pack, stripe.copyset));
            let claimed = kept.claimed.iter().map(|(pack, set)| (*pack, *set));
            let claims = core.behaviour() == Behaviour::Claims;
            let all = held.chain(claimed.filter(|_| claims)).filter(|(_, set)| *set == copyset).map(|(pack, _)| pack);
            let mut packs: Vec<PackId> = all.filter(|pack| after.is_none_or(|after| *pack > after)).collect();
            packs.sort_unstable();
            packs.dedup();
            packs.truncate(1000);
            let more = packs.len() == 1000;
            ReadReply::Packs { call, packs, more }
        }
    }
}

/// The answer as it is given.
fn bend(behaviour: Behaviour, call: u64, honest: ReadReply) -> ReadReply {
    let own = KeyPair::from_secret(&[0x66; 32]);
    match (behaviour, honest) {
        (Behaviour::WrongBytes, ReadReply::Range { call, stripe, mut proof }) => {
            let middle = proof.len() / 2;
            proof[middle] ^= 1;
            ReadReply::Range { call, stripe, proof }
        }
        (Behaviour::Forges, ReadReply::Stripe { call, stripe }) => {
            let forged = Stripe { pack_root: tree::root(b"forged"), ..stripe.into_inner() };
            ReadReply::Stripe { call, stripe: Box::new(Signed::new(forged, &[&own])) }
        }
        (Behaviour::Forges, ReadReply::Heads { call, mut heads, .. }) => {
            let forged = heads.first().map(|head| Head {
                sequence: head.sequence + 1000,
                sealed: Bytes(vec![1; 4096]),
                ..(**head).clone()
            });
            heads.insert(0, Signed::new(forged.unwrap_or_else(|| unreachable_head(&own)), &[&own]));
            ReadReply::Heads { call, heads, more: false }
        }
        (Behaviour::Forges, ReadReply::Copysets { call, copysets, .. }) => {
            let forge = |set: &Signed<backmesh_format::copyset::Copyset>| {
                let mut forged = (**set).clone();
                forged.sequence += 1000;
                forged.slots.reverse();
                Signed::new(forged, &[&own])
            };
            ReadReply::Copysets { call, copysets: copysets.iter().map(forge).collect(), more: false }
        }
        (Behaviour::Forges, ReadReply::Range { call, .. }) => ReadReply::Missing { call },
        (Behaviour::RefusesRanges, ReadReply::Range { .. }) => {
            ReadReply::Refused { call, reason: Refusal::Failed, text: "no".to_owned() }
        }
        (Behaviour::Refuses, _) => ReadReply::Refused { call, reason: Refusal::Failed, text: "no".to_owned() },
        (Behaviour::Unasked | Behaviour::Early, _) => ReadReply::Missing { call: call + 1_000_000 },
        (_, honest) => honest,
    }
}

/// A head of a vault that nobody has.
fn unreachable_head(own: &KeyPair) -> Head {
    let writer = backmesh_format::vault::WriterCert {
        vault: VaultId(own.public().0),
        seat: 0,
        generation: 1,
        writer: own.public(),
        sealing: backmesh_format::SealingKey([0; 32]),
        node: NodeId(own.public().0),
        machine: backmesh_format::MachineId([0; 32]),
        written_at: 0,
    };
    let writer = Signed::new(writer, &[own]);
    Head { writer, sequence: 1000, previous: None, written_at: 1, keys: Vec::new(), sealed: Bytes(vec![1; 4096]) }
}
