//! Keeping directories equal: what is new is pushed at once, and what was missed is found by comparing digests. Quiet when equal.
//!
//! A comparison: one side sends its digest; the other, if its own differs, its bucket sums; the first the ids in buckets that
//! differ; the other the records that are missing there, and the ids that it wants itself. Each step is bounded, and the next
//! comparison, a second later as long as there is progress, goes on where this one stopped.

use super::{LinkId, Moment, Output, Peer, PeerEvent, Phase, RELAYS};
use crate::directory::{DirectoryRecord, ItemId, Kind, Outcome, item_id};
use crate::message::{BUCKETS_PER_KIND, IDS_MAX, Message, RECORDS_BYTES_MAX, RawRecord, RefusedReason};
use backmesh_format::DecodeError;
use std::collections::BTreeSet;

/// Buckets that are looked into in one comparison.
const BUCKETS_MAX: usize = 64;
/// Ids that are asked for in one comparison.
const ASKED_MAX: usize = 4 * IDS_MAX;
/// The pause between comparisons while they find something, in milliseconds.
const PROGRESS_MS: u64 = 1_000;
/// Records that make no sense before a member is cut off.
const OFFENCES_MAX: u32 = 16;

impl Peer {
    /// Begins a comparison with one peer, and plans the next.
    pub(super) fn compare(&mut self, at: u64, link: LinkId) {
        let root = self.directory.digest_root();
        let Some(known) = self.links.get_mut(&link) else { return };
        if std::mem::take(&mut known.progress) {
            known.quiet_ms = self.config.quiet_ms.0;
            known.next_sync_at = at + PROGRESS_MS;
        } else {
            known.next_sync_at = at + self.dice.around(known.quiet_ms);
            known.quiet_ms = known.quiet_ms.saturating_mul(2).min(self.config.quiet_ms.1);
        }
        known.asked.clear();
        self.send(link, Message::Digest { root });
    }

    pub(super) fn exchange(&mut self, now: Moment, link: LinkId, message: Message) {
        let at = now.monotonic_ms;
        match message {
            Message::Digest { root } => {
                if root != self.directory.digest_root() && self.affords(link, 16 << 10, at) {
                    let sums = self.directory.digest_sums();
                    self.send(link, Message::Buckets { sums });
                }
            }
            Message::Buckets { sums } => self.look_into(at, link, &sums),
            Message::Have { kind, bucket, ids } => self.have(at, link, kind, bucket, &ids),
            Message::Want { ids } => self.give(at, link, &ids, true),
            Message::Records { records } => self.records(now, link, records),
            Message::Hello(_) | Message::Welcome { .. } | Message::Refused { .. } => {
                self.refuse(now, link, RefusedReason::Protocol, "the greeting is over");
            }
        }
    }

    fn look_into(&mut self, at: u64, link: LinkId, theirs: &[[u8; 16]]) {
        let ours = self.directory.digest_sums();
        let differ = ours.iter().zip(theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs);
        let mut places: Vec<usize> = differ.map(|(place, _)| place).collect();
        let Some(known) = self.links.get_mut(&link) else { return };
        let first = places.partition_point(|place| *place < known.cursor);
        places.rotate_left(first);
        places.truncate(BUCKETS_MAX);
        known.cursor = places.last().map_or(0, |place| place + 1);
        for place in places {
            let Some(kind) = Kind::ALL.get(place / BUCKETS_PER_KIND).copied() else { continue };
            let bucket = (place % BUCKETS_PER_KIND) as u8;
            let mut ids = self.directory.bucket_ids(kind, bucket);
            ids.truncate(IDS_MAX);
            if !self.affords(link, 64 + 32 * ids.len() as u64, at) {
                break;
            }
            self.send(link, Message::Have { kind: kind as u8, bucket, ids });
        }
    }

    fn have(&mut self, at: u64, link: LinkId, kind: u8, bucket: u8, theirs: &[ItemId]) {
        let Some(kind) = Kind::from_number(kind).filter(|_| usize::from(bucket) < BUCKETS_PER_KIND) else { return };
        let known: BTreeSet<&ItemId> = theirs.iter().collect();
        let missing: Vec<ItemId> = self.directory.bucket_ids(kind, bucket).into_iter().filter(|id| !known.contains(id)).collect();
        let mut wanted: Vec<ItemId> = theirs.iter().filter(|id| self.directory.lacks(kind, id)).copied().collect();
        self.give(at, link, &missing, true);
        let Some(known) = self.links.get_mut(&link) else { return };
        wanted.truncate(ASKED_MAX.saturating_sub(known.asked.len()).min(IDS_MAX));
        known.asked.extend(wanted.iter().copied());
        if !wanted.is_empty() {
            self.send(link, Message::Want { ids: wanted });
        }
    }

