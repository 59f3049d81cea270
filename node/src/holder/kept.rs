//! The records beside the shards: plans of copysets, writers, heads, releases. In memory is what decisions need; on disk is all of it.
//!
//! ```text
//! Copyset      vault, copyset
//! WriterCert   vault, seat, generation, writer
//! Head         vault, seat, generation, sequence, hash
//! Release      vault, 'r', seat, generation, sequence      a release by a writer
//! Release      vault, 'u', sequence                        an un-release by the root key
//! ```
//!
//! Numbers in keys are big-endian. Every record counts against the offer and against its owner's quota.

use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::vault::{Head, WriterCert};
use backmesh_format::{CopysetId, NodeId, PublicKey, RecordHash, Signed, VaultId, Wire};
use backmesh_mesh::holding::{Fence, HeadRank};
use backmesh_store::{Change, Records, RecordsError, Table};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Records read at once while what is kept is listed: heads may be a mebibyte each.
const RECORDS_AT_ONCE: usize = 16;
/// What a record costs beyond its own bytes: its key, its checksum and its share of a page.
const RECORD_BYTES_EXTRA: u64 = 128;
/// After so long the count of records taken begins anew.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What un-releases are marked with in their keys, and what releases are.
const UNRELEASE: u8 = b'u';
const RELEASE: u8 = b'r';

/// A head, by what orders the heads of a vault: the newest of a seat is its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeadName {
    seat: u16,
    rank: HeadRank,
    /// Tells apart what a faulty writer numbered alike, and names the head to readers.
    pub(super) hash: RecordHash,
}

impl HeadName {
    fn of(head: &Signed<Head>) -> Self {
        Self { seat: head.writer.seat, rank: HeadRank::of(head), hash: head.hash() }
    }

    /// What no head of a seat comes after.
    const fn last_of(seat: u16) -> Self {
        let fence = Fence { generation: u64::MAX, writer: PublicKey([0; 32]) };
        Self { seat, rank: HeadRank { fence, sequence: u64::MAX }, hash: RecordHash([0xff; 32]) }
    }

    fn key(&self, vault: &VaultId) -> Vec<u8> {
        let (seat, generation) = (self.seat.to_be_bytes(), self.rank.fence.generation.to_be_bytes());
        [&vault.0[..], &seat, &generation, &self.rank.sequence.to_be_bytes(), &self.hash.0].concat()
    }
}

/// Records of a kind that were taken within a day. It is not written down: a thief cannot start the holder again.
#[derive(Debug, Clone, Copy)]
struct Pace {
    since: Instant,
    taken: u32,
}

impl Pace {
    fn taken(&self, now: Instant) -> u32 {
        if now.duration_since(self.since) < DAY { self.taken } else { 0 }
    }
}

/// Kinds of record that are taken so many times a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Paced {
    /// Heads.
    Head,
    /// Releases.
    Release,
    /// Un-releases.
    Unrelease,
}

#[derive(Default)]
struct OfVault {
    copysets: BTreeMap<CopysetId, Arc<Signed<Copyset>>>,
    heads: BTreeMap<HeadName, u64>,
    fences: HashMap<u16, Fence>,
    releases: HashMap<(u16, u64), u64>,
    unreleased: u64,
    unrelease_bytes: u64,
    /// All records of the vault, in bytes.
    bytes: u64,
}

#[derive(Default)]
struct OfOwner {
    /// Wide enough for a thousand plans of any size.
    budgets_bytes: u128,
    copysets: usize,
    vaults: BTreeMap<VaultId, usize>,
}

#[derive(Default)]
struct Known {
    vaults: HashMap<VaultId, OfVault>,
    owners: HashMap<NodeId, OfOwner>,
    /// The keys of writers' certificates, so that one is counted once.
    writers: HashSet<Vec<u8>>,
    paces: HashMap<(VaultId, Paced), Pace>,
    bytes: u64,
}

/// What is kept.
pub(super) struct Kept {
    records: Arc<Records>,
    known: Mutex<Known>,
}

/// What is known of an owner, for decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OwnerFacts {
    /// The sum of its plans' budgets here, but for the one asked about.
    pub(super) budgets_bytes: u64,
    /// How many plans it has here.
    pub(super) copysets: usize,
}

