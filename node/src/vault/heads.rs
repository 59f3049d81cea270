//! Which heads this state knows: those that it gave out, and those whose contents its next head names. A holder may keep one that is in
//! neither list although a newer one is known here: the state was put back from an older copy, and has given out numbers since that
//! another one had used before.

use backmesh_format::{DecodeError, RecordHash, Wire, wire_struct};

/// Heads that are remembered; of older ones the number alone tells. A holder's first answer has no more of the usual size.
const KEPT_MAX: usize = 256;

wire_struct! {
    /// A head that is known here.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct KnownHead {
        /// Its number.
        pub sequence: u64,
        /// Its hash.
        pub hash: RecordHash,
        /// Whether the next head names all that it does; else it was given out here, and may never have come to count.
        pub named: bool,
    }
}

/// What a head that a holder keeps is to this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadIs {
    /// All that it names is known.
    Named,
    /// It was given out here, and is not known to have come to count.
    GivenOut,
    /// Another copy of this state has written it.
    Unknown,
}

/// The heads that are known, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KnownHeads {
    heads: Vec<KnownHead>,
    /// The number from which on all of them are in the list.
    from: u64,
}

impl KnownHeads {
    /// From what is stored. An early version of this program stored none: then it is known of no head up to the number `given_to` whether
    /// it was given out here.
    pub(super) fn open(stored: Option<Vec<u8>>, given_to: u64) -> Result<Self, DecodeError> {
        let heads: Vec<KnownHead> = stored.map(|bytes| Vec::from_wire(&bytes)).transpose()?.unwrap_or_default();
        let from = heads.first().map_or(given_to + 1, |first| first.sequence);
        Ok(Self { heads, from })
    }

    pub(super) fn stored(&self) -> Vec<u8> {
        self.heads.to_wire()
    }

    /// With one head more; what was named stays so.
    pub(super) fn with(&self, sequence: u64, hash: RecordHash, named: bool) -> Self {
        let mut heads = self.heads.clone();
        match heads.iter_mut().find(|known| known.hash == hash) {
            Some(known) => known.named |= named,
            None => {
                let at = heads.partition_point(|known| known.sequence <= sequence);
                heads.insert(at, KnownHead { sequence, hash, named });
            }
        }
        let mut from = self.from;
        if heads.len() > KEPT_MAX {
            heads.drain(..heads.len() - KEPT_MAX);
            from = heads.first().map_or(from, |first| first.sequence);
        }
        Self { heads, from }
    }

    /// What a head is, where `newest` is the number of the newest that counts here.
    pub(super) fn judge(&self, sequence: u64, hash: &RecordHash, newest: Option<u64>) -> HeadIs {
        match self.heads.iter().find(|known| known.hash == *hash) {
            Some(known) if known.named => HeadIs::Named,
            Some(_) => HeadIs::GivenOut,
            None if sequence >= self.from || newest == Some(sequence) => HeadIs::Unknown,
            None if newest.is_some_and(|newest| sequence < newest) => HeadIs::Named,
            None => HeadIs::GivenOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> RecordHash {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        RecordHash(bytes)
    }

    #[test]
    fn a_number_that_was_given_out_twice_is_noticed_whichever_head_is_newer() {
        let known = KnownHeads::open(None, 0).unwrap().with(1, hash(1), true).with(2, hash(2), false).with(3, hash(3), true);
        for known in [known.clone(), KnownHeads::open(Some(known.stored()), 3).unwrap()] {
            let is = |sequence, number| known.judge(sequence, &hash(number), Some(3));
            assert_eq!([is(1, 1), is(3, 3)], [HeadIs::Named; 2]);
            assert_eq!(is(2, 2), HeadIs::GivenOut);
            assert_eq!([is(2, 9), is(3, 9), is(4, 9)], [HeadIs::Unknown; 3]);
        }
        assert_eq!(known.with(2, hash(2), true).judge(2, &hash(2), Some(3)), HeadIs::Named);
        assert_eq!(known.with(3, hash(3), false).judge(3, &hash(3), Some(3)), HeadIs::Named, "it is not forgotten");
    }

    #[test]
    fn of_heads_from_before_the_list_the_number_tells() {
        // A state that remembers head 7, and gave out 8 and 9 for backups that were cut off.
        let known = KnownHeads::open(None, 9).unwrap();
        let is = |known: &KnownHeads, sequence| known.judge(sequence, &hash(9), Some(7));
        assert_eq!(
            [6, 7, 8, 10].map(|sequence| is(&known, sequence)),
            [HeadIs::Named, HeadIs::Unknown, HeadIs::GivenOut, HeadIs::Unknown]
        );
        let long = (10..1000).fold(known, |known, sequence| known.with(sequence, hash(sequence), true));
        assert_eq!(long.heads.len(), KEPT_MAX);
        let first = long.heads[0].sequence;
        assert_eq!(
            [first - 1, first].map(|sequence| long.judge(sequence, &hash(0), Some(999))),
            [HeadIs::Named, HeadIs::Unknown]
        );
        // One who knows nothing takes everything over.
        assert_eq!(KnownHeads::open(None, 0).unwrap().judge(1, &hash(1), None), HeadIs::Unknown);
    }
}
