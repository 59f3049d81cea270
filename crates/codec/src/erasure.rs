//! Reed-Solomon over GF(2^8), systematic: the first k shards are the data, each further one is a row of a Vandermonde matrix times
//! the data. Row i depends on k and i only, never on how many shards there are, so that shards can be added later.
//!
//! The field is that of the crate `reed-solomon-erasure` (polynomial 0x11d), and so are the matrices. The loops over bytes are in
//! `products.rs`.

use crate::products::{self, Products};
use fearless_simd::Level;
use thiserror::Error;

/// The arithmetic of GF(2^8).
mod field {
    pub(super) use reed_solomon_erasure::galois_8::{div, exp, mul, mul_slice_xor};
}

/// Bytes of each shard that are worked on at once, so that they stay in the processor's cache.
const STRIP_BYTES: usize = 16 << 10;

/// A matrix over the field, by rows.
type Matrix = Vec<Vec<u8>>;

/// The code with k data shards.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    k: usize,
    to_systematic: Matrix,
}

impl Code {
    /// For k from 1 to 127.
    pub(crate) fn new(k: usize) -> Self {
        let top: Matrix = (0..k).map(|row| vandermonde_row(row, k)).collect();
        Self { k, to_systematic: invert(top).unwrap_or_default() }
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// What each data shard is multiplied with to make shard `shard`.
    fn row(&self, shard: usize) -> Vec<u8> {
        if shard < self.k {
            (0..self.k).map(|column| u8::from(column == shard)).collect()
        } else {
            times(&vandermonde_row(shard, self.k), &self.to_systematic)
        }
    }

    /// Makes parity shards from all data shards, all of one length: the one numbered `first` and those behind it.
    pub(crate) fn parity(&self, data: &[&[u8]], first: usize, outs: &mut [&mut [u8]]) {
        let rows: Matrix = (first..first + outs.len()).map(|shard| self.row(shard)).collect();
        combine(&rows, data, outs);
    }

    /// What rebuilds shards from those numbered `present`: the first k of them are used. None where they are fewer than k, or one
    /// is named twice.
    pub(crate) fn decoder(&self, present: &[usize]) -> Option<Decoder<'_>> {
        let present = present.get(..self.k)?.to_vec();
        let rows: Matrix = present.iter().map(|shard| self.row(*shard)).collect();
        Some(Decoder { code: self, to_data: invert(rows)?, present })
    }
}

/// Rebuilds shards, or the same range of each, from one set of k.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    code: &'a Code,
    to_data: Matrix,
    /// The shards that are used, in the order in which their bytes are given.
    pub(crate) present: Vec<usize>,
}

impl Decoder<'_> {
    /// Rebuilds shard `wanted` into `out` from the bytes of the shards [`Decoder::present`], all as long as `out`.
    pub(crate) fn rebuild(&self, wanted: usize, inputs: &[&[u8]], out: &mut [u8]) {
        let row = times(&self.code.row(wanted), &self.to_data);
        combine(&[row], inputs, &mut [out]);
    }
}

fn vandermonde_row(row: usize, columns: usize) -> Vec<u8> {
    (0..columns).map(|column| field::exp(row as u8, column)).collect()
}

fn times(row: &[u8], matrix: &Matrix) -> Vec<u8> {
    let mut product = vec![0; row.len()];
    for (factor, line) in row.iter().zip(matrix) {
        field::mul_slice_xor(*factor, line, &mut product);
    }
    product
}

/// Gauss-Jordan. None where the matrix has no inverse.
fn invert(mut matrix: Matrix) -> Option<Matrix> {
    let size = matrix.len();
    for (at, row) in matrix.iter_mut().enumerate() {
        row.extend((0..size).map(|column| u8::from(column == at)));
    }
    for at in 0..size {
        let pivot = (at..size).find(|row| matrix[*row][at] != 0)?;
        matrix.swap(at, pivot);
        let scale = field::div(1, matrix[at][at]);
        let line: Vec<u8> = matrix[at].iter().map(|value| field::mul(*value, scale)).collect();
        for (other, row) in matrix.iter_mut().enumerate() {
            if other != at {
                let factor = row[at];
                field::mul_slice_xor(factor, &line, row);
            }
        }
        matrix[at] = line;
    }
    matrix.iter_mut().for_each(|row| {
        row.drain(..size);
    });
    Some(matrix)
}