/// What is kept of an owner: whose shards it has, and how much its records take.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnerRecords {
    /// Its vaults.
    pub(super) vaults: Vec<VaultId>,
    /// All their records, in bytes.
    pub(super) bytes: u64,
    /// The un-releases among them, in bytes.
    pub(super) unrelease_bytes: u64,
}

impl Kept {
    pub(super) fn open(records: Arc<Records>) -> Result<Self, RecordsError> {
        let mut known = Known::default();
        each(&records, Table::Copyset, |_, value| {
            if let Ok(copyset) = Signed::<Copyset>::from_wire(value) {
                known.list_copyset(Arc::new(copyset));
            }
        })?;
        each(&records, Table::WriterCert, |_, value| {
            if let Ok(writer) = Signed::<WriterCert>::from_wire(value) {
                known.list_writer(&writer);
            }
        })?;
        each(&records, Table::Head, |_, value| {
            if let Ok(head) = Signed::<Head>::from_wire(value) {
                known.list_head(&head, value.len());
            }
        })?;
        each(&records, Table::Release, |key, value| {
            if key.get(32) == Some(&UNRELEASE) {
                if let Ok(unrelease) = Signed::<Unrelease>::from_wire(value) {
                    known.list_unrelease(&unrelease, value.len());
                }
            } else if let Ok(release) = Signed::<Release>::from_wire(value) {
                known.list_release(&release, value.len());
            }
        })?;
        Ok(Self { records, known: Mutex::new(known) })
    }

    /// The bytes of all records.
    pub(super) fn bytes(&self) -> u64 {
        self.known().bytes
    }

    pub(super) fn copyset(&self, vault: &VaultId, copyset: &CopysetId) -> Option<Arc<Signed<Copyset>>> {
        self.known().vaults.get(vault)?.copysets.get(copyset).cloned()
    }

    /// A vault's plans behind `after`, in the order of their ids.
    pub(super) fn copysets_after(&self, vault: &VaultId, after: Option<&CopysetId>) -> Vec<Arc<Signed<Copyset>>> {
        let known = self.known();
        let all = known.vaults.get(vault).into_iter().flat_map(|of| &of.copysets);
        all.filter(|(id, _)| after.is_none_or(|after| *id > after)).map(|(_, set)| Arc::clone(set)).collect()
    }

    pub(super) fn fence(&self, vault: &VaultId, seat: u16) -> Option<Fence> {
        self.known().vaults.get(vault)?.fences.get(&seat).copied()
    }

    /// What the owner `node` has here, the set `but` left out of the budgets.
    pub(super) fn owner(&self, node: &NodeId, but: (&VaultId, &CopysetId)) -> OwnerFacts {
        let known = self.known();
        let Some(owner) = known.owners.get(node) else { return OwnerFacts::default() };
        let set = known.vaults.get(but.0).and_then(|of| of.copysets.get(but.1));
        let own = set.filter(|set| set.writer.node == *node).map_or(0, |set| set.slot_bytes_max);
        let budgets_bytes = owner.budgets_bytes.saturating_sub(own.into());
        OwnerFacts { budgets_bytes: budgets_bytes.try_into().unwrap_or(u64::MAX), copysets: owner.copysets }
    }

    /// What is kept of an owner.
    pub(super) fn owner_records(&self, node: &NodeId) -> OwnerRecords {
        let known = self.known();
        let vaults: Vec<VaultId> = known.owners.get(node).into_iter().flat_map(|of| of.vaults.keys().copied()).collect();
        let sum = |field: fn(&OfVault) -> u64| vaults.iter().filter_map(|vault| known.vaults.get(vault)).map(field).sum();
        let (bytes, unrelease_bytes) = (sum(|of| of.bytes), sum(|of| of.unrelease_bytes));
        OwnerRecords { vaults, bytes, unrelease_bytes }
    }

    /// The node that writes to a vault; one of them where there are several.
    pub(super) fn owner_of(&self, vault: &VaultId) -> Option<NodeId> {
        self.known().vaults.get(vault)?.copysets.values().next().map(|set| set.writer.node)
    }

    pub(super) fn holds_vault(&self, vault: &VaultId) -> bool {
        self.known().vaults.get(vault).is_some_and(|of| !of.copysets.is_empty())
    }

