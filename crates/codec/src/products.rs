//! Sums of products in GF(2^8) over long runs of bytes, with the widest registers that the processor has.
//!
//! A byte times a number is the sum of what its two halves give, and each half has sixteen values: two look-ups, which SSSE3, AVX2, AVX-512 and
//! NEON do for 16 to 64 bytes at once (Plank, Greenan, Miller: Screaming Fast Galois Field Arithmetic Using Intel SIMD Instructions, 2013).

use fearless_simd::{Level, Simd, dispatch, prelude::*, u8x16};
use reed_solomon_erasure::galois_8::mul;

/// What a number gives with the low halves of bytes, and with the high ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Products {
    low: [u8; 16],
    high: [u8; 16],
}

impl Products {
    pub(crate) fn of(number: u8) -> Self {
        let with = |byte: usize| mul(number, byte as u8);
        Self { low: std::array::from_fn(with), high: std::array::from_fn(|half| with(half << 4)) }
    }

    fn with(&self, byte: u8) -> u8 {
        self.low[usize::from(byte & 15)] ^ self.high[usize::from(byte >> 4)]
    }
}

/// Makes `out` the sum of the inputs, each multiplied with its number. All are equally long.
pub(crate) fn sum(level: Level, terms: &[(Products, &[u8])], out: &mut [u8]) {
    if terms.is_empty() {
        out.fill(0);
    }
    let mut is_first = true;
    // Four at once leave registers for their tables, and save reading and writing the sum for each.
    for terms in terms.chunks(4) {
        match *terms {
            [a] => add(level, [a], out, is_first),
            [a, b] => add(level, [a, b], out, is_first),
            [a, b, c] => add(level, [a, b, c], out, is_first),
            [a, b, c, d] => add(level, [a, b, c, d], out, is_first),
            _ => {}
        }
        is_first = false;
    }
}

fn add<const N: usize>(level: Level, terms: [(Products, &[u8]); N], out: &mut [u8], is_first: bool) {
    let terms = terms.map(|(products, input)| (products, &input[..out.len()]));
    let done = dispatch!(level, simd => add_wide(simd, &terms, out, is_first));
    for at in done..out.len() {
        let sum = terms.iter().fold(0, |sum, (products, input)| sum ^ products.with(input[at]));
        out[at] = if is_first { sum } else { out[at] ^ sum };
    }
}

/// The same for as many whole registers as there are; how many bytes that was.
#[inline(always)]
fn add_wide<S: Simd, const N: usize>(simd: S, terms: &[(Products, &[u8]); N], out: &mut [u8], is_first: bool) -> usize {
    let tables = terms.map(|(products, _)| {
        let [low, high] = [products.low, products.high].map(|table| S::u8s::block_splat(u8x16::from_slice(simd, &table)));
        (low, high)
    });
    let low_half = S::u8s::splat(simd, 15);
    let whole = out.len() - out.len() % S::u8s::LEN;
    for at in (0..whole).step_by(S::u8s::LEN) {
        let range = at..at + S::u8s::LEN;
        let out = &mut out[range.clone()];
        let mut sum = if is_first { S::u8s::splat(simd, 0) } else { S::u8s::from_slice(simd, out) };
        for ((_, input), (low, high)) in terms.iter().zip(&tables) {
            let bytes = S::u8s::from_slice(simd, &input[range.clone()]);
            sum = sum ^ low.swizzle_dyn_within_blocks(bytes & low_half) ^ high.swizzle_dyn_within_blocks(bytes >> 4);
        }
        sum.store_slice(out);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this processor can do, from nothing special to everything.
    fn levels() -> Vec<Level> {
        let best = Level::new();
        #[cfg(target_arch = "x86_64")]
        let lesser = [best.as_sse2().map(Simd::level), best.as_sse4_2().map(Simd::level), best.as_avx2().map(Simd::level)];
        #[cfg(not(target_arch = "x86_64"))]
        let lesser = [None];
        lesser.into_iter().flatten().chain([best]).collect()
    }

    fn bytes(seed: usize, length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 167 + seed * 59 + (at >> 8)) as u8).collect()
    }

    #[test]
    fn every_product_is_the_fields() {
        let all: Vec<u8> = (0..=255).collect();
        for level in levels() {
            for number in 0..=255 {
                let mut out = vec![9; 256];
                sum(level, &[(Products::of(number), &all)], &mut out);
                assert!(out.iter().zip(&all).all(|(out, byte)| *out == mul(number, *byte)), "{number}, {level:?}");
            }
        }
    }

    #[test]
    fn sums_of_any_number_and_length() {
        for level in levels() {
            for count in 0..10 {
                for length in [0, 1, 15, 16, 17, 63, 64, 65, 200, 1000] {
                    let inputs: Vec<Vec<u8>> = (0..count).map(|number| bytes(number, length)).collect();
                    let number = |at: usize| (at * 71 + 2) as u8;
                    let terms: Vec<(Products, &[u8])> =
                        inputs.iter().enumerate().map(|(at, input)| (Products::of(number(at)), &input[..])).collect();
                    let mut out = vec![7; length];
                    sum(level, &terms, &mut out);
                    let plain = |at: usize| (0..count).fold(0, |sum, input| sum ^ mul(number(input), inputs[input][at]));
                    assert!((0..length).all(|at| out[at] == plain(at)), "{count} of {length} bytes, {level:?}");
                }
            }
        }
    }
}
