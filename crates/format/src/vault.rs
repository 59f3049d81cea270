//! A vault's own records: who writes to it, where it lies, its heads and the snapshots in them.

use crate::catalogue::CatalogueRoot;
use crate::id::{MachineId, NodeId, PublicKey, RecordHash, SealingKey, SnapshotId, VaultId, WorkgroupId};
use crate::index::{ChunkRef, SegmentRef};
use crate::keys::ChunkIdKey;
use crate::record::{Record, Signed, to_envelope};
use crate::stripe::KeySlot;
use crate::wire::{Bytes, DecodeError, Reader, Wire, Writer};
use crate::{UnixMillis, record, wire_enum, wire_struct};

record! {
    /// That a key may write to the vault, signed by the vault's root key. A vault has one line of writers per machine of its
    /// person (a *seat*); in each seat only the highest generation counts, of two with the same generation the smaller key.
    b"BMwr" "writer certificate"
    pub struct WriterCert {
        /// The vault.
        pub vault: VaultId,
        /// Which of the person's machines: 0 for the first.
        pub seat: u16,
        /// 1 for the first writer of a seat; a machine that takes over is the highest seen + 1.
        pub generation: u64,
        /// The key that signs heads, stripes, copysets and releases.
        pub writer: PublicKey,
        /// Packs of this generation are sealed to this key; see [`crate::keys::VaultSecret::unsealing_secret`].
        pub sealing: SealingKey,
        /// The node that writes.
        pub node: NodeId,
        /// Its machine, so that a copied state is noticed.
        pub machine: MachineId,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// That a key may read the vault's shards and heads, signed by the vault's root key.
    b"BMrd" "reader certificate"
    pub struct ReaderCert {
        /// The vault.
        pub vault: VaultId,
        /// The key that may read.
        pub reader: PublicKey,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// Where a vault lies, for the directory: signed by its writer; the higher generation, then the higher sequence counts.
    b"BMvp" "vault pointer"
    pub struct VaultPointer {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// Who signed this, and that it may.
        pub writer: Signed<WriterCert>,
        /// Rises with each announcement of the generation.
        pub sequence: u64,
        /// Some of the vault's holders, at most [`crate::limits::SHARDS_MAX`].
        pub holders: Vec<NodeId>,
    }
}

record! {
    /// The newest state of one seat of a vault, signed by its writer. Holders keep all accepted heads for the retention floor.
    b"BMhd" "head"
    pub struct Head {
        /// Who signed this, and that it may.
        pub writer: Signed<WriterCert>,
        /// Rises by one with each head of the seat, also across generations.
        pub sequence: u64,
        /// The head before, absent in the first.
        pub previous: Option<RecordHash>,
        /// When it was written, by the writer's clock.
        pub written_at: UnixMillis,
        /// The body's key, for each who may open it.
        pub keys: Vec<KeySlot>,
        /// A [`HeadBody`] in its envelope, compressed, padded to a power of two of at least 4 KiB, sealed as one frame of a pack is,
        /// under a fresh key; the associated data names the vault, the seat and the sequence.
        pub sealed: Bytes,
    }
}

/// What only the vault's own keys can read of a head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeadBody {
    /// Snapshots that were sealed each for themselves, because the machine could not open the head before: older than `snapshots`,
    /// oldest first.
    pub sealed: Vec<SealedSnapshots>,
    /// The newest snapshots of the seat, oldest first; with those that are sealed at most [`SNAPSHOTS_INLINE_MAX`].
    pub snapshots: Vec<Snapshot>,
    /// Older ones: chunks that each hold a [`SnapshotPage`], in the same order.
    pub older: Vec<ChunkRef>,
    /// Where the chunks lie.
    pub segments: Vec<SegmentRef>,
    /// The dedup domains whose chunks the segments name, beside the vault's own, which is number 0 and not listed.
    pub domains: Vec<DedupDomain>,
}

impl HeadBody {
    /// How many snapshots it names itself.
    pub fn inline_count(&self) -> usize {
        self.snapshots.len() + self.sealed.iter().map(|some| some.count as usize).sum::<usize>()
    }
}

impl Wire for HeadBody {
    fn put(&self, w: &mut Writer) {
        self.snapshots.put(w);
        self.older.put(w);
        self.segments.put(w);
        self.domains.put(w);
        put_sealed(&self.sealed, w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (snapshots, older, segments, domains) = (Wire::take(r)?, Wire::take(r)?, Wire::take(r)?, Wire::take(r)?);
        Ok(Self { snapshots, older, segments, domains, sealed: take_sealed(r)? })
    }
}

impl Record for HeadBody {
    const MAGIC: [u8; 4] = *b"BMhb";
    const VERSION: u16 = 2;
    const NAME: &'static str = "head body";

    fn version(&self) -> u16 {
        version_with(&self.sealed)
    }
    fn take_version(version: u16, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::take(r).and_then(|body| fits(version, &body.sealed).map(|()| body))
    }
}

/// Snapshots that a head no longer names itself, oldest first: the content of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotPage {
    /// The older ones, where they were sealed each for themselves.
    pub sealed: Vec<SealedSnapshots>,
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
}

impl Wire for SnapshotPage {
    fn put(&self, w: &mut Writer) {
        self.snapshots.put(w);
        put_sealed(&self.sealed, w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { snapshots: Wire::take(r)?, sealed: take_sealed(r)? })
    }
}

impl Record for SnapshotPage {
    const MAGIC: [u8; 4] = *b"BMsp";
    const VERSION: u16 = 2;
    const NAME: &'static str = "page of snapshots";

