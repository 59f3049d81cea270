//! The digest of all records that count by rules everyone shares: equal directories have equal digests, and unequal ones find
//! what differs bucket by bucket.

use super::record::{ItemId, ItemKey, Kind};
use crate::message::{BUCKETS_PER_KIND, KINDS};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Digest {
    items: BTreeMap<(Kind, ItemId), ItemKey>,
    sums: BTreeMap<(Kind, u8), [u8; 16]>,
    root: Option<[u8; 32]>,
}

impl Digest {
    pub(super) fn insert(&mut self, id: ItemId, key: ItemKey) {
        self.items.insert((key.kind(), id), key);
        self.root = None;
        self.sums.remove(&(key.kind(), bucket_of(&id)));
    }

    pub(super) fn remove(&mut self, kind: Kind, id: ItemId) {
        self.items.remove(&(kind, id));
        self.root = None;
        self.sums.remove(&(kind, bucket_of(&id)));
    }

    pub(super) fn contains(&self, kind: Kind, id: &ItemId) -> bool {
        self.items.contains_key(&(kind, *id))
    }

    pub(super) fn find(&self, id: &ItemId) -> Option<ItemKey> {
        Kind::ALL.into_iter().find_map(|kind| self.items.get(&(kind, *id)).copied())
    }

    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    pub(super) fn bucket(&self, kind: Kind, bucket: u8) -> impl Iterator<Item = (ItemId, ItemKey)> + '_ {
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        first[0] = bucket << 2;
        last[0] = bucket << 2 | 3;
        self.items.range((kind, first)..=(kind, last)).map(|((_, id), key)| (*id, *key))
    }

    /// The sums of all buckets, kind by kind; an empty bucket's is zero.
    pub(super) fn sums(&mut self) -> Vec<[u8; 16]> {
        let mut sums = Vec::with_capacity(KINDS * BUCKETS_PER_KIND);
        for kind in Kind::ALL {
            for bucket in 0..BUCKETS_PER_KIND as u8 {
                let sum = match self.sums.get(&(kind, bucket)) {
                    Some(sum) => *sum,
                    None => {
                        let sum = self.sum(kind, bucket);
                        self.sums.insert((kind, bucket), sum);
                        sum
                    }
                };
                sums.push(sum);
            }
        }
        sums
    }

    pub(super) fn root(&mut self) -> [u8; 32] {
        if let Some(root) = self.root {
            return root;
        }
        let mut hasher = blake3::Hasher::new_derive_key("backmesh 1 directory digest");
        for sum in self.sums() {
            hasher.update(&sum);
        }
        let root = *hasher.finalize().as_bytes();
        self.root = Some(root);
        root
    }

    fn sum(&self, kind: Kind, bucket: u8) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key("backmesh 1 directory bucket");
        let mut empty = true;
        for (id, _) in self.bucket(kind, bucket) {
            hasher.update(&id);
            empty = false;
        }
        let mut sum = [0; 16];
        if !empty {
            sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        }
        sum
    }
}

fn bucket_of(id: &ItemId) -> u8 {
    id[0] >> 2
}
