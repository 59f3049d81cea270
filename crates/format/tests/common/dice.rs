//! Any value of every record, from a seed. Numbers are often small, largest or zero, lists often empty.

use super::samples::{key, signed_writer};
use backmesh_format::catalogue::{
    CatalogueRoot, ChunkList, Content, ContentPage, Entry, FileTime, InnerPage, Kind, LeafPage, WindowsMeta,
};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::copyset::{Copyset, Lease, Release, SlotClaim, Unrelease};
use backmesh_format::index::{ChunkRef, FramePlace, PackPage, PackPlace, PageRef, Place, Row, RowPage, SegmentRef, SegmentRoot};
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::membership::{Admission, Certificate, Invitation, MemberState, Revocation, Role, Seed};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{KeySlot, Purpose, Stripe};
use backmesh_format::token::Token;
use backmesh_format::vault::{
    DedupDomain, Head, HeadBody, ReaderCert, SealedSnapshots, Snapshot, SnapshotPage, System, VaultPointer, WriterCert,
};
use backmesh_format::{
    Bytes, ChunkId, CopysetId, MachineId, NodeId, PackId, PublicKey, RecordHash, SealingKey, Signed, TreeRoot, VaultId,
    WorkgroupId, limits,
};
use std::collections::BTreeMap;