    /// Sends records, as many as the link may have now; with certificates what they need to count, so that who learns a whole group
    /// need not hold thousands back.
    fn give(&mut self, at: u64, link: LinkId, ids: &[ItemId], with_companions: bool) {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for id in ids {
            let Some(record) = self.directory.record(id) else { continue };
            let companions = if with_companions { self.directory.companions(id) } else { Vec::new() };
            let raws: Vec<RawRecord> = [record].iter().chain(&companions).map(DirectoryRecord::to_raw).collect();
            let cost = raws.iter().map(|raw| raw.bytes.0.len() + 5).sum::<usize>();
            if !self.affords(link, cost as u64, at) {
                break;
            }
            if batch_bytes + cost > RECORDS_BYTES_MAX {
                self.send(link, Message::Records { records: std::mem::take(&mut batch) });
                batch_bytes = 0;
            }
            batch_bytes += cost;
            batch.extend(raws);
        }
        if !batch.is_empty() {
            if let Some(known) = self.links.get_mut(&link) {
                known.progress = true;
            }
            self.send(link, Message::Records { records: batch });
        }
    }

    fn affords(&mut self, link: LinkId, bytes: u64, at: u64) -> bool {
        self.links.get_mut(&link).is_some_and(|known| known.bytes_out.take(bytes, at))
    }

    fn records(&mut self, now: Moment, link: LinkId, raws: Vec<RawRecord>) {
        let Some((asked, unasked)) = self.read_records(now.monotonic_ms, link, raws) else {
            let node = self.links.get(&link).map(|known| known.node);
            self.outputs.extend(node.map(|node| Output::Report(PeerEvent::Misbehaved { node })));
            return self.refuse(now, link, RefusedReason::Protocol, "too many records that make no sense");
        };
        self.drain_directory(now, None);
        let mut fresh = self.directory.merge(unasked, now.unix_ms);
        self.drain_directory(now, Some(link));
        let found = self.directory.merge(asked, now.unix_ms);
        let mut effects = self.directory.take_effects();
        if !std::mem::take(&mut effects.fresh).is_empty() {
            self.dialer.look_again();
            self.compare_soon(now.monotonic_ms, link);
        }
        self.spread(now, effects, Some(link));
        fresh.extend(found);
        if let Some(known) = self.links.get_mut(&link) {
            known.progress |= fresh.iter().any(|(_, outcome)| matches!(outcome, Outcome::New | Outcome::Waiting));
            if known.progress {
                known.next_sync_at = known.next_sync_at.min(now.monotonic_ms + PROGRESS_MS);
            }
        }
    }

    /// Reads the records that are new here, those first that were asked for. None where a member has sent too much nonsense.
    fn read_records(
        &mut self,
        at: u64,
        link: LinkId,
        raws: Vec<RawRecord>,
    ) -> Option<(Vec<DirectoryRecord>, Vec<DirectoryRecord>)> {
        let known = self.links.get_mut(&link)?;
        let (mut asked, mut unasked) = (Vec::new(), Vec::new());
        let mut answer = false;
        for raw in raws {
            let Some(kind) = Kind::from_number(raw.kind) else { continue };
            let id = item_id(raw.kind, &raw.bytes.0);
            if !self.directory.lacks(kind, &id) || !known.verifications.take(1, at) {
                continue;
            }
            match DirectoryRecord::from_bytes(kind, &raw.bytes.0) {
                Ok(record) => {
                    // What follows the answer to a question belongs to it.
                    answer |= known.asked.remove(&id);
                    if answer { asked.push(record) } else { unasked.push(record) }
                }
                Err(DecodeError::Version { .. } | DecodeError::Flags { .. }) => self.directory.leave_out(id),
                Err(_) => {
                    self.directory.leave_out(id);
                    known.offences += 1;
                    if known.offences >= OFFENCES_MAX {
                        return None;
                    }
                }
            }
        }
        Some((asked, unasked))
    }

    /// A comparison found something: others may not know it yet.
    fn compare_soon(&mut self, at: u64, except: LinkId) {
        for (id, known) in &mut self.links {
            if *id != except && known.phase == Phase::Member {
                known.quiet_ms = self.config.quiet_ms.0;
                known.next_sync_at = known.next_sync_at.min(at + PROGRESS_MS + self.dice.below(PROGRESS_MS));
            }
        }
    }

    /// Lays new records out for others: what was made here for everyone, what another brought for some, who pass it on in turn.
    pub(super) fn push(&mut self, at: u64, fresh: &[ItemId], origin: Option<LinkId>) {
        let mut targets: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(id, known)| known.phase == Phase::Member && Some(**id) != origin)
            .map(|(id, _)| *id)
            .collect();
        if let Some(origin) = origin {
            let affords = self.links.get_mut(&origin).is_some_and(|known| known.relays.take(fresh.len() as u64, at));
            if !affords {
                return self.compare_soon(at, origin);
            }
            while targets.len() > RELAYS + 2 {
                let chosen = self.dice.below(targets.len() as u64) as usize;
                targets.swap_remove(chosen);
                if targets.len() == RELAYS {
                    break;
                }
            }
        }
        for target in targets {
            if let Some(known) = self.links.get_mut(&target) {
                known.outbox.extend_from_slice(fresh);
            }
        }
    }

    /// Sends what was laid out.
    pub(super) fn flush(&mut self, now: Moment) {
        let full: Vec<LinkId> = self.links.iter().filter(|(_, known)| !known.outbox.is_empty()).map(|(id, _)| *id).collect();
        for link in full {
            let Some(known) = self.links.get_mut(&link) else { continue };
            let ids = std::mem::take(&mut known.outbox);
            self.give(now.monotonic_ms, link, &ids, false);
        }
    }
}
