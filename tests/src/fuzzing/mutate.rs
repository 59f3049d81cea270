//! Seeded mutations: flipped bits, cuts, splices, repetitions, and numbers set to their extremes.

/// Dice with a seed: SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.word() % limit.max(1) as u64) as usize
    }
}

/// Numbers at which lengths and counts go wrong, as they may stand in a record.
const EXTREMES: &[&[u8]] = &[
    &[0xff],
    &[0x00],
    &[0x80],
    &[0x7f],
    &[0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0x00, 0x00, 0x00, 0x80],
    &[0xff; 8],
    &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x40],
    &[0x81, 0x80, 0x80, 0x01],
];

/// One of many inputs that are nearly `input`; some take a piece of `other`.
pub fn mutate(dice: &mut Dice, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(9) {
            0..3 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1 << dice.below(8);
            }
            3 => bytes.truncate(at),
            4 | 5 => {
                let extreme = EXTREMES[dice.below(EXTREMES.len())];
                let end = (at + if dice.below(4) == 0 { 0 } else { extreme.len() }).min(bytes.len());
                bytes.splice(at..end, extreme.iter().copied());
            }
            6 => {
                let from = dice.below(other.len() + 1);
                let end = (from + dice.below(200)).min(other.len());
                bytes.splice(at.., other[from..end].iter().copied());
            }
            7 => {
                let end = (at + dice.below(64)).min(bytes.len());
                let again: Vec<u8> = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let end = (at + dice.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes.truncate(super::INPUT_BYTES_MAX);
    bytes
}
