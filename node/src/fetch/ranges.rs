//! Ranges of packs from ranges of shards: data shards first, and where one cannot be had, the same range of any k others decodes it.
//! What serves both ways is fetched once.

use super::watch::{Answer, Lack};
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
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of a shard that one run needs, or may need.
struct Asked<'a> {
    shard: usize,
    range: Range<u32>,
    piece: Shared<BoxFuture<'a, Result<Bytes, Lack>>>,
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
    /// A range of a data shard: from its holder, or decoded from others where that one fails, is slow or is known for it. Who is known
    /// for it is not waited for while others can give the same.
    async fn data_piece(&self, shard: usize, range: Range<u32>) -> Result<Bytes, FetchError> {
        let fetcher = self.fetcher;
        let hedge = |times: u32| fetcher.lanes.motion().pass(fetcher.usual.hedge_after() * times);
        let holder = fetcher.holder(self.stripe, shard);
        let is_doubtful = holder.is_none_or(|holder| fetcher.ranks.is_doubtful(&holder));
        let is_last = holder.is_some_and(|holder| fetcher.reputation(&holder).is_last());
        if is_last || (is_doubtful && self.others_suffice(shard)) {
            if !is_last {
                self.probe(shard, range.clone()).await;
            }
            let decoded = self.decoded_piece(shard, range.clone(), None);
            tokio::pin!(decoded);
            return tokio::select! {
                decoded = &mut decoded => match decoded {
                    Ok(bytes) => Ok(bytes),
                    Err(error) => self.piece(shard, range).await.map_err(|lack| error.or_from(holder, lack)),
                },
                () = hedge(2) => first_of(holder, self.piece(shard, range), decoded).await,
            };
        }
        let own = self.piece(shard, range.clone());
        tokio::pin!(own);
        if !is_doubtful {
            tokio::select! {
                bytes = &mut own => return match bytes {
                    Ok(bytes) => Ok(bytes),
                    Err(lack) => self.decoded_piece(shard, range, Some(lack)).await,
                },
                () = hedge(1) => {}
            }
        }
        first_of(holder, own, self.decoded_piece(shard, range, None)).await
    }

    /// Whether there are enough others of whom nothing bad is known.
    fn others_suffice(&self, wanted: usize) -> bool {
        let Self { fetcher, stripe, .. } = *self;
        let is_good = |holder: NodeId| !fetcher.reputation(&holder).is_last() && !fetcher.ranks.is_doubtful(&holder);
        let others = (0..stripe.record.n()).filter(|shard| *shard != wanted);
        let good = others.filter(|shard| fetcher.holder(stripe, *shard).is_some_and(is_good));
        good.count() >= usize::from(stripe.record.k)
    }

    /// Sees whether a holder answers as it should again.
    async fn probe(&self, shard: usize, range: Range<u32>) {
        let Self { fetcher, stripe, .. } = *self;
        let Some((holder, root)) = fetcher.holder(stripe, shard).zip(stripe.record.shard_roots.get(shard).copied()) else {
            return;
        };
        let (pack, shard_bytes) = (stripe.record.pack, stripe.record.shard_bytes);
        let asked = rounded(&range, shard_bytes);
        let (offset, bytes) = (asked.start, asked.end - asked.start);
        let fetched = Arc::clone(&fetcher.bytes_fetched);
        let is_right = move |reply| match reply {
            ReadReply::Range { proof, .. } => {
                fetched.fetch_add(proof.len() as u64, Ordering::Relaxed);
                tree::verify(&root, shard_bytes.into(), asked.start.into()..asked.end.into(), &proof).is_ok()
            }
            _ => false,
        };
        let request = move |call| ReadRequest::Range { call, pack, shard: shard as u8, offset, bytes, with_stripe: false };
        fetcher.probe_rank(holder, request, is_right).await;
    }

    /// A range of a data shard from the same range of k others, the reliable holders first, one more for each that fails or is slow.
    async fn decoded_piece(&self, wanted: usize, range: Range<u32>, failed: Option<Lack>) -> Result<Bytes, FetchError> {
        let Self { fetcher, stripe, .. } = *self;
        let (k, n) = (usize::from(stripe.record.k), stripe.record.n());
        let mut order: Vec<usize> = (0..n).filter(|shard| *shard != wanted).collect();
        order.sort_by_cached_key(|shard| {
            let known = fetcher.holder(stripe, *shard).map(|holder| {
                let failures = fetcher.ranks.failures(&holder);
                let is_doubtful = fetcher.ranks.is_doubtful(&holder);
                (fetcher.reputation(&holder), is_doubtful, !self.is_asked(*shard, &range), failures)
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
        let mut missing: Vec<(usize, Lack)> = failed.map(|lack| (wanted, lack)).into_iter().collect();
        while shards.len() < k {
            tokio::select! {
                answer = asking.next() => match answer {
                    Some((shard, Ok(bytes))) => shards.push((shard, bytes)),
                    Some((shard, Err(lack))) => {
                        missing.push((shard, lack));
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
    fn piece(&self, shard: usize, range: Range<u32>) -> impl Future<Output = Result<Bytes, Lack>> + use<'a> {
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

/// What comes first of a piece and the same decoded; the other where the first fails.
async fn first_of(
    holder: Option<NodeId>,
    own: impl Future<Output = Result<Bytes, Lack>>,
    decoded: impl Future<Output = Result<Bytes, FetchError>>,
) -> Result<Bytes, FetchError> {
    tokio::pin!(own, decoded);
    tokio::select! {
        bytes = &mut own => match bytes {
            Ok(bytes) => Ok(bytes),
            Err(lack) => decoded.await.map_err(|error| error.or_from(holder, lack)),
        },
        decoded = &mut decoded => match decoded {
            Ok(bytes) => Ok(bytes),
            Err(error) => own.await.map_err(|lack| error.or_from(holder, lack)),
        },
    }
}

impl FetchError {
    /// The same where the holder of the piece itself did not give it either.
    fn or_from(mut self, holder: Option<NodeId>, lack: Lack) -> Self {
        if let (Self::TooFewShards { silent, .. }, Some(holder), Lack::Silent) = (&mut self, holder, lack)
            && !silent.contains(&holder)
        {
            silent.push(holder);
        }
        self
    }
}

impl Asked<'_> {
    fn holds(&self, shard: usize, range: &Range<u32>) -> bool {
        self.shard == shard && self.range.start <= range.start && range.end <= self.range.end
    }
}

impl Fetcher {
    fn too_few(&self, stripe: &OpenStripe, have: usize, missing: &[(usize, Lack)]) -> FetchError {
        let of = |(shard, lack): &(usize, Lack)| self.holder(stripe, *shard).map(|holder| (holder, *lack));
        let missing: Vec<(NodeId, Lack)> = missing.iter().filter_map(of).collect();
        FetchError::TooFewShards {
            pack: stripe.record.pack,
            have,
            need: usize::from(stripe.record.k),
            missing: missing.iter().map(|(holder, _)| self.name_of(holder)).collect(),
            silent: missing.iter().filter(|(_, lack)| *lack == Lack::Silent).map(|(holder, _)| *holder).collect(),
        }
    }

    fn holder(&self, stripe: &OpenStripe, shard: usize) -> Option<NodeId> {
        let record = &stripe.record;
        let set = self.set_of(&PackPlace { pack: record.pack, copyset: record.copyset, class: record.class })?;
        set.slots.get(record.slot_of(shard)).copied()
    }

    /// A range of a shard from its holder, proven against the shard's root.
    async fn shard_piece(&self, stripe: &OpenStripe, shard: usize, range: Range<u32>) -> Result<Bytes, Lack> {
        let holder = self.holder(stripe, shard).ok_or(Lack::Denied)?;
        let pack = stripe.record.pack;
        let asked = rounded(&range, stripe.record.shard_bytes);
        let (offset, bytes) = (asked.start, asked.end - asked.start);
        let request = move |call| ReadRequest::Range { call, pack, shard: shard as u8, offset, bytes, with_stripe: false };
        let answer = self.ask(holder, request).await;
        let piece = match answer.as_ref().map(|answer| &answer.reply) {
            Some(ReadReply::Range { proof, .. }) => {
                self.bytes_fetched.fetch_add(proof.len() as u64, Ordering::Relaxed);
                let root = stripe.record.shard_roots.get(shard).ok_or(Lack::Denied)?;
                tree::verify(root, stripe.record.shard_bytes.into(), asked.start.into()..asked.end.into(), proof).ok()
            }
            _ => None,
        };
        self.note_rank(holder, answer.as_ref(), piece.is_some());
        if piece.is_none()
            && let Some(Answer { reply, .. }) = &answer
        {
            self.note_bad_answer(holder, &pack, shard, reply);
        }
        let wanted = (range.start - asked.start) as usize..(range.end - asked.start) as usize;
        piece.map(|piece| Bytes::from(piece).slice(wanted)).ok_or_else(|| Lack::of(answer.as_ref()))
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