/// Dice with a seed: SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    pub fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(300),
            _ => self.word(),
        }
    }

    pub fn up_to(&mut self, most: u64) -> u64 {
        self.number().min(most)
    }

    pub fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    pub fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = if self.yes() { self.below(most.min(40) + 1) } else { 0 };
        (0..length).map(|_| self.word() as u8).collect()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.word() as u8)
    }

    pub fn text(&mut self) -> String {
        let letters = ['a', 'ß', '水', '🗄', '/', '\n', '\u{0}'];
        (0..self.below(6)).map(|_| letters[self.below(letters.len() as u64) as usize]).collect()
    }

    pub fn list<T>(&mut self, most: u64, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| item(self)).collect()
    }

    pub fn maybe<T>(&mut self, item: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.yes() { Some(item(self)) } else { None }
    }

    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub fn level(&mut self) -> Level {
        self.one_of(&Level::ALL)
    }

    pub fn purpose(&mut self) -> Purpose {
        self.one_of(&[Purpose::Data, Purpose::Catalogue])
    }

    pub fn charter(&mut self) -> Charter {
        Charter {
            name: self.text(),
            number: self.number(),
            workgroup: self.maybe(|dice| WorkgroupId(dice.array())),
            previous: self.maybe(|dice| RecordHash(dice.array())),
            admins: self.list(4, |dice| PublicKey(dice.array())),
            level: self.level(),
            site_safe: self.yes(),
            retention_floor_secs: self.number(),
            lease_term_secs: self.number(),
            quota_bytes: self.number(),
            written_at: self.number(),
            nonce: self.array(),
        }
    }

    pub fn invitation(&mut self) -> Invitation {
        Invitation {
            workgroup: WorkgroupId(self.array()),
            key: PublicKey(self.array()),
            uses: self.number() as u32,
            expires_at: self.number(),
            role: self.one_of(&[Role::Member, Role::Seed]),
            site: self.text(),
            seeds: self.list(3, |dice| Seed { address: dice.text(), node: dice.maybe(|dice| NodeId(dice.array())) }),
            written_at: self.number(),
        }
    }

    pub fn certificate(&mut self) -> Certificate {
        Certificate {
            workgroup: WorkgroupId(self.array()),
            node: NodeId(self.array()),
            machine: MachineId(self.array()),
            name: self.text(),
            site: self.text(),
            role: self.one_of(&[Role::Member, Role::Seed]),
            invitation: self.maybe(|dice| Signed::new(dice.invitation(), &[&key(1)])),
            written_at: self.number(),
        }
    }

    pub fn admission(&mut self) -> Admission {
        Admission {
            workgroup: WorkgroupId(self.array()),
            certificate: RecordHash(self.array()),
            node: NodeId(self.array()),
            admitted_by: NodeId(self.array()),
            admitted_at: self.number(),
        }
    }

    pub fn revocation(&mut self) -> Revocation {
        Revocation {
            workgroup: WorkgroupId(self.array()),
            node: NodeId(self.array()),
            reason: self.text(),
            written_at: self.number(),
        }
    }

    pub fn member_state(&mut self) -> MemberState {
        MemberState {
            workgroup: WorkgroupId(self.array()),
            node: NodeId(self.array()),
            sequence: self.number(),
            addresses: self.list(4, Self::text),
            offered_bytes: self.number(),
            free_bytes: self.number(),
            uptime_permille: self.number() as u16,
            program: self.text(),
            written_at: self.number(),
        }
    }

    pub fn token(&mut self) -> Token {
        Token {
            charter: Signed::new(self.charter(), &[&key(1)]),
            invitation: Signed::new(self.invitation(), &[&key(1)]),
            secret: self.array(),
        }
    }

    pub fn writer_cert(&mut self) -> WriterCert {
        WriterCert {
            vault: VaultId(self.array()),
            seat: self.number() as u16,
            generation: self.number(),
            writer: PublicKey(self.array()),
            sealing: SealingKey(self.array()),
            node: NodeId(self.array()),
            machine: MachineId(self.array()),
            written_at: self.number(),
        }
    }

    pub fn reader_cert(&mut self) -> ReaderCert {
        ReaderCert { vault: VaultId(self.array()), reader: PublicKey(self.array()), written_at: self.number() }
    }

    pub fn vault_pointer(&mut self) -> VaultPointer {
        VaultPointer {
            workgroup: WorkgroupId(self.array()),
            writer: signed_writer(),
            sequence: self.number(),
            holders: self.list(5, |dice| NodeId(dice.array())),
        }
    }

    pub fn head(&mut self) -> Head {
        Head {
            writer: signed_writer(),
            sequence: self.number(),
            previous: self.maybe(|dice| RecordHash(dice.array())),
            written_at: self.number(),
            keys: self.list(3, Self::key_slot),
            sealed: Bytes(self.bytes(40)),
        }
    }

    pub fn head_body(&mut self) -> HeadBody {
        HeadBody {
            sealed: self.list(3, Self::sealed_snapshots),
            snapshots: self.list(3, Self::snapshot),
            older: self.list(3, Self::chunk),
            segments: self.list(3, |dice| SegmentRef {
                purpose: dice.purpose(),
                domain: dice.number() as u32,
                rows: dice.number(),
                root: ChunkId(dice.array()),
                place: Place { pack: dice.pack_place(), at: dice.frame_place() },
            }),
            domains: self.list(2, |dice| DedupDomain { number: dice.number() as u32, key: ChunkIdKey::new(dice.array()) }),
        }
    }

    pub fn snapshot_page(&mut self) -> SnapshotPage {
        SnapshotPage { sealed: self.list(3, Self::sealed_snapshots), snapshots: self.list(4, Self::snapshot) }
    }

    pub fn sealed_snapshots(&mut self) -> SealedSnapshots {
        SealedSnapshots { count: self.number() as u32, keys: self.list(2, Self::key_slot), sealed: Bytes(self.bytes(40)) }
    }

    pub fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            started_at: self.number(),
            finished_at: self.number(),
            seat: self.number() as u16,
            host: self.text(),
            system: self.one_of(&[System::Unix, System::Windows]),
            roots: self.list(3, |dice| Bytes(dice.bytes(40))),
            catalogue: self.maybe(|dice| CatalogueRoot { page: dice.chunk(), height: dice.number() as u8 }),
            files: self.number(),
            entries: self.number(),
            bytes: self.number(),
            bytes_added: self.number(),
            problems: self.number(),
            tags: self.list(3, Self::text),
        }
    }

    pub fn key_slot(&mut self) -> KeySlot {
        KeySlot { recipient: SealingKey(self.array()), encapsulated: self.array(), sealed: self.array() }
    }

    pub fn stripe(&mut self) -> Stripe {
        Stripe {
            vault: VaultId(self.array()),
            pack: PackId(self.array()),
            copyset: CopysetId(self.array()),
            purpose: self.purpose(),
            class: self.one_of(&SizeClass::ALL),
            k: self.number() as u8,
            founding_n: self.number() as u8,
            shard_bytes: self.number() as u32,
            pack_root: TreeRoot(self.array()),
            shard_roots: self.list(9, |dice| TreeRoot(dice.array())),
            keys: self.list(3, Self::key_slot),
            generation: self.number(),
            seat: self.number() as u16,
        }
    }

    pub fn copyset(&mut self) -> Copyset {
        Copyset {
            writer: signed_writer(),
            copyset: CopysetId(self.array()),
            sequence: self.number(),
            purpose: self.purpose(),
            level: self.level(),
            k: self.number() as u8,
            slots: self.list(9, |dice| NodeId(dice.array())),
            slot_bytes_max: self.number(),
            closed: self.yes(),
        }
    }

    pub fn slot_claim(&mut self) -> SlotClaim {
        SlotClaim {
            vault: VaultId(self.array()),
            copyset: CopysetId(self.array()),
            slot: self.number() as u8,
            node: NodeId(self.array()),
            sequence: self.number(),
            stripes: self.number(),
            bytes: self.number(),
            digest: self.array(),
        }
    }

    pub fn lease(&mut self) -> Lease {
        Lease {
            vault: VaultId(self.array()),
            copyset: CopysetId(self.array()),
            node: NodeId(self.array()),
            sequence: self.number(),
            term_secs: self.number(),
            written_at: self.number(),
        }
    }

    pub fn release(&mut self) -> Release {
        Release {
            writer: signed_writer(),
            sequence: self.number(),
            first_shard: self.number() as u8,
            packs: self.list(5, |dice| PackId(dice.array())),
        }
    }

    pub fn unrelease(&mut self) -> Unrelease {
        Unrelease {
            vault: VaultId(self.array()),
            sequence: self.number(),
            generations_void: self.number(),
            packs: self.list(5, |dice| PackId(dice.array())),
        }
    }

    pub fn chunk(&mut self) -> ChunkRef {
        ChunkRef { id: ChunkId(self.array()), bytes: self.up_to(u64::from(limits::CHUNK_BYTES_MAX)) as u32 }
    }

    pub fn pack_place(&mut self) -> PackPlace {
        PackPlace { pack: PackId(self.array()), copyset: CopysetId(self.array()), class: self.one_of(&SizeClass::ALL) }
    }

    pub fn frame_place(&mut self) -> FramePlace {
        FramePlace {
            frame: self.number() as u32,
            frame_offset: self.up_to(limits::PACK_BYTES_MAX / 2) as u32,
            frame_sealed_bytes: self.up_to(limits::PACK_BYTES_MAX / 2) as u32,
            offset: self.up_to(u64::from(limits::FRAME_BYTES_MAX / 2)) as u32,
            bytes: self.up_to(u64::from(limits::CHUNK_BYTES_MAX)) as u32,
        }
    }

    fn time(&mut self) -> FileTime {
        FileTime { seconds: self.number() as i64, nanoseconds: self.up_to(999_999_999) as u32 }
    }

    fn kind(&mut self) -> Kind {
        match self.below(8) {
            0 => Kind::Directory,
            1 => Kind::Symlink { target: self.bytes(40) },
            2 => Kind::Fifo,
            3 => Kind::Socket,
            4 => Kind::CharDevice { device: self.number() },
            5 => Kind::BlockDevice { device: self.number() },
            6 => {
                let content = Content::Pages { depth: 1 + self.below(8) as u8, pages: self.list(3, Self::chunk) };
                Kind::File { bytes: self.number(), content }
            }
            _ => Kind::File { bytes: self.number(), content: Content::Chunks(self.list(4, Self::chunk)) },
        }
    }

    pub fn entry(&mut self) -> Entry {
        Entry {
            kind: self.kind(),
            mode: self.below(0o10000) as u16,
            uid: self.number() as u32,
            gid: self.number() as u32,
            user: self.text(),
            group: self.text(),
            modified: self.time(),
            link_group: self.maybe(Self::number),
            xattrs: self.list(2, |dice| (dice.bytes(40), dice.bytes(40))),
            holes: self.list(2, |dice| (dice.number(), dice.number())),
            flags: self.number() as u32,
            torn: self.yes(),
            windows: self.maybe(|dice| WindowsMeta {
                attributes: dice.number() as u32,
                security_descriptor: dice.bytes(40),
                created: dice.time(),
                short_name: dice.bytes(12),
            }),
        }
    }

    /// Names that share beginnings, so that prefixes are cut.
    fn name(&mut self) -> Vec<u8> {
        (0..=self.below(4)).map(|_| self.one_of(b"ab\xff\x01.-")).collect()
    }

    fn key(&mut self) -> Vec<u8> {
        let folder = self.list(3, Self::name).join(&b'/');
        backmesh_format::catalogue::key_of(&folder, &self.name())
    }

    pub fn leaf_page(&mut self) -> LeafPage {
        let mut entries: BTreeMap<_, _> = self.list(9, |dice| (dice.key(), dice.entry())).into_iter().collect();
        if self.yes() {
            self.contents_elsewhere(entries.values_mut());
        }
        LeafPage(entries.into_iter().collect())
    }

    /// As the second version of a page has them.
    fn contents_elsewhere<'a>(&mut self, entries: impl Iterator<Item = &'a mut Entry>) {
        let (mut page, mut at) = (self.chunk(), 0);
        for entry in entries {
            let Kind::File { content, .. } = &mut entry.kind else { continue };
            *content = Content::InPage { page, at };
            at += 1;
            if self.yes() {
                (page, at) = (self.chunk(), 0);
            }
        }
    }

    pub fn content_page(&mut self) -> ContentPage {
        let mut contents = vec![Content::Chunks(self.list(4, Self::chunk))];
        contents.extend(self.list(5, |dice| Content::Pages { depth: 1 + dice.below(8) as u8, pages: dice.list(3, Self::chunk) }));
        ContentPage(contents)
    }

    pub fn inner_page(&mut self) -> InnerPage {
        let pages: BTreeMap<_, _> = self.list(9, |dice| (dice.key(), dice.chunk())).into_iter().collect();
        InnerPage(pages.into_iter().collect())
    }

    pub fn chunk_list(&mut self) -> ChunkList {
        ChunkList(self.list(9, Self::chunk))
    }

    pub fn row_page(&mut self) -> RowPage {
        let rows: BTreeMap<[u8; 16], _> = self.list(9, |dice| (dice.array(), dice.row())).into_iter().collect();
        RowPage(rows.into_iter().map(|(id, row)| Row { id, ..row }).collect())
    }

    fn row(&mut self) -> Row {
        Row { id: [0; 16], pack: self.number() as u32, at: self.frame_place() }
    }

    pub fn pack_page(&mut self) -> PackPage {
        PackPage(self.list(9, Self::pack_place))
    }

    fn pages<K: Ord>(&mut self, first: impl Fn(&mut Self) -> K) -> Vec<PageRef<K>> {
        let firsts: BTreeMap<K, ()> = self.list(5, |dice| (first(dice), ())).into_iter().collect();
        let mut page = |first| PageRef { first, pack: self.number() as u32, at: self.frame_place(), id: ChunkId(self.array()) };
        firsts.into_keys().map(&mut page).collect()
    }

    pub fn segment_root(&mut self) -> SegmentRoot {
        SegmentRoot {
            own_packs: self.list(3, Self::pack_place),
            rows: self.pages(|dice| dice.array::<16>()),
            packs: self.pages(|dice| dice.number() as u32),
        }
    }
}