/// Each output becomes the sum of the inputs, each multiplied with its number in the output's row.
fn combine(rows: &[Vec<u8>], inputs: &[&[u8]], outs: &mut [&mut [u8]]) {
    let level = Level::new();
    let bytes = outs.first().map_or(0, |out| out.len());
    let products = |row: &Vec<u8>| row.iter().map(|number| Products::of(*number)).collect::<Vec<_>>();
    let products: Vec<Vec<Products>> = rows.iter().map(products).collect();
    let mut terms = Vec::with_capacity(inputs.len());
    for start in (0..bytes).step_by(STRIP_BYTES) {
        let strip = start..(start + STRIP_BYTES).min(bytes);
        for ((row, products), out) in rows.iter().zip(&products).zip(outs.iter_mut()) {
            terms.clear();
            let all = row.iter().zip(products).zip(inputs);
            terms.extend(all.filter(|((number, _), _)| **number != 0).map(|((_, of), input)| (*of, &input[strip.clone()])));
            products::sum(level, &terms, &mut out[strip.clone()]);
        }
    }
}

/// Why shards could not be made or rebuilt.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodeError {
    /// No code has these numbers.
    #[error("there is no code of {k} out of {n} shards")]
    Shape {
        /// How many shards rebuild.
        k: usize,
        /// How many there are.
        n: usize,
    },
    /// Too few shards are at hand.
    #[error("{present} shards are at hand, {k} are needed")]
    TooFew {
        /// How many are at hand.
        present: usize,
        /// How many are needed.
        k: usize,
    },
    /// The shards are not of one length.
    #[error("shard {shard} has {found} bytes, not {expected} as the others")]
    Length {
        /// The shard that differs.
        shard: usize,
        /// Its length.
        found: usize,
        /// The others'.
        expected: usize,
    },
    /// There can be no shard of that number.
    #[error("there is no shard {shard}: stripes have at most {limit}")]
    Number {
        /// The number.
        shard: usize,
        /// How many a stripe may have.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use reed_solomon_erasure::galois_8::ReedSolomon;

    fn data(k: usize, bytes: usize) -> Vec<Vec<u8>> {
        let mut rng = StdRng::seed_from_u64(k as u64);
        let mut shards = vec![vec![0; bytes]; k];
        shards.iter_mut().for_each(|shard| rng.fill_bytes(shard));
        shards
    }

    fn slices(shards: &[Vec<u8>]) -> Vec<&[u8]> {
        shards.iter().map(|shard| &shard[..]).collect()
    }

    fn parity(code: &Code, data: &[Vec<u8>], shards: std::ops::Range<usize>) -> Vec<Vec<u8>> {
        let mut outs = vec![vec![7; data[0].len()]; shards.len()];
        code.parity(&slices(data), shards.start, &mut outs.iter_mut().map(|out| &mut out[..]).collect::<Vec<_>>());
        outs
    }

    #[test]
    fn shards_are_those_of_the_crate() {
        for (k, n) in [(1, 4), (2, 3), (4, 8), (10, 20), (16, 40), (20, 52), (100, 128)] {
            let mut shards = data(k, 100);
            let ours = parity(&Code::new(k), &shards, k..n);
            shards.resize(n, vec![0; 100]);
            ReedSolomon::new(k, n - k).unwrap().encode(&mut shards).unwrap();
            assert_eq!(ours, &shards[k..], "{k} of {n}");
        }
    }

    #[test]
    fn a_shard_does_not_depend_on_how_many_there_are() {
        let data = data(4, 50_000);
        let code = Code::new(4);
        let (eight, ten) = (parity(&code, &data, 4..8), parity(&code, &data, 4..10));
        assert_eq!(eight, ten[..4]);
        assert_eq!(parity(&code, &data, 9..10), ten[5..]);
    }

    #[test]
    fn every_k_rebuilds_from_the_shards_farthest_from_the_data() {
        for k in 1..128 {
            let data = data(k, 3);
            let code = Code::new(k);
            let present: Vec<usize> = (128 - k..128).collect();
            let all = [data.clone(), parity(&code, &data, k..128)].concat();
            let decoder = code.decoder(&present).unwrap();
            let inputs: Vec<&[u8]> = present.iter().map(|shard| &all[*shard][..]).collect();
            for wanted in [0, k / 2, k - 1, 64] {
                let mut out = vec![0; 3];
                decoder.rebuild(wanted, &inputs, &mut out);
                assert_eq!(out, all[wanted], "{wanted} of {k}");
            }
        }
    }

    #[test]
    fn too_few_or_repeated_shards_have_no_decoder() {
        let code = Code::new(3);
        assert!(code.decoder(&[0, 5]).is_none());
        assert!(code.decoder(&[0, 5, 5]).is_none());
        assert!(code.decoder(&[7, 5, 6]).is_some());
    }

    #[test]
    fn copies_are_copies() {
        let data = data(1, 40_000);
        assert!(parity(&Code::new(1), &data, 1..5).iter().all(|copy| *copy == data[0]));
    }
}
