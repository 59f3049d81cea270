//! What one link may cost in a given time, and chance that can be repeated.

/// So much at once, and so much a second after that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: u64,
    burst: u64,
    per_second: u64,
    refilled_at: u64,
}

impl Budget {
    pub(super) const fn new(burst: u64, per_second: u64, now: u64) -> Self {
        Self { left: burst, burst, per_second, refilled_at: now }
    }

    /// Takes `cost` if that much is left.
    pub(super) fn take(&mut self, cost: u64, now: u64) -> bool {
        let earned = now.saturating_sub(self.refilled_at).saturating_mul(self.per_second) / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.burst);
            self.refilled_at = now;
        }
        let enough = self.left >= cost;
        if enough {
            self.left -= cost;
        }
        enough
    }
}

/// SplitMix64: enough to spread pauses and to pick peers. Nothing secret rests on it.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 for 0.
    pub(super) const fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// Half to one and a half times `length`.
    pub(super) const fn around(&mut self, length: u64) -> u64 {
        length / 2 + self.below(length.saturating_add(1))
    }
}
