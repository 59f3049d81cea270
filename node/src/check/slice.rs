//! Which packs a run of `check --read-data PERCENT` reads: a part of them by their ids, which are random, so that every pack has its
//! place on a circle. Run after run goes on where the one before ended.

use backmesh_format::PackId;

/// A part of all packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    start: u64,
    /// None for all.
    width: Option<u64>,
}

impl Slice {
    /// What run number `run` reads of `percent` in a hundred, at least 1.
    pub(super) fn new(percent: u8, run: u64) -> Self {
        if percent >= 100 {
            return Self { start: 0, width: None };
        }
        // Rounded up, so that the last run of a circle leaves no gap.
        let width = (u64::MAX / 100 + 1) * u64::from(percent.max(1));
        Self { start: width.wrapping_mul(run), width: Some(width) }
    }

    /// Whether it has a pack.
    pub(super) fn has(&self, pack: &PackId) -> bool {
        let mut place = [0; 8];
        place.copy_from_slice(&pack.0[..8]);
        self.width.is_none_or(|width| u64::from_be_bytes(place).wrapping_sub(self.start) < width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs() -> Vec<PackId> {
        let scattered = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes().to_be_bytes();
        let pack = |number| PackId(std::array::from_fn(|at| scattered(number)[7 - at % 8]));
        (1..=2_000).map(pack).collect()
    }

    #[test]
    fn a_run_reads_its_share_and_a_circle_of_runs_reads_all() {
        for (percent, runs) in [(1, 100), (5, 20), (7, 15), (30, 4), (50, 2), (99, 2), (100, 1)] {
            let slices: Vec<Slice> = (10..10 + runs).map(|run| Slice::new(percent, run)).collect();
            let packs = packs();
            assert!(packs.iter().all(|pack| slices.iter().any(|slice| slice.has(pack))), "{percent} %");
            for slice in slices {
                let share = packs.iter().filter(|pack| slice.has(pack)).count() as f64 / packs.len() as f64;
                assert!((share - f64::from(percent) / 100.0).abs() < 0.03, "{percent} %: {share}");
            }
        }
    }
}
