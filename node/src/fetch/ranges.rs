//! Ranges of packs from ranges of shards: data shards first, and where one cannot be had, the same range of any k others decodes it.
//! What serves both ways is fetched once.

use super::{FetchError, Fetcher, OpenStripe};
use backmesh_codec::{stripe as coding, tree};
use backmesh_format::index::PackPlace;
use backmesh_format::{NodeId, PackId};
use backmesh_mesh::message::{ReadReply, ReadRequest, Refusal};
use backmesh_policy::Offence;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::FuturesUnordered;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// What one failure counts.
const FAILURE: u32 = 4;
/// How many make a holder one whose shard is asked for together with others: one that no good answer has followed.
const DOUBTFUL: u32 = FAILURE;
/// The most that is remembered of failures: so many good answers later a holder is trusted again.
const FAILURES_MAX: u32 = 16 * FAILURE;

/// How holders have answered so far: who failed last is asked last.
#[derive(Default)]
pub(crate) struct Ranks(Mutex<HashMap<NodeId, u32>>);

impl Ranks {
    /// Remembers that a holder answered well, or did not.
    pub(crate) fn note(&self, holder: NodeId, well: bool) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(holder).or_default();
        *count = if well { *count / 2 } else { (*count + FAILURE).min(FAILURES_MAX) };
    }

    /// How badly a holder has done.
    pub(crate) fn failures(&self, holder: &NodeId) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(holder).copied().unwrap_or(0)
    }

    /// Holders in the order in which to ask: the reliable first, equal ones in an order that differs from pack to pack.
    pub(crate) fn order(&self, holders: &[NodeId], pack: &PackId) -> Vec<NodeId> {
        let turn = usize::from(pack.0[0]) % holders.len().max(1);
        let mut order: Vec<NodeId> = holders.iter().cycle().skip(turn).take(holders.len()).copied().collect();
        order.sort_by_key(|holder| self.failures(holder));
        order
    }
}

/// A piece of a shard that one run needs, or may need.
struct Asked<'a> {
    shard: usize,
    range: Range<u32>,
    piece: Shared<BoxFuture<'a, Option<Bytes>>>,
}

/// The pieces of shards that one run asks for. What a data shard gives is also what a lost one is decoded from.
struct Run<'a> {
    fetcher: &'a Fetcher,
    stripe: &'a OpenStripe,
    asked: Mutex<Vec<Asked<'a>>>,
}

