//! Keeps what members have done to this node ([`backmesh_policy::conduct`]), over restarts, for `peers` to show and for everyone who
//! chooses among members. Only what this node saw itself comes in here: no message carries it.

use backmesh_format::{NodeId, Reader, UnixMillis, Wire, Writer};
use backmesh_policy::{Conduct, Deeds, Offence, Reputation};
use backmesh_store::{Change, Records, RecordsError, Table};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the keys of the records begin with.
const PREFIX: &[u8] = b"conduct ";
/// The version of a kept record: a byte, then for each kind its number, count, last time, weight, and when it was weighed.
const VERSION: u8 = 1;
/// Members of whom something is kept; more than a workgroup has. Who has done least is forgotten first.
const KNOWN_MAX: usize = 8192;

/// What members have done.
#[derive(Default)]
pub struct Conducts {
    /// None where nothing outlives the process.
    records: Option<Arc<Records>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    conducts: HashMap<NodeId, Conduct>,
    /// Whose conduct is not on the disk as it is here.
    unsaved: HashSet<NodeId>,
}

impl Conducts {
    /// Reads what was kept. A record that makes no sense is as good as none.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn open(records: Arc<Records>) -> Result<Self, RecordsError> {
        let mut known = Known::default();
        for (key, value) in records.scan(Table::Node, PREFIX)? {
            let node = <[u8; 32]>::try_from(&key[PREFIX.len()..]).map(NodeId);
            if let (Ok(node), Some(conduct)) = (node, decode(&value)) {
                known.conducts.insert(node, conduct);
            }
        }
        Ok(Self { records: Some(records), known: Mutex::new(known) })
    }

    /// Takes notice of something that a member has just done.
    pub fn note(&self, node: NodeId, offence: Offence) {
        self.note_at(node, offence, crate::os::now());
    }

    fn note_at(&self, node: NodeId, offence: Offence, now: UnixMillis) {
        let mut known = self.known();
        if known.conducts.len() >= KNOWN_MAX && !known.conducts.contains_key(&node) {
            known.make_room(now);
        }
        let conduct = known.conducts.entry(node).or_default();
        let before = conduct.reputation(now);
        conduct.note(offence, now);
        let after = conduct.reputation(now);
        known.unsaved.insert(node);
        drop(known);
        if after != before {
            tracing::warn!(%node, ?offence, "a member is asked last from now on, and gets new stripes only where others do not suffice");
        } else {
            tracing::debug!(%node, ?offence, "a member did something wrong");
        }
    }

    /// How a member is to be treated.
    pub fn reputation(&self, node: &NodeId) -> Reputation {
        self.known().conducts.get(node).map_or(Reputation::Good, |conduct| conduct.reputation(crate::os::now()))
    }

    /// Everyone who is asked last.
    pub fn last(&self) -> BTreeSet<NodeId> {
        let now = crate::os::now();
        let known = self.known();
        known.conducts.iter().filter(|(_, conduct)| conduct.reputation(now).is_last()).map(|(node, _)| *node).collect()
    }

    /// What is remembered of a member, the gravest first.
    pub fn deeds(&self, node: &NodeId) -> Vec<(Offence, Deeds)> {
        let now = crate::os::now();
        self.known().conducts.get(node).map(|conduct| conduct.remembered(now).collect()).unwrap_or_default()
    }

    /// Writes what is new. For threads, not for tasks.
    ///
    /// # Errors
    /// Where it cannot be written; it is tried again the next time.
    pub fn save(&self) -> Result<(), RecordsError> {
        let Some(records) = &self.records else { return Ok(()) };
        let now = crate::os::now();
        let (unsaved, changes): (Vec<NodeId>, Vec<Change>) = {
            let mut known = self.known();
            let forgotten = known.conducts.iter().filter(|(_, conduct)| conduct.remembered(now).next().is_none());
            let forgotten: Vec<NodeId> = forgotten.map(|(node, _)| *node).collect();
            for node in &forgotten {
                known.conducts.remove(node);
            }
            known.unsaved.extend(forgotten);
            let change = |node: NodeId| {
                let key = [PREFIX, &node.0].concat();
                let kept = known.conducts.get(&node);
                let change = match kept {
                    Some(conduct) => Change::Put(Table::Node, key, encode(conduct, now)),
                    None => Change::Delete(Table::Node, key),
                };
                (node, change)
            };
            let changes = known.unsaved.iter().copied().map(change).unzip();
            known.unsaved.clear();
            changes
        };
        let saved = records.apply(&changes);
        if saved.is_err() {
            self.known().unsaved.extend(unsaved);
        }
        saved
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn make_room(&mut self, now: UnixMillis) {
        let least = self.conducts.iter().min_by_key(|(node, conduct)| (conduct.weight(now), **node)).map(|(node, _)| *node);
        if let Some(node) = least {
            self.conducts.remove(&node);
            self.unsaved.insert(node);
        }
    }
}

