//! Restore order: which shards to ask of whom, the fastest first, and who stands in where one is slow or wrong.

use backmesh_format::NodeId;
use std::collections::BTreeSet;
use std::ops::Range;
use thiserror::Error;

/// A holder of one shard of a stripe that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Which shard.
    pub shard: u8,
    /// Who holds it.
    pub node: NodeId,
    /// How many bytes were asked of it already and have not come, over all stripes.
    pub waiting_bytes: u64,
    /// What it has delivered so far, in bytes a second; 0 where nothing is known, which counts as [`UNKNOWN_RATE`].
    pub bytes_per_second: u64,
    /// How long its first byte takes, in milliseconds.
    pub round_trip_ms: u32,
}

/// The rate assumed of a holder that nothing was fetched from yet, in bytes a second: better than a slow line, so that it is tried,
/// worse than a good one that is known.
pub const UNKNOWN_RATE: u64 = 4 << 20;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Which shard.
    pub shard: u8,
    /// Of whom.
    pub node: NodeId,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// Ask these at once. Their answers are enough, if all are right.
    pub first: Vec<Ask>,
    /// For each that fails or is slow the next of these whose shard has not come yet.
    pub reserve: Vec<Ask>,
}

/// Why a stripe cannot be rebuilt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Too few different shards can be reached.
    #[error("{needed} shards rebuild the pack and {found} can be reached: wait for more members")]
    TooFew {
        /// How many different shards can be reached.
        found: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// A plan for a whole pack: the k different shards that will be there soonest. Of two that come at the same time a data shard is
/// taken before a parity shard, which would have to be decoded.
///
/// # Errors
/// `TooFew` where fewer than k different shards can be reached.
pub fn plan_stripe(k: u8, shard_bytes: u64, sources: &[Source]) -> Result<RestorePlan, RestoreError> {
    let ranked = ranked(k, shard_bytes, sources);
    let needed = usize::from(k);
    let (fastest, twins) = fastest_of_each(&ranked);
    if fastest.len() < needed {
        return Err(RestoreError::TooFew { found: fastest.len(), needed });
    }
    let (first, rest) = fastest.split_at(needed);
    Ok(RestorePlan { first: first.to_vec(), reserve: rest.iter().chain(&twins).copied().collect() })
}

/// A plan for the bytes `range` of a pack, of which `range.end - range.start` bytes at most are asked of each: the data shards that
/// hold them, where all of these can be reached; else the same range of k others, which decodes them.
///
/// # Errors
/// `TooFew` where the range can be had neither way.
pub fn plan_range(k: u8, shard_bytes: u64, range: Range<u64>, sources: &[Source]) -> Result<RestorePlan, RestoreError> {
    let shard_of = |byte: u64| byte.checked_div(shard_bytes).unwrap_or(0);
    let wanted = shard_of(range.start)..=shard_of(range.end.saturating_sub(1).max(range.start));
    let ranked = ranked(k, range.end.saturating_sub(range.start).min(shard_bytes), sources);
    let (fastest, twins) = fastest_of_each(&ranked);
    let direct: Vec<Ask> =
        fastest.iter().filter(|ask| wanted.contains(&u64::from(ask.shard)) && ask.shard < k).copied().collect();
    if direct.len() as u64 == wanted.end() - wanted.start() + 1 {
        let rest = fastest.iter().filter(|ask| !direct.contains(ask));
        let reserve = twins.iter().chain(rest).copied().collect();
        return Ok(RestorePlan { first: direct, reserve });
    }
    plan_stripe(k, shard_bytes, sources)
}

/// All sources, the one that will have delivered soonest first.
fn ranked(k: u8, bytes: u64, sources: &[Source]) -> Vec<Ask> {
    let mut ranked: Vec<&Source> = sources.iter().collect();
    ranked.sort_by_key(|source| (arrival_us(source, bytes), source.shard >= k, source.shard, source.node));
    ranked.into_iter().map(|source| Ask { shard: source.shard, node: source.node }).collect()
}

/// When `bytes` more will be here, in microseconds from now.
fn arrival_us(source: &Source, bytes: u64) -> u128 {
    let rate = if source.bytes_per_second == 0 { UNKNOWN_RATE } else { source.bytes_per_second };
    let queued = u128::from(source.waiting_bytes) + u128::from(bytes);
    u128::from(source.round_trip_ms) * 1000 + queued * 1_000_000 / u128::from(rate)
}

/// The first of each shard in the order given, and the others; a request named twice counts once.
fn fastest_of_each(ranked: &[Ask]) -> (Vec<Ask>, Vec<Ask>) {
    let (mut asks, mut shards) = (BTreeSet::new(), BTreeSet::new());
    let distinct = ranked.iter().filter(|ask| asks.insert((ask.shard, ask.node)));
    distinct.partition(|ask| shards.insert(ask.shard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(shard: u8, node: u8, bytes_per_second: u64) -> Source {
        Source { shard, node: NodeId([node; 32]), waiting_bytes: 0, bytes_per_second, round_trip_ms: 0 }
    }

    fn shards(asks: &[Ask]) -> Vec<u8> {
        asks.iter().map(|ask| ask.shard).collect()
    }

    #[test]
    fn the_fastest_are_asked_and_the_others_wait() {
        let sources = [source(0, 10, 100), source(1, 11, 400), source(2, 12, 300), source(3, 13, 200)];
        let plan = plan_stripe(2, 1000, &sources).unwrap();
        assert_eq!((shards(&plan.first), shards(&plan.reserve)), (vec![1, 2], vec![3, 0]));
    }

    #[test]
    fn who_has_much_to_deliver_is_asked_later() {
        let busy = Source { waiting_bytes: 1_000_000, ..source(0, 10, 400) };
        let plan = plan_stripe(1, 1000, &[busy, source(1, 11, 100)]).unwrap();
        assert_eq!(shards(&plan.first), [1]);
    }

    #[test]
    fn data_shards_come_before_parity_where_both_are_as_fast() {
        let sources = [source(3, 10, 100), source(2, 11, 100), source(1, 12, 100), source(0, 13, 100)];
        assert_eq!(shards(&plan_stripe(2, 1000, &sources).unwrap().first), [0, 1]);
    }

    #[test]
    fn one_shard_from_two_holders_is_asked_of_one() {
        let plan = plan_stripe(2, 1000, &[source(0, 10, 900), source(0, 11, 800), source(1, 12, 1)]).unwrap();
        assert_eq!(shards(&plan.first), [0, 1]);
        assert_eq!(plan.reserve, [Ask { shard: 0, node: NodeId([11; 32]) }]);
    }

    #[test]
    fn too_few_are_said() {
        let error = plan_stripe(3, 1000, &[source(0, 10, 1), source(0, 11, 1), source(5, 12, 1)]).unwrap_err();
        assert_eq!(error, RestoreError::TooFew { found: 2, needed: 3 });
        assert_eq!(error.to_string(), "3 shards rebuild the pack and 2 can be reached: wait for more members");
    }

    #[test]
    fn a_range_asks_the_data_shard_that_has_it_even_if_others_are_faster() {
        let sources = [source(0, 10, 900), source(1, 11, 1), source(2, 12, 900), source(3, 13, 900)];
        let plan = plan_range(2, 1000, 1200..1300, &sources).unwrap();
        assert_eq!((shards(&plan.first), shards(&plan.reserve)), (vec![1], vec![0, 2, 3]));
        assert_eq!(shards(&plan_range(2, 1000, 900..1100, &sources).unwrap().first), [0, 1]);
        assert_eq!(shards(&plan_range(2, 1000, 999..1000, &sources).unwrap().first), [0]);
    }

    #[test]
    fn a_range_whose_data_shard_is_missing_is_decoded_from_k_others() {
        let sources = [source(0, 10, 900), source(2, 12, 800), source(3, 13, 900)];
        assert_eq!(shards(&plan_range(2, 1000, 1200..1300, &sources).unwrap().first), [0, 3]);
        assert_eq!(plan_range(2, 1000, 1200..1300, &sources[..1]), Err(RestoreError::TooFew { found: 1, needed: 2 }));
        assert_eq!(shards(&plan_range(2, 1000, 100..200, &sources[..1]).unwrap().first), [0]);
    }

    fn any_source() -> impl Strategy<Value = Source> {
        (0..6_u8, 0..12_u8, 0..3_000_000_u64, 0..50_000_000_u64, 0..300_u32).prop_map(
            |(shard, node, waiting_bytes, bytes_per_second, round_trip_ms)| Source {
                waiting_bytes,
                round_trip_ms,
                ..source(shard, node, bytes_per_second)
            },
        )
    }

    proptest! {
        /// The naive way: every choice of k sources with different shards, and how long the slowest of each takes.
        #[test]
        fn no_other_choice_is_there_sooner(sources in proptest::collection::vec(any_source(), 0..10), k in 1..5_u8) {
            let done = |chosen: &[&Source]| chosen.iter().map(|source| arrival_us(source, 1 << 20)).max().unwrap_or(0);
            let best = (0..1_u32 << sources.len())
                .map(|set| sources.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, source)| source).collect::<Vec<_>>())
                .filter(|chosen| chosen.len() == usize::from(k))
                .filter(|chosen| chosen.iter().map(|source| source.shard).collect::<BTreeSet<_>>().len() == chosen.len())
                .map(|chosen| done(&chosen))
                .min();
            let found = plan_stripe(k, 1 << 20, &sources).ok().map(|plan| {
                let of = |ask: &Ask| sources.iter().filter(|one| one.shard == ask.shard && one.node == ask.node).min_by_key(|one| arrival_us(one, 1 << 20)).unwrap();
                done(&plan.first.iter().map(of).collect::<Vec<_>>())
            });
            prop_assert_eq!(found, best);
        }
    }
}