impl Fetcher {
    /// A range of a pack's bytes.
    pub(super) async fn range(&self, stripe: &OpenStripe, range: Range<u32>) -> Result<Vec<u8>, FetchError> {
        let shard_bytes = stripe.record.shard_bytes;
        let run = Run { fetcher: self, stripe, asked: Mutex::default() };
        let shards = range.start / shard_bytes..=range.end.saturating_sub(1) / shard_bytes;
        let pieces: Vec<(u32, usize, Range<u32>)> = shards
            .map(|shard| {
                let begin = shard * shard_bytes;
                let piece = range.start.max(begin) - begin..range.end.min(begin.saturating_add(shard_bytes)) - begin;
                (begin + piece.start, shard as usize, piece)
            })
            .collect();
        let mut pieces: FuturesUnordered<_> = pieces
            .into_iter()
            .map(|(offset, shard, piece)| {
                let run = &run;
                async move { run.data_piece(shard, piece).await.map(|bytes| (offset, bytes)) }
            })
            .collect();
        let mut fetched = Vec::with_capacity(pieces.len());
        while let Some(piece) = pieces.next().await {
            fetched.push(piece?);
        }
        // What is kept for decoding goes before the whole is put together, and each piece as soon as it is in it.
        drop(pieces);
        drop(run);
        let mut whole = vec![0; range.len()];
        for (offset, bytes) in fetched {
            let from = (offset - range.start) as usize;
            whole[from..from + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(whole)
    }
}

impl<'a> Run<'a> {
    /// A range of a data shard: from its holder, or decoded from others where that one fails, is slow or is known for it.
    async fn data_piece(&self, shard: usize, range: Range<u32>) -> Result<Bytes, FetchError> {
        let fetcher = self.fetcher;
        let holder = fetcher.holder(self.stripe, shard);
        if holder.is_some_and(|holder| fetcher.reputation(&holder).is_last()) {
            return match self.decoded_piece(shard, range.clone(), false).await {
                Ok(bytes) => Ok(bytes),
                Err(error) => self.piece(shard, range).await.ok_or(error),
            };
        }
        let own = self.piece(shard, range.clone());
        tokio::pin!(own);
        let trusted = holder.is_some_and(|holder| fetcher.ranks.failures(&holder) < DOUBTFUL);
        let first = if trusted {
            let hedge = fetcher.lanes.motion().pass(fetcher.usual.hedge_after());
            tokio::select! { bytes = &mut own => Some(bytes), () = hedge => None }
        } else {
            None
        };
        match first {
            Some(Some(bytes)) => Ok(bytes),
            Some(None) => self.decoded_piece(shard, range, true).await,
            None => {
                let decoded = self.decoded_piece(shard, range, false);
                tokio::pin!(decoded);
                tokio::select! {
                    bytes = &mut own => match bytes {
                        Some(bytes) => Ok(bytes),
                        None => decoded.await,
                    },
                    decoded = &mut decoded => match decoded {
                        Ok(bytes) => Ok(bytes),
                        Err(error) => own.await.ok_or(error),
                    },
                }
            }
        }
    }

    /// A range of a data shard from the same range of k others, the reliable holders first, one more for each that fails or is slow.
    async fn decoded_piece(&self, wanted: usize, range: Range<u32>, failed: bool) -> Result<Bytes, FetchError> {
        let Self { fetcher, stripe, .. } = *self;
        let (k, n) = (usize::from(stripe.record.k), stripe.record.n());
        let mut order: Vec<usize> = (0..n).filter(|shard| *shard != wanted).collect();
        order.sort_by_cached_key(|shard| {
            let known = fetcher.holder(stripe, *shard).map(|holder| {
                let failures = fetcher.ranks.failures(&holder);
                (fetcher.reputation(&holder), failures >= DOUBTFUL, !self.is_asked(*shard, &range), failures)
            });
            (known.is_none(), known)
        });
        let mut rest = order.into_iter();
        let ask = |shard: usize| {
            let piece = self.piece(shard, range.clone());
            async move { (shard, piece.await) }
        };
        let mut asking: FuturesUnordered<_> = rest.by_ref().take(k).map(ask).collect();
        let mut shards: Vec<(usize, Bytes)> = Vec::with_capacity(k);
        let mut missing = if failed { vec![wanted] } else { Vec::new() };
        while shards.len() < k {
            tokio::select! {
                answer = asking.next() => match answer {
                    Some((shard, Some(bytes))) => shards.push((shard, bytes)),
                    Some((shard, None)) => {
                        missing.push(shard);
                        asking.extend(rest.next().map(ask));
                    }
                    None => return Err(fetcher.too_few(stripe, shards.len(), &missing)),
                },
                () = fetcher.lanes.motion().pass(fetcher.usual.hedge_after()), if rest.len() > 0 => asking.extend(rest.next().map(ask)),
            }
        }
        let present: Vec<(usize, &[u8])> = shards.iter().map(|(shard, bytes)| (*shard, &bytes[..])).collect();
        coding::rebuild_range(k, &present, wanted)
            .map(Bytes::from)
            .map_err(|error| FetchError::Damaged { pack: stripe.record.pack, what: error.to_string() })
    }

    /// A range of a shard: part of what this run has asked for before, if anything it asked for has it, else a question of its own.
    fn piece(&self, shard: usize, range: Range<u32>) -> impl Future<Output = Option<Bytes>> + use<'a> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (begin, piece) = match asked.iter().find(|asked| asked.holds(shard, &range)) {
            Some(asked) => (asked.range.start, asked.piece.clone()),
            None => {
                let piece = self.fetcher.shard_piece(self.stripe, shard, range.clone()).boxed().shared();
                asked.push(Asked { shard, range: range.clone(), piece: piece.clone() });
                (range.start, piece)
            }
        };
        drop(asked);
        async move { piece.await.map(|bytes| bytes.slice((range.start - begin) as usize..(range.end - begin) as usize)) }
    }

    fn is_asked(&self, shard: usize, range: &Range<u32>) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|asked| asked.holds(shard, range))
    }
}

impl Asked<'_> {
    fn holds(&self, shard: usize, range: &Range<u32>) -> bool {
        self.shard == shard && self.range.start <= range.start && range.end <= self.range.end
    }
}

impl Fetcher {
    fn too_few(&self, stripe: &OpenStripe, have: usize, missing: &[usize]) -> FetchError {
        let missing =
            missing.iter().filter_map(|shard| self.holder(stripe, *shard)).map(|holder| self.name_of(&holder)).collect();
        FetchError::TooFewShards { pack: stripe.record.pack, have, need: usize::from(stripe.record.k), missing }
    }

    fn holder(&self, stripe: &OpenStripe, shard: usize) -> Option<NodeId> {
        let record = &stripe.record;
        let set = self.set_of(&PackPlace { pack: record.pack, copyset: record.copyset, class: record.class })?;
        set.slots.get(record.slot_of(shard)).copied()
    }