fn encode(conduct: &Conduct, now: UnixMillis) -> Vec<u8> {
    let mut w = Writer::default();
    VERSION.put(&mut w);
    for (offence, deeds) in conduct.remembered(now) {
        (offence as u8).put(&mut w);
        deeds.count.put(&mut w);
        deeds.last.put(&mut w);
        deeds.weight.put(&mut w);
        deeds.weighed.put(&mut w);
    }
    w.finish()
}

fn decode(bytes: &[u8]) -> Option<Conduct> {
    let mut r = Reader::new(bytes);
    if u8::take(&mut r).ok()? != VERSION {
        return None;
    }
    let mut kept = Vec::new();
    while r.remaining() > 0 {
        let offence = Offence::from_number(u8::take(&mut r).ok()?);
        let deeds = Deeds {
            count: u32::take(&mut r).ok()?,
            last: u64::take(&mut r).ok()?,
            weight: u32::take(&mut r).ok()?,
            weighed: u64::take(&mut r).ok()?,
        };
        kept.extend(offence.map(|offence| (offence, deeds)));
    }
    Some(Conduct::from_deeds(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_store::RealDisk;

    fn node(number: u64) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(bytes)
    }

    fn open(folder: &tempfile::TempDir) -> Conducts {
        Conducts::open(Arc::new(Records::open(Arc::new(RealDisk), folder.path()).unwrap())).unwrap()
    }

    #[test]
    fn what_was_done_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let conducts = open(&folder);
        conducts.note(node(1), Offence::WrongBytes);
        (0..3).for_each(|_| conducts.note(node(1), Offence::Refused));
        conducts.note(node(2), Offence::Stalled);
        conducts.note_at(node(3), Offence::Stalled, 1000);
        let before = (conducts.deeds(&node(1)), conducts.deeds(&node(2)));
        conducts.save().unwrap();
        drop(conducts);
        let conducts = open(&folder);
        assert_eq!((conducts.deeds(&node(1)), conducts.deeds(&node(2))), before);
        assert_eq!(before.0.iter().map(|(_, deeds)| deeds.count).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(conducts.reputation(&node(1)), Reputation::Untrusted);
        assert_eq!(conducts.reputation(&node(2)), Reputation::Good);
        assert_eq!(conducts.last(), BTreeSet::from([node(1)]));
        assert!(conducts.deeds(&node(3)).is_empty(), "what is forgotten is not kept");
    }

    #[test]
    fn it_is_bounded_and_the_gravest_stays() {
        let conducts = Conducts::default();
        conducts.note(node(u64::MAX), Offence::Forged);
        (0..KNOWN_MAX as u64 + 100).for_each(|number| conducts.note(node(number), Offence::Stalled));
        assert_eq!(conducts.known().conducts.len(), KNOWN_MAX);
        assert!(conducts.reputation(&node(u64::MAX)).is_last());
    }

    #[test]
    fn damaged_records_are_as_good_as_none() {
        assert!(decode(&[]).is_none() && decode(&[2]).is_none() && decode(&[VERSION, 1, 0]).is_none());
        assert_eq!(decode(&[VERSION]), Some(Conduct::default()));
        let unknown = [&[VERSION, 99][..], &[7; 24]].concat();
        assert_eq!(decode(&unknown), Some(Conduct::default()), "a kind of a later program is passed over");
    }
}
