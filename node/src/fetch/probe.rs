//! What a check asks of holders: what they list, and single shards, whole, of which it matters why one cannot be had.

use super::Fetcher;
use backmesh_codec::tree;
use backmesh_format::stripe::{KeySlot, Stripe};
use backmesh_format::{CopysetId, NodeId, PackId};
use backmesh_mesh::message::{ReadReply, ReadRequest};
use backmesh_policy::Offence;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A shard, asked for whole.
pub(crate) enum Probe {
    /// These are its bytes, proven against its root.
    Proven(Vec<u8>),
    /// Its holder answered and did not prove it.
    Damaged,
    /// Its holder did not answer.
    Silent,
}

impl Fetcher {
    /// Which packs of a set a holder lists after one, and whether it has more; none where it does not answer.
    pub(crate) async fn packs_of(
        &self,
        holder: NodeId,
        copyset: CopysetId,
        after: Option<PackId>,
    ) -> Option<(Vec<PackId>, bool)> {
        let request = move |call| ReadRequest::Packs { call, copyset, after }.encode();
        match timeout(ANSWER_LIMIT, self.lanes.ask(holder, request)).await {
            Ok(Ok(ReadReply::Packs { packs, more, .. })) => Some((packs, more)),
            _ => None,
        }
    }

    /// A whole shard from the holder of its slot.
    pub(crate) async fn probe(&self, stripe: &Stripe, shard: usize, holder: NodeId) -> Probe {
        let (pack, bytes) = (stripe.pack, stripe.shard_bytes);
        let request =
            move |call| ReadRequest::Range { call, pack, shard: shard as u8, offset: 0, bytes, with_stripe: false }.encode();
        let reply = match timeout(ANSWER_LIMIT, self.lanes.ask(holder, request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => return Probe::Silent,
            Err(_) => {
                self.note(holder, Offence::TimedOut);
                return Probe::Silent;
            }
        };
        if let ReadReply::Range { proof, .. } = &reply {
            self.bytes_fetched.fetch_add(proof.len() as u64, Ordering::Relaxed);
            let root = stripe.shard_roots.get(shard);
            let proven = root.and_then(|root| tree::verify(root, bytes.into(), 0..bytes.into(), proof).ok());
            if let Some(bytes) = proven {
                return Probe::Proven(bytes);
            }
        }
        self.note_bad_answer(holder, &pack, shard, &reply);
        if matches!(reply, ReadReply::Refused { .. }) { Probe::Silent } else { Probe::Damaged }
    }

    /// The key of a pack, where one that opens it is here.
    pub(crate) fn pack_key(&self, slots: &[KeySlot]) -> Option<backmesh_codec::seal::PackKey> {
        self.unsealing.open(slots)
    }
}
