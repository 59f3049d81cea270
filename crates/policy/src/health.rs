//! Health: what is true of stored stripes, never greener than what is known.

use crate::level::{Shape, enough};

/// The state of a vault or of a stripe, the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Every shard is with its holder.
    Healthy,
    /// Shards are missing; at least half of the spare ones are there.
    Degraded,
    /// Nothing can be said, because too few holders were heard of, or nothing is stored.
    Unknown,
    /// It can be rebuilt, and fewer than half of the spare shards are left.
    Endangered,
    /// Fewer shards are left than rebuild it.
    Lost,
}

impl Health {
    /// The word that people and programs read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Endangered => "endangered",
            Self::Lost => "lost",
        }
    }
}

/// What the owner knows of one stripe. A shard that two holders keep counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripeView {
    /// How many shards rebuild it, and how many there should be.
    pub shape: Shape,
    /// Shards whose holder acknowledged them and is not presumed lost. A machine that is off for the night has lost nothing.
    pub held: usize,
    /// Shards that were acknowledged once and whose holder was not heard of since this was last known.
    pub unheard: usize,
    /// The owner still has the pack itself.
    pub local: bool,
}

/// All stripes of a vault together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The health of the worst stripe.
    pub health: Health,
    /// All stripes.
    pub stripes: u64,
    /// Those of which enough shards are durable to count as stored.
    pub enough: u64,
    /// Those of which all shards are durable.
    pub complete: u64,
    /// How many more holders may be lost before the first stripe is; none without stripes.
    pub survives: Option<usize>,
}

/// The health of one stripe.
pub fn stripe_health(stripe: &StripeView) -> Health {
    let k = usize::from(stripe.shape.k);
    let at_best = stripe.held + stripe.unheard;
    match at_best {
        _ if at_best < k && stripe.local => Health::Endangered,
        _ if at_best < k => Health::Lost,
        _ if stripe.held < k && !stripe.local => Health::Unknown,
        _ if at_best < enough(stripe.shape) => Health::Endangered,
        _ if stripe.held < usize::from(stripe.shape.n) => Health::Degraded,
        _ => Health::Healthy,
    }
}

/// The health of a vault: that of its worst stripe, unknown where there is none.
pub fn health(stripes: impl IntoIterator<Item = StripeView>) -> Health {
    summary(stripes).health
}

/// Counts a vault's stripes by what is known of them.
pub fn summary(stripes: impl IntoIterator<Item = StripeView>) -> Summary {
    let mut sum = Summary { health: Health::Healthy, stripes: 0, enough: 0, complete: 0, survives: None };
    for stripe in stripes {
        let spare = stripe.held.saturating_sub(usize::from(stripe.shape.k));
        sum.health = sum.health.max(stripe_health(&stripe));
        sum.stripes += 1;
        sum.enough += u64::from(stripe.held >= enough(stripe.shape));
        sum.complete += u64::from(stripe.held >= usize::from(stripe.shape.n));
        sum.survives = Some(sum.survives.map_or(spare, |least| least.min(spare)));
    }
    if sum.stripes == 0 {
        sum.health = Health::Unknown;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(k: u8, n: u8, held: usize, unheard: usize) -> StripeView {
        StripeView { shape: Shape { k, n }, held, unheard, local: false }
    }

    fn check(stripe: StripeView, expected: Health) {
        assert_eq!(stripe_health(&stripe), expected, "{stripe:?}");
    }

    #[test]
    fn all_shards_are_healthy_and_half_of_the_spare_are_degraded() {
        check(view(4, 8, 8, 0), Health::Healthy);
        check(view(4, 8, 7, 0), Health::Degraded);
        check(view(4, 8, 6, 0), Health::Degraded);
        check(view(4, 8, 5, 0), Health::Endangered);
        check(view(4, 8, 4, 0), Health::Endangered);
        check(view(4, 8, 3, 0), Health::Lost);
        check(view(1, 1, 1, 0), Health::Healthy);
        check(view(1, 1, 0, 0), Health::Lost);
        check(view(1, 2, 1, 0), Health::Endangered);
        check(view(1, 3, 2, 0), Health::Degraded);
    }

    #[test]
    fn what_nobody_was_heard_of_is_never_green() {
        check(view(4, 8, 0, 8), Health::Unknown);
        check(view(4, 8, 3, 5), Health::Unknown);
        check(view(4, 8, 4, 4), Health::Degraded);
        check(view(4, 8, 4, 0), Health::Endangered);
        assert_eq!(health([]), Health::Unknown);
    }

    #[test]
    fn a_pack_that_the_owner_still_has_is_not_lost() {
        check(StripeView { local: true, ..view(4, 8, 0, 0) }, Health::Endangered);
        check(StripeView { local: true, ..view(4, 8, 7, 0) }, Health::Degraded);
        check(StripeView { local: true, ..view(4, 8, 0, 8) }, Health::Degraded);
    }

    #[test]
    fn a_vault_is_as_healthy_as_its_worst_stripe() {
        let good = view(4, 8, 8, 0);
        assert_eq!(health([good, good]), Health::Healthy);
        assert_eq!(health([good, view(4, 8, 6, 0)]), Health::Degraded);
        assert_eq!(health([view(4, 8, 6, 0), view(4, 8, 0, 8)]), Health::Unknown);
        assert_eq!(health([view(4, 8, 4, 0), view(4, 8, 0, 8)]), Health::Endangered);
        assert_eq!(health([view(4, 8, 3, 0), view(4, 8, 4, 0)]), Health::Lost);
    }

    #[test]
    fn the_summary_counts_enough_and_complete_apart() {
        let found = summary([view(4, 8, 8, 0), view(4, 8, 6, 0), view(4, 8, 5, 0)]);
        let expected = Summary { health: Health::Endangered, stripes: 3, enough: 2, complete: 1, survives: Some(1) };
        assert_eq!(found, expected);
    }

    #[test]
    fn more_shards_are_never_less_healthy() {
        for n in 1..=12 {
            for k in 1..=n {
                for local in [false, true] {
                    let states = (0..=usize::from(n)).map(|held| stripe_health(&StripeView { local, ..view(k, n, held, 0) }));
                    assert!(states.rev().is_sorted(), "{k} of {n}");
                }
            }
        }
    }
}
