//! The records beside the shards: plans of copysets, writers, heads, releases. In memory is what decisions need; on disk is all of it.

use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::vault::{Head, WriterCert};
use backmesh_format::{CopysetId, NodeId, RecordHash, Signed, VaultId, Wire};
use backmesh_mesh::holding::Fence;
use backmesh_store::{Change, Records, RecordsError, Table};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Heads read at once while the list of them is made.
const HEADS_AT_ONCE: usize = 16;

/// A head by what orders it: the newest of a seat is the last.
type HeadName = (u16, u64, RecordHash);

#[derive(Default)]
struct Known {
    copysets: HashMap<(VaultId, CopysetId), Arc<Signed<Copyset>>>,
    fences: HashMap<(VaultId, u16), Fence>,
    heads: HashMap<VaultId, BTreeMap<HeadName, u64>>,
    releases: HashMap<VaultId, u64>,
}

/// What is kept.
pub(super) struct Kept {
    records: Arc<Records>,
    known: Mutex<Known>,
}

/// What is known of an owner, for decisions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnerFacts {
    /// The sum of its plans' budgets here, but for the one asked about.
    pub(super) budgets_bytes: u64,
    /// How many plans it has here.
    pub(super) copysets: usize,
}

impl Kept {
    pub(super) fn open(records: Arc<Records>) -> Result<Self, RecordsError> {
        let mut known = Known::default();
        for (_, value) in records.scan(Table::Copyset, &[])? {
            if let Ok(copyset) = Signed::<Copyset>::from_wire(&value) {
                known.copysets.insert((copyset.writer.vault, copyset.copyset), Arc::new(copyset));
            }
        }
        for (_, value) in records.scan(Table::WriterCert, &[])? {
            if let Ok(writer) = Signed::<WriterCert>::from_wire(&value) {
                known.raise_fence(&writer);
            }
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let some = records.scan_after(Table::Head, &[], after.as_deref(), HEADS_AT_ONCE)?;
            for (_, value) in &some {
                if let Ok(head) = Signed::<Head>::from_wire(value) {
                    known.list_head(&head, value.len() as u64);
                }
            }
            match some.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        for (key, _) in records.scan(Table::Release, &[])? {
            if let (Some(vault), Some(sequence)) = (key.first_chunk::<32>(), key.last_chunk::<8>()) {
                let newest = known.releases.entry(VaultId(*vault)).or_default();
                *newest = (*newest).max(u64::from_be_bytes(*sequence));
            }
        }
        Ok(Self { records, known: Mutex::new(known) })
    }

    pub(super) fn copyset(&self, vault: &VaultId, copyset: &CopysetId) -> Option<Arc<Signed<Copyset>>> {
        self.known().copysets.get(&(*vault, *copyset)).cloned()
    }

    /// A vault's plans behind `after`, in the order of their ids.
    pub(super) fn copysets_after(&self, vault: &VaultId, after: Option<&CopysetId>) -> Vec<Arc<Signed<Copyset>>> {
        let known = self.known();
        let mut found: Vec<_> = known
            .copysets
            .values()
            .filter(|set| set.writer.vault == *vault && after.is_none_or(|after| set.copyset > *after))
            .cloned()
            .collect();
        found.sort_by_key(|set| set.copyset);
        found
    }

    pub(super) fn fence(&self, vault: &VaultId, seat: u16) -> Option<Fence> {
        self.known().fences.get(&(*vault, seat)).copied()
    }

    /// What the owner `node` has here, the set `but` left out.
    pub(super) fn owner(&self, node: &NodeId, but: &CopysetId) -> OwnerFacts {
        let known = self.known();
        let own = known.copysets.values().filter(|set| set.writer.node == *node);
        own.fold(OwnerFacts::default(), |facts, set| OwnerFacts {
            budgets_bytes: facts.budgets_bytes + if set.copyset == *but { 0 } else { set.slot_bytes_max },
            copysets: facts.copysets + 1,
        })
    }

    /// The vaults that the writers on a node write to.
    pub(super) fn vaults_of(&self, node: &NodeId) -> Vec<VaultId> {
        let known = self.known();
        let mut vaults: Vec<VaultId> =
            known.copysets.values().filter(|set| set.writer.node == *node).map(|set| set.writer.vault).collect();
        vaults.sort_unstable();
        vaults.dedup();
        vaults
    }

    pub(super) fn holds_vault(&self, vault: &VaultId) -> bool {
        self.known().copysets.keys().any(|(of, _)| of == vault)
    }

    /// Keeps a plan and its writer; durable when it returns.
    pub(super) fn put_copyset(&self, copyset: Signed<Copyset>) -> Result<(), RecordsError> {
        let name = (copyset.writer.vault, copyset.copyset);
        let key = [name.0.0, name.1.0].concat();
        self.records.apply(&[writer_change(&copyset.writer), Change::Put(Table::Copyset, key, copyset.to_wire())])?;
        let mut known = self.known();
        known.raise_fence(&copyset.writer);
        known.copysets.insert(name, Arc::new(copyset));
        Ok(())
    }

    /// The newest head of a seat: its sequence and its name.
    pub(super) fn newest_head(&self, vault: &VaultId, seat: u16) -> Option<(u64, RecordHash)> {
        let known = self.known();
        let (name, _) = known
            .heads
            .get(vault)?
            .range((seat, 0, RecordHash([0; 32]))..=(seat, u64::MAX, RecordHash([255; 32])))
            .next_back()?;
        Some((name.1, name.2))
    }

    /// All heads of a vault, the highest sequence first, each with its length.
    pub(super) fn heads(&self, vault: &VaultId) -> Vec<(HeadName, u64)> {
        let mut heads: Vec<(HeadName, u64)> =
            self.known().heads.get(vault).into_iter().flatten().map(|(name, bytes)| (*name, *bytes)).collect();
        heads.sort_by_key(|((seat, sequence, hash), _)| (std::cmp::Reverse(*sequence), *seat, *hash));
        heads
    }

    /// The bytes of all heads of a vault.
    pub(super) fn heads_bytes(&self, vault: &VaultId) -> u64 {
        self.known().heads.get(vault).map_or(0, |heads| heads.values().sum())
    }

    pub(super) fn head(&self, vault: &VaultId, name: &HeadName) -> Result<Option<Signed<Head>>, RecordsError> {
        let bytes = self.records.get(Table::Head, &head_key(vault, name))?;
        Ok(bytes.and_then(|bytes| Signed::from_wire(&bytes).ok()))
    }

    /// Keeps a head and its writer; durable when it returns. Every head that was kept stays.
    pub(super) fn put_head(&self, head: &Signed<Head>) -> Result<(), RecordsError> {
        let name = (head.writer.seat, head.sequence, head.hash());
        let bytes = head.to_wire();
        let length = bytes.len() as u64;
        self.records
            .apply(&[writer_change(&head.writer), Change::Put(Table::Head, head_key(&head.writer.vault, &name), bytes)])?;
        let mut known = self.known();
        known.raise_fence(&head.writer);
        known.list_head(head, length);
        Ok(())
    }

    /// The highest sequence of a release or un-release of a vault.
    pub(super) fn newest_release(&self, vault: &VaultId) -> u64 {
        self.known().releases.get(vault).copied().unwrap_or(0)
    }

    /// Keeps a release. Nothing is deleted: the time from which the retention floor counts is that of this record.
    pub(super) fn put_release(&self, release: &Signed<Release>) -> Result<(), RecordsError> {
        self.put_releasing(&release.writer.vault, release.sequence, b"r", release.to_wire())
    }

    /// Keeps an un-release.
    pub(super) fn put_unrelease(&self, unrelease: &Signed<Unrelease>) -> Result<(), RecordsError> {
        self.put_releasing(&unrelease.vault, unrelease.sequence, b"u", unrelease.to_wire())
    }

    fn put_releasing(&self, vault: &VaultId, sequence: u64, kind: &[u8], record: Vec<u8>) -> Result<(), RecordsError> {
        let key = [&vault.0[..], kind, &sequence.to_be_bytes()].concat();
        self.records.apply(&[Change::Put(Table::Release, key, record)])?;
        self.known().releases.insert(*vault, sequence);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn raise_fence(&mut self, writer: &WriterCert) {
        let fence = Fence::of(writer);
        let known = self.fences.entry((writer.vault, writer.seat)).or_insert(fence);
        if known.lets_pass(&fence) {
            *known = fence;
        }
    }

    fn list_head(&mut self, head: &Signed<Head>, bytes: u64) {
        let name = (head.writer.seat, head.sequence, head.hash());
        self.heads.entry(head.writer.vault).or_default().insert(name, bytes);
    }
}

/// All writers' certificates are kept: who repairs a stripe of an earlier generation has to check its signature.
fn writer_change(writer: &Signed<WriterCert>) -> Change {
    let key = [&writer.vault.0[..], &writer.seat.to_be_bytes(), &writer.generation.to_be_bytes(), &writer.writer.0].concat();
    Change::Put(Table::WriterCert, key, writer.to_wire())
}

fn head_key(vault: &VaultId, (seat, sequence, hash): &HeadName) -> Vec<u8> {
    [&vault.0[..], &seat.to_be_bytes(), &sequence.to_be_bytes(), &hash.0].concat()
}