    /// How many records of a kind were taken of a vault within a day.
    pub(super) fn taken_today(&self, vault: &VaultId, kind: Paced) -> u32 {
        self.known().paces.get(&(*vault, kind)).map_or(0, |pace| pace.taken(Instant::now()))
    }

    /// Keeps a plan and its writer; durable when it returns.
    pub(super) fn put_copyset(&self, copyset: Signed<Copyset>) -> Result<(), RecordsError> {
        let key = [copyset.writer.vault.0, copyset.copyset.0].concat();
        self.records.apply(&[writer_change(&copyset.writer), Change::Put(Table::Copyset, key, copyset.to_wire())])?;
        let mut known = self.known();
        known.list_writer(&copyset.writer);
        known.list_copyset(Arc::new(copyset));
        Ok(())
    }

    /// The newest head of a seat: its rank and its name.
    pub(super) fn newest_head(&self, vault: &VaultId, seat: u16) -> Option<(HeadRank, RecordHash)> {
        let known = self.known();
        let (name, _) = known.vaults.get(vault)?.heads.range(..=HeadName::last_of(seat)).next_back()?;
        (name.seat == seat).then_some((name.rank, name.hash))
    }

    /// All heads of a vault, the newest first by generation and sequence, each with its length.
    pub(super) fn heads(&self, vault: &VaultId) -> Vec<(HeadName, u64)> {
        let known = self.known();
        let of_vault = known.vaults.get(vault).into_iter().flat_map(|of| &of.heads);
        let mut heads: Vec<(HeadName, u64)> = of_vault.map(|(name, bytes)| (*name, *bytes)).collect();
        heads.sort_by_key(|(name, _)| (Reverse(name.rank), name.seat, name.hash));
        heads
    }

    pub(super) fn head(&self, vault: &VaultId, name: &HeadName) -> Result<Option<Signed<Head>>, RecordsError> {
        let bytes = self.records.get(Table::Head, &name.key(vault))?;
        Ok(bytes.and_then(|bytes| Signed::from_wire(&bytes).ok()))
    }

    /// Keeps a head and its writer; durable when it returns. Every head that was kept stays.
    pub(super) fn put_head(&self, head: &Signed<Head>) -> Result<(), RecordsError> {
        let key = HeadName::of(head).key(&head.writer.vault);
        let bytes = head.to_wire();
        let length = bytes.len();
        self.records.apply(&[writer_change(&head.writer), Change::Put(Table::Head, key, bytes)])?;
        let mut known = self.known();
        known.list_writer(&head.writer);
        known.list_head(head, length);
        known.count(head.writer.vault, Paced::Head);
        Ok(())
    }

    /// The highest sequence of the releases of a vault by the writers of one seat and generation.
    pub(super) fn newest_release(&self, writer: &WriterCert) -> u64 {
        let known = self.known();
        let of_vault = known.vaults.get(&writer.vault);
        of_vault.and_then(|of| of.releases.get(&(writer.seat, writer.generation)).copied()).unwrap_or(0)
    }

    /// The highest sequence of a vault's un-releases.
    pub(super) fn newest_unrelease(&self, vault: &VaultId) -> u64 {
        self.known().vaults.get(vault).map_or(0, |of| of.unreleased)
    }

    /// Keeps a release. Nothing is deleted: the time from which the retention floor counts is that of this record.
    pub(super) fn put_release(&self, release: &Signed<Release>) -> Result<(), RecordsError> {
        let writer = &release.writer;
        let (seat, generation) = (writer.seat.to_be_bytes(), writer.generation.to_be_bytes());
        let key = [&writer.vault.0[..], &[RELEASE], &seat, &generation, &release.sequence.to_be_bytes()].concat();
        let bytes = release.to_wire();
        let length = bytes.len();
        self.records.apply(&[writer_change(writer), Change::Put(Table::Release, key, bytes)])?;
        let mut known = self.known();
        known.list_writer(writer);
        known.list_release(release, length);
        known.count(writer.vault, Paced::Release);
        Ok(())
    }

