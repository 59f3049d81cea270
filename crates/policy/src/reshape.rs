//! Re-shaping: what happens to stripes that are there when the level or the size of the group changes.
//!
//! A growing group encodes nothing anew while the promise holds: what a stripe survives does not change because others joined. For a
//! fixed k the parity shards do not depend on n, so shards can be added and retired without touching those that are there. A change
//! of k is a new stripe.

use crate::level::{Shape, shape};
use backmesh_format::charter::Level;

/// What to do with a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reshape {
    /// Nothing.
    Keep,
    /// Make more shards, up to `n`, and sign the longer list of roots.
    Add {
        /// How many shards there will be.
        n: u8,
    },
    /// Release the shards from number `n` on. The retention floor holds for them.
    Retire {
        /// How many shards there will be.
        n: u8,
    },
    /// Encode anew, complete the new stripe, then release the old one.
    Reencode {
        /// The new shape.
        to: Shape,
    },
}

/// What to do with stripes of `current` shape, founded for the level `founded`, now that the workgroup wants `level` and has
/// `members`, the owner included. A group that can hold nothing at all keeps what it has.
pub fn reshape(current: Shape, founded: Level, level: Level, members: usize) -> Reshape {
    let Some(target) = shape(level, members) else { return Reshape::Keep };
    let others = members - 1;
    if usize::from(current.n) > others {
        return shrink(current, target, others);
    }
    let promised = if founded == level { kept_promise(level, members) } else { target.survives() };
    if current.survives() < promised {
        return add(current, target, promised, others);
    }
    let fewer = current.k as usize + target.survives();
    if founded > level && fewer < usize::from(current.n) {
        return Reshape::Retire { n: fewer as u8 };
    }
    Reshape::Keep
}

/// How many lost holders a stripe must survive that was founded for the level which still holds, whatever size the group had then:
/// what the level promises a group of five, or less where the group is smaller.
fn kept_promise(level: Level, members: usize) -> usize {
    shape(level, members.min(5)).map_or(0, Shape::survives)
}

/// How much more space a stripe with added shards may take than one that is encoded anew, as a ratio: above it the second upload
/// is the lesser evil.
const SPACE_RATIO_MAX: (u32, u32) = (3, 2);

fn add(current: Shape, target: Shape, survives: usize, others: usize) -> Reshape {
    let n = usize::from(current.k) + survives;
    let longer = Shape { k: current.k, n: n.min(usize::from(u8::MAX)) as u8 };
    let frugal = longer.space_permille() * SPACE_RATIO_MAX.1 <= target.space_permille() * SPACE_RATIO_MAX.0;
    if n <= others && frugal { Reshape::Add { n: longer.n } } else { Reshape::Reencode { to: target } }
}

/// The group has become too small for all shards of a stripe. With k unchanged the surplus shards go; else it is encoded anew.
fn shrink(current: Shape, target: Shape, others: usize) -> Reshape {
    let n = usize::from(current.k) + target.survives();
    if n <= others { Reshape::Retire { n: n as u8 } } else { Reshape::Reencode { to: target } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::{Economy, High, Paranoid, Standard};

    fn check(current: (u8, u8), founded: Level, level: Level, members: usize, expected: Reshape) {
        let current = Shape { k: current.0, n: current.1 };
        assert_eq!(reshape(current, founded, level, members), expected, "{current} for {members} members");
    }

    #[test]
    fn a_growing_group_encodes_nothing_anew_while_the_promise_holds() {
        check((2, 4), Standard, Standard, 10, Reshape::Keep);
        check((2, 4), Standard, Standard, 1000, Reshape::Keep);
        check((3, 4), Economy, Economy, 100, Reshape::Keep);
        check((4, 8), Standard, Standard, 5000, Reshape::Keep);
    }

    #[test]
    fn a_group_that_outgrows_copies_adds_copies() {
        check((1, 1), Standard, Standard, 3, Reshape::Add { n: 2 });
        check((1, 2), Standard, Standard, 4, Reshape::Keep);
        check((1, 2), Standard, Standard, 5, Reshape::Add { n: 3 });
        check((1, 1), Standard, Standard, 9, Reshape::Add { n: 3 });
        check((1, 2), Paranoid, Paranoid, 5, Reshape::Add { n: 4 });
    }

    #[test]
    fn a_safer_level_adds_shards_where_k_allows() {
        check((4, 8), Standard, High, 10, Reshape::Add { n: 9 });
        check((10, 20), Standard, High, 30, Reshape::Add { n: 23 });
        check((16, 28), Standard, Paranoid, 100, Reshape::Add { n: 40 });
        check((4, 8), Standard, Paranoid, 10, Reshape::Reencode { to: Shape { k: 2, n: 8 } });
        check((3, 4), Economy, Paranoid, 5, Reshape::Reencode { to: Shape { k: 1, n: 4 } });
    }

    #[test]
    fn a_lower_level_retires_shards() {
        check((10, 26), Paranoid, Standard, 30, Reshape::Retire { n: 20 });
        check((1, 4), Paranoid, Economy, 5, Reshape::Retire { n: 2 });
        check((2, 4), Standard, Standard, 5, Reshape::Keep);
    }

    #[test]
    fn a_shrinking_group_fits_its_stripes_to_the_holders_left() {
        check((4, 8), Standard, Standard, 5, Reshape::Reencode { to: Shape { k: 2, n: 4 } });
        check((1, 4), Paranoid, Paranoid, 3, Reshape::Retire { n: 2 });
        check((2, 8), Paranoid, Paranoid, 8, Reshape::Retire { n: 5 });
        check((1, 1), Standard, Standard, 1, Reshape::Keep);
    }

    #[test]
    fn after_any_decision_the_promise_holds_and_the_shards_fit() {
        for founded in Level::ALL {
            for level in Level::ALL {
                for (then, now) in (2..130).flat_map(|then| (2..130).map(move |now| (then, now))) {
                    let current = shape(founded, then).unwrap();
                    let after = match reshape(current, founded, level, now) {
                        Reshape::Keep => current,
                        Reshape::Add { n } => {
                            assert!(n > current.n);
                            Shape { n, ..current }
                        }
                        Reshape::Retire { n } => {
                            assert!(n < current.n && n >= current.k);
                            Shape { n, ..current }
                        }
                        Reshape::Reencode { to } => to,
                    };
                    let promised =
                        if founded == level { kept_promise(level, now) } else { shape(level, now).unwrap().survives() };
                    assert!(after.survives() >= promised, "{current} {founded:?} -> {after} {level:?}, {now} members");
                    assert!(usize::from(after.n) < now, "{current} -> {after}, {now} members");
                }
            }
        }
    }

    #[test]
    fn decisions_settle() {
        for level in Level::ALL {
            for (then, now) in (2..130).flat_map(|then| (2..130).map(move |now| (then, now))) {
                let current = shape(level, then).unwrap();
                let after = match reshape(current, level, level, now) {
                    Reshape::Keep => current,
                    Reshape::Add { n } | Reshape::Retire { n } => Shape { n, ..current },
                    Reshape::Reencode { to } => to,
                };
                assert_eq!(reshape(after, level, level, now), Reshape::Keep, "{current} -> {after}, {now} members");
            }
        }
    }
}