    fn version(&self) -> u16 {
        version_with(&self.sealed)
    }
    fn take_version(version: u16, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::take(r).and_then(|page| fits(version, &page.sealed).map(|()| page))
    }
}

wire_struct! {
    /// Some snapshots under a key of their own, which is sealed to the vault.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SealedSnapshots {
        /// How many.
        pub count: u32,
        /// The key, for each who may open it.
        pub keys: Vec<KeySlot>,
        /// A [`SnapshotPage`] of version 1 in its envelope, after its length (varint), padded with zeros, sealed as one frame of a pack
        /// is; the associated data names the vault.
        pub sealed: Bytes,
    }
}

impl SealedSnapshots {
    /// What names them to the cipher.
    pub fn associated_data(vault: &VaultId) -> Vec<u8> {
        [&b"backmesh snapshots 1\0"[..], &vault.0].concat()
    }
}

/// Version 2 has sealed snapshots at its end, version 1 none: what has none keeps the bytes that it always had.
fn version_with(sealed: &[SealedSnapshots]) -> u16 {
    if sealed.is_empty() { 1 } else { 2 }
}

fn put_sealed(sealed: &Vec<SealedSnapshots>, w: &mut Writer) {
    if !sealed.is_empty() {
        sealed.put(w);
    }
}

fn take_sealed(r: &mut Reader<'_>) -> Result<Vec<SealedSnapshots>, DecodeError> {
    if r.remaining() == 0 { Ok(Vec::new()) } else { Wire::take(r) }
}

fn fits(version: u16, sealed: &[SealedSnapshots]) -> Result<(), DecodeError> {
    if version == version_with(sealed) { Ok(()) } else { Err(DecodeError::Invalid("a list of sealed snapshots")) }
}

wire_struct! {
    /// Those who name equal chunks equally: a vault alone, or several that trust each other with what they have in common.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DedupDomain {
        /// What [`SegmentRef::domain`] calls it, at least 1.
        pub number: u32,
        /// The key of its chunk ids.
        pub key: ChunkIdKey,
    }
}

/// How many snapshots a head names itself.
pub const SNAPSHOTS_INLINE_MAX: usize = 128;

wire_enum! {
    /// Whose rules the names and permissions of a snapshot follow.
    pub enum System {
        /// Names are bytes, permissions are modes.
        Unix = 1,
        /// Names are WTF-8, permissions are security descriptors.
        Windows = 2,
    }
}

record! {
    /// One state of the vault's files. Complete in itself: any other snapshot may be forgotten.
    b"BMsn" "snapshot"
    pub struct Snapshot {
        /// When the walk began, by the writer's clock.
        pub started_at: UnixMillis,
        /// When the last byte was durable.
        pub finished_at: UnixMillis,
        /// Which of the person's machines.
        pub seat: u16,
        /// The machine's name, for people.
        pub host: String,
        /// Whose rules the files follow.
        pub system: System,
        /// The folders that were protected, as absolute paths.
        pub roots: Vec<Bytes>,
        /// The catalogue; absent where nothing was found.
        pub catalogue: Option<CatalogueRoot>,
        /// Regular files.
        pub files: u64,
        /// All entries, folders and links included.
        pub entries: u64,
        /// The sum of the files' sizes, in bytes.
        pub bytes: u64,
        /// Sealed bytes that were new, with padding, catalogue and index, before redundancy.
        pub bytes_added: u64,
        /// Entries that could not be read, and are not in the snapshot or are marked.
        pub problems: u64,
        /// Labels.
        pub tags: Vec<String>,
    }
}

impl Snapshot {
    /// A state with no files in it, begun and finished at a time.
    pub fn empty(at: UnixMillis) -> Self {
        Self {
            started_at: at,
            finished_at: at,
            seat: 0,
            host: String::new(),
            system: System::Unix,
            roots: Vec::new(),
            catalogue: None,
            files: 0,
            entries: 0,
            bytes: 0,
            bytes_added: 0,
            problems: 0,
            tags: Vec::new(),
        }
    }

    /// The name of the snapshot.
    pub fn id(&self) -> SnapshotId {
        SnapshotId(blake3::derive_key("backmesh 1 snapshot id", &to_envelope(self)))
    }
}

impl Head {
    /// What names this head's body to the cipher: vault, seat and sequence.
    pub fn associated_data(writer: &WriterCert, sequence: u64) -> Vec<u8> {
        [&b"backmesh head 1\0"[..], &writer.vault.0, &writer.seat.to_le_bytes(), &sequence.to_le_bytes()].concat()
    }
}

/// Checks that the vault's root key signed its writer.
///
/// # Errors
/// `Signature` where it did not.
pub fn check_writer(writer: &Signed<WriterCert>) -> Result<&WriterCert, DecodeError> {
    writer.require(&PublicKey(writer.vault.0))
}

/// Checks that the writer that a record carries was certified by its vault's root key and signed the record.
///
/// # Errors
/// `Signature` where either did not.
pub fn check_signed_by_writer<T: Record>(record: &Signed<T>, writer: &Signed<WriterCert>) -> Result<(), DecodeError> {
    record.require(&check_writer(writer)?.writer).map(|_| ())
}