    /// Keeps an un-release.
    pub(super) fn put_unrelease(&self, unrelease: &Signed<Unrelease>) -> Result<(), RecordsError> {
        let key = [&unrelease.vault.0[..], &[UNRELEASE], &unrelease.sequence.to_be_bytes()].concat();
        let bytes = unrelease.to_wire();
        let length = bytes.len();
        self.records.apply(&[Change::Put(Table::Release, key, bytes)])?;
        let mut known = self.known();
        known.list_unrelease(unrelease, length);
        known.count(unrelease.vault, Paced::Unrelease);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows every record of a table, few at a time.
fn each(records: &Records, table: Table, mut show: impl FnMut(&[u8], &[u8])) -> Result<(), RecordsError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let some = records.scan_after(table, &[], after.as_deref(), RECORDS_AT_ONCE)?;
        some.iter().for_each(|(key, value)| show(key, value));
        match some.into_iter().last() {
            Some((key, _)) => after = Some(key),
            None => return Ok(()),
        }
    }
}

fn cost(bytes: usize) -> u64 {
    bytes as u64 + RECORD_BYTES_EXTRA
}

impl Known {
    /// The vault, which now takes so much more.
    fn charge(&mut self, vault: VaultId, bytes: u64) -> &mut OfVault {
        self.bytes += bytes;
        let of = self.vaults.entry(vault).or_default();
        of.bytes += bytes;
        of
    }

    fn count(&mut self, vault: VaultId, kind: Paced) {
        let now = Instant::now();
        self.paces.retain(|_, pace| pace.taken(now) > 0);
        self.paces.entry((vault, kind)).or_insert(Pace { since: now, taken: 0 }).taken += 1;
    }

    fn list_writer(&mut self, writer: &Signed<WriterCert>) {
        if self.writers.insert(writer_key(writer)) {
            self.charge(writer.vault, cost(writer.to_wire().len()));
        }
        let fence = Fence::of(writer);
        let known = self.vaults.entry(writer.vault).or_default().fences.entry(writer.seat).or_insert(fence);
        if known.lets_pass(&fence) {
            *known = fence;
        }
    }

    fn list_copyset(&mut self, copyset: Arc<Signed<Copyset>>) {
        let vault = copyset.writer.vault;
        let owner = self.owners.entry(copyset.writer.node).or_default();
        owner.budgets_bytes += u128::from(copyset.slot_bytes_max);
        owner.copysets += 1;
        *owner.vaults.entry(vault).or_default() += 1;
        let of = self.charge(vault, cost(copyset.to_wire().len()));
        let Some(before) = of.copysets.insert(copyset.copyset, copyset) else { return };
        let bytes = cost(before.to_wire().len());
        of.bytes = of.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        let Some(owner) = self.owners.get_mut(&before.writer.node) else { return };
        owner.budgets_bytes = owner.budgets_bytes.saturating_sub(before.slot_bytes_max.into());
        owner.copysets -= 1;
        if let Some(sets) = owner.vaults.get_mut(&vault) {
            *sets -= 1;
            if *sets == 0 {
                owner.vaults.remove(&vault);
            }
        }
    }

    fn list_head(&mut self, head: &Signed<Head>, bytes: usize) {
        self.charge(head.writer.vault, cost(bytes)).heads.insert(HeadName::of(head), bytes as u64);
    }

    fn list_release(&mut self, release: &Signed<Release>, bytes: usize) {
        let writer = &release.writer;
        let releases = &mut self.charge(writer.vault, cost(bytes)).releases;
        let newest = releases.entry((writer.seat, writer.generation)).or_default();
        *newest = (*newest).max(release.sequence);
    }

    fn list_unrelease(&mut self, unrelease: &Signed<Unrelease>, bytes: usize) {
        let of = self.charge(unrelease.vault, cost(bytes));
        of.unreleased = of.unreleased.max(unrelease.sequence);
        of.unrelease_bytes += cost(bytes);
    }
}

fn writer_key(writer: &WriterCert) -> Vec<u8> {
    [&writer.vault.0[..], &writer.seat.to_be_bytes(), &writer.generation.to_be_bytes(), &writer.writer.0].concat()
}

/// All writers' certificates are kept: who repairs a stripe of an earlier generation has to check its signature.
fn writer_change(writer: &Signed<WriterCert>) -> Change {
    Change::Put(Table::WriterCert, writer_key(writer), writer.to_wire())
}