    /// A range of a shard from its holder, proven against the shard's root.
    async fn shard_piece(&self, stripe: &OpenStripe, shard: usize, range: Range<u32>) -> Option<Bytes> {
        let holder = self.holder(stripe, shard)?;
        let pack = stripe.record.pack;
        let asked = rounded(&range, stripe.record.shard_bytes);
        let (offset, bytes) = (asked.start, asked.end - asked.start);
        let request = move |call| ReadRequest::Range { call, pack, shard: shard as u8, offset, bytes, with_stripe: false };
        let reply = self.ask(holder, request).await;
        let piece = match &reply {
            Some(ReadReply::Range { proof, .. }) => {
                self.bytes_fetched.fetch_add(proof.len() as u64, Ordering::Relaxed);
                let root = stripe.record.shard_roots.get(shard)?;
                tree::verify(root, stripe.record.shard_bytes.into(), asked.start.into()..asked.end.into(), proof).ok()
            }
            _ => None,
        };
        self.ranks.note(holder, piece.is_some());
        if piece.is_none()
            && let Some(reply) = reply
        {
            self.note_bad_answer(holder, &pack, shard, &reply);
        }
        let wanted = (range.start - asked.start) as usize..(range.end - asked.start) as usize;
        piece.map(|piece| Bytes::from(piece).slice(wanted))
    }

    /// Takes notice of an answer to a question for a shard that does not have it.
    pub(super) fn note_bad_answer(&self, holder: NodeId, pack: &PackId, shard: usize, reply: &ReadReply) {
        let offence = match reply {
            ReadReply::Range { .. } => Offence::WrongBytes,
            ReadReply::Missing { .. } if self.acknowledged.as_ref().is_some_and(|has| has(pack, shard)) => Offence::Lost,
            ReadReply::Missing { .. } => return,
            ReadReply::Refused { reason: Refusal::Busy, .. } => return,
            ReadReply::Refused { .. } => Offence::Refused,
            _ => Offence::Protocol,
        };
        self.note(holder, offence);
    }
}

/// What is asked of a shard instead of `range`, so that a holder, and who sees how much comes back, learn little of the lengths of frames:
/// whole groups of the proof's tree, 1, 2, 3, 4, 6, 8, 12, 16, .. of them, or the whole shard. No more than half of it is for nothing
/// where it is long.
fn rounded(range: &Range<u32>, shard_bytes: u32) -> Range<u32> {
    let groups = shard_bytes.div_ceil(tree::GROUP_BYTES);
    let first = range.start / tree::GROUP_BYTES;
    let count = length_class(range.end.div_ceil(tree::GROUP_BYTES) - first);
    if count >= groups {
        return 0..shard_bytes;
    }
    let first = first.min(groups - count);
    first * tree::GROUP_BYTES..((first + count) * tree::GROUP_BYTES).min(shard_bytes)
}

/// The least power of two, or three times one, that is not below `count`.
fn length_class(count: u32) -> u32 {
    let power = count.max(1).next_power_of_two();
    if power >= 4 && power / 4 * 3 >= count { power / 4 * 3 } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_asked_has_few_lengths_and_holds_what_is_wanted() {
        let classes: BTreeSet<u32> = (1..=1024).map(length_class).collect();
        assert_eq!(classes.iter().take(9).copied().collect::<Vec<u32>>(), [1, 2, 3, 4, 6, 8, 12, 16, 24]);
        for shard_bytes in [1, 500, 4096, 16_384, 21_846, 65_536, 100_000, 1_048_576, 1_398_102, 16_777_216] {
            let mut lengths = BTreeSet::new();
            let step = (shard_bytes / 97).max(1);
            for start in (0..shard_bytes).step_by(step as usize) {
                for end in (start + 1..=shard_bytes).step_by(step as usize).chain([shard_bytes]) {
                    let asked = rounded(&(start..end), shard_bytes);
                    assert!(asked.start <= start && end <= asked.end && asked.end <= shard_bytes, "{start}..{end}: {asked:?}");
                    assert_eq!(asked.start % tree::GROUP_BYTES, 0);
                    let groups = |range: &Range<u32>| range.end.div_ceil(tree::GROUP_BYTES) - range.start / tree::GROUP_BYTES;
                    assert!(groups(&asked) <= (groups(&(start..end)) * 3).div_ceil(2).max(1), "{start}..{end}: {asked:?}");
                    lengths.insert(asked.end - asked.start);
                }
            }
            // Two for each class: the last group of a shard may be shorter.
            assert!(lengths.len() <= 2 * 20 + 1, "{shard_bytes}: {lengths:?}");
        }
    }
}
