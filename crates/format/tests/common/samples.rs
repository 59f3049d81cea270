//! One value of every record. The fixtures were written from these: change nothing, add what a new version adds.

use backmesh_format::catalogue::{
    CatalogueRoot, ChunkList, Content, ContentPage, Entry, FileTime, InnerPage, Kind, LeafPage, WindowsMeta, key_of,
};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::copyset::{Copyset, Lease, Release, SlotClaim, Unrelease};
use backmesh_format::index::{ChunkRef, FramePlace, PackPage, PackPlace, PageRef, Place, Row, RowPage, SegmentRef, SegmentRoot};
use backmesh_format::keys::{ChunkIdKey, KeyPair, VaultSecret};
use backmesh_format::membership::{Admission, Certificate, Invitation, MemberState, Revocation, Role, Seed};
use backmesh_format::pack::SizeClass;
use backmesh_format::record::to_envelope;
use backmesh_format::stripe::{KeySlot, Purpose, Stripe, shard_bytes};
use backmesh_format::token::Token;
use backmesh_format::vault::{
    DedupDomain, Head, HeadBody, ReaderCert, SealedSnapshots, Snapshot, SnapshotPage, System, VaultPointer, WriterCert,
};
use backmesh_format::{
    Bytes, ChunkId, CopysetId, MachineId, NodeId, PackId, Record, SealingKey, Signed, TreeRoot, VaultId, Wire, WorkgroupId,
};

pub const WRITTEN_AT: u64 = 1_700_000_000_123;

pub fn key(number: u8) -> KeyPair {
    KeyPair::from_secret(&[number; 32])
}

pub fn admin() -> KeyPair {
    key(1)
}

pub fn invitation_key() -> KeyPair {
    key(2)
}

pub fn node_key() -> KeyPair {
    key(3)
}

pub fn writer_key() -> KeyPair {
    key(4)
}

pub fn vault_secret() -> VaultSecret {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(0..).for_each(|(byte, number)| *byte = number);
    VaultSecret::new(bytes)
}

pub fn vault() -> VaultId {
    vault_secret().vault()
}

pub fn node() -> NodeId {
    NodeId(node_key().public().0)
}

pub fn charter() -> Charter {
    Charter {
        name: "the village".into(),
        number: 1,
        workgroup: None,
        previous: None,
        admins: vec![admin().public(), key(9).public()],
        level: Level::Standard,
        site_safe: true,
        retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
        lease_term_secs: Charter::LEASE_TERM_SECS,
        quota_bytes: 200 << 30,
        written_at: WRITTEN_AT,
        nonce: [7; 16],
    }
}

pub fn workgroup() -> WorkgroupId {
    charter().workgroup_id()
}

pub fn second_charter() -> Charter {
    let first = Signed::new(charter(), &[&admin()]);
    Charter { number: 2, workgroup: Some(workgroup()), previous: Some(first.hash()), level: Level::Paranoid, ..charter() }
}

pub fn invitation() -> Invitation {
    Invitation {
        workgroup: workgroup(),
        key: invitation_key().public(),
        uses: 3,
        expires_at: WRITTEN_AT + 7 * 86_400_000,
        role: Role::Member,
        site: "Köln".into(),
        seeds: vec![
            Seed { address: "/ip4/192.0.2.7/tcp/47770".into(), node: Some(NodeId([8; 32])) },
            Seed { address: "/dns4/seed.example/tcp/47770".into(), node: None },
        ],
        written_at: WRITTEN_AT,
    }
}

pub fn certificate() -> Certificate {
    Certificate {
        workgroup: workgroup(),
        node: node(),
        machine: MachineId([11; 32]),
        name: "kitchen".into(),
        site: "Köln".into(),
        role: Role::Member,
        invitation: Some(Signed::new(invitation(), &[&admin()])),
        written_at: WRITTEN_AT,
    }
}

pub fn writer_cert() -> WriterCert {
    WriterCert {
        vault: vault(),
        seat: 1,
        generation: 2,
        writer: writer_key().public(),
        sealing: SealingKey([12; 32]),
        node: node(),
        machine: MachineId([11; 32]),
        written_at: WRITTEN_AT,
    }
}

pub fn signed_writer() -> Signed<WriterCert> {
    Signed::new(writer_cert(), &[&vault_secret().root()])
}

pub fn key_slot(number: u8) -> KeySlot {
    KeySlot { recipient: SealingKey([number; 32]), encapsulated: [number + 1; 32], sealed: [number + 2; 48] }
}

pub fn chunk(number: u8) -> ChunkRef {
    ChunkRef { id: ChunkId([number; 32]), bytes: 1000 * u32::from(number) }
}

pub fn pack_place(number: u8) -> PackPlace {
    PackPlace { pack: PackId([number; 32]), copyset: CopysetId([number + 1; 32]), class: SizeClass::M4 }
}

pub fn frame_place() -> FramePlace {
    FramePlace { frame: 3, frame_offset: 70_000, frame_sealed_bytes: 300_000, offset: 128, bytes: 20_000 }
}

pub fn snapshot() -> Snapshot {
    Snapshot {
        started_at: WRITTEN_AT,
        finished_at: WRITTEN_AT + 90_000,
        seat: 1,
        host: "kitchen".into(),
        system: System::Unix,
        roots: vec![Bytes(b"/home/ada".to_vec()), Bytes(b"/srv/\xff".to_vec())],
        catalogue: Some(CatalogueRoot { page: chunk(33), height: 2 }),
        files: 78_600,
        entries: 83_000,
        bytes: 1_300_000_000,
        bytes_added: 210 << 20,
        problems: 1,
        tags: vec!["before the move".into()],
    }
}

pub fn head_body() -> HeadBody {
    HeadBody {
        sealed: Vec::new(),
        snapshots: vec![snapshot()],
        older: vec![chunk(41)],
        segments: vec![SegmentRef {
            purpose: Purpose::Catalogue,
            domain: 1,
            rows: 12_345,
            root: ChunkId([42; 32]),
            place: Place { pack: pack_place(43), at: frame_place() },
        }],
        domains: vec![DedupDomain { number: 1, key: ChunkIdKey::new([44; 32]) }],
    }
}

pub fn stripe() -> Stripe {
    Stripe {
        vault: vault(),
        pack: PackId([51; 32]),
        copyset: CopysetId([52; 32]),
        purpose: Purpose::Data,
        class: SizeClass::M16,
        k: 3,
        founding_n: 5,
        shard_bytes: shard_bytes(SizeClass::M16, 3),
        pack_root: TreeRoot([53; 32]),
        shard_roots: (60..66).map(|number| TreeRoot([number; 32])).collect(),
        keys: vec![key_slot(54), key_slot(57)],
        generation: 2,
        seat: 1,
    }
}

pub fn entry(kind: Kind) -> Entry {
    Entry {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        user: String::new(),
        group: String::new(),
        modified: FileTime { seconds: 1_700_000_000, nanoseconds: 123_456_789 },
        link_group: None,
        xattrs: Vec::new(),
        holes: Vec::new(),
        flags: 0,
        torn: false,
        windows: None,
    }
}

pub fn leaf_page() -> LeafPage {
    let full = Entry {
        user: "ada".into(),
        group: "users".into(),
        modified: FileTime { seconds: -5, nanoseconds: 999_999_999 },
        link_group: Some(17),
        xattrs: vec![(b"user.colour".to_vec(), b"blue".to_vec())],
        holes: vec![(4096, 8192), (65_536, 4096)],
        flags: 0x80,
        torn: true,
        windows: Some(WindowsMeta {
            attributes: 0x20,
            security_descriptor: vec![1, 0, 4, 128],
            created: FileTime { seconds: 1_600_000_000, nanoseconds: 100 },
            short_name: b"PROGRA~1".to_vec(),
        }),
        ..entry(Kind::File { bytes: 3000, content: Content::Chunks(vec![chunk(1), chunk(2)]) })
    };
    let long = Kind::File { bytes: 10 << 30, content: Content::Pages { depth: 2, pages: vec![chunk(3)] } };
    let link = Kind::Symlink { target: b"../\xfe".to_vec() };
    LeafPage(vec![
        (key_of(b"home", b"ada"), entry(Kind::Directory)),
        (key_of(b"home/ada", b"empty"), entry(Kind::File { bytes: 0, content: Content::Chunks(vec![]) })),
        (key_of(b"home/ada", b"full"), full),
        (key_of(b"home/ada", b"link"), entry(link)),
        (key_of(b"home/ada", b"mail.pst"), entry(long)),
        (key_of(b"home/ada/dev", b"null"), entry(Kind::CharDevice { device: 0x103 })),
        (key_of(b"home/ada/dev", b"pipe"), entry(Kind::Fifo)),
        (key_of(b"home/ada/dev", b"sda"), entry(Kind::BlockDevice { device: 0x800 })),
        (key_of(b"home/ada/dev", b"socket"), entry(Kind::Socket)),
    ])
}

/// The same entries, with the contents of two files in one page and those of the third in another.
pub fn leaf_page_v2() -> LeafPage {
    let LeafPage(mut entries) = leaf_page();
    let mut contents = [(9, 0), (9, 1), (10, 0)].into_iter();
    for (_, entry) in &mut entries {
        if let Kind::File { content, .. } = &mut entry.kind {
            let (page, at) = contents.next().unwrap();
            *content = Content::InPage { page: chunk(page), at };
        }
    }
    LeafPage(entries)
}

pub fn content_page() -> ContentPage {
    let long = Content::Pages { depth: 2, pages: vec![chunk(3)] };
    ContentPage(vec![Content::Chunks(vec![]), Content::Chunks(vec![chunk(1), chunk(2)]), long])
}

pub fn inner_page() -> InnerPage {
    InnerPage(vec![(key_of(b"home", b"ada"), chunk(1)), (key_of(b"home/ada", b"full"), chunk(2))])
}

pub fn row_page() -> RowPage {
    RowPage((1..4).map(|number| Row { id: [number; 16], pack: 200 * u32::from(number), at: frame_place() }).collect())
}

pub fn segment_root() -> SegmentRoot {
    let page = |pack| (pack, frame_place(), ChunkId([71; 32]));
    let (pack, at, id) = page(0);
    SegmentRoot {
        own_packs: vec![pack_place(70)],
        rows: vec![PageRef { first: [0; 16], pack, at, id }, PageRef { first: [128; 16], pack, at, id }],
        packs: vec![PageRef { first: 0, pack, at, id }, PageRef { first: 500, pack, at, id }],
    }
}

pub fn token() -> Token {
    Token {
        charter: Signed::new(charter(), &[&admin()]),
        invitation: Signed::new(invitation(), &[&admin()]),
        secret: *invitation_key().secret(),
    }
}

pub fn copyset() -> Copyset {
    Copyset {
        writer: signed_writer(),
        copyset: CopysetId([52; 32]),
        sequence: 4,
        purpose: Purpose::Data,
        level: Level::High,
        k: 3,
        slots: (80..85).map(|number| NodeId([number; 32])).collect(),
        slot_bytes_max: 64 << 30,
        closed: true,
    }
}

pub fn head() -> Head {
    Head {
        writer: signed_writer(),
        sequence: 7,
        previous: Some(backmesh_format::RecordHash([90; 32])),
        written_at: WRITTEN_AT,
        keys: vec![key_slot(91)],
        sealed: Bytes(vec![92; 100]),
    }
}

/// The file's name, and the bytes of a record signed by those who sign it.
pub type Fixture = (&'static str, Vec<u8>);

fn signed<T: Record>(name: &'static str, record: T, signers: &[&KeyPair]) -> Fixture {
    (name, Signed::new(record, signers).to_wire())
}

fn page<T: Record>(name: &'static str, record: &T) -> Fixture {
    (name, to_envelope(record))
}

fn of_members() -> Vec<Fixture> {
    let admission = Admission {
        workgroup: workgroup(),
        certificate: Signed::new(certificate(), &[&invitation_key(), &node_key()]).hash(),
        node: node(),
        admitted_by: NodeId(key(5).public().0),
        admitted_at: WRITTEN_AT,
    };
    let revocation = Revocation { workgroup: workgroup(), node: node(), reason: "sold".into(), written_at: WRITTEN_AT };
    let state = MemberState {
        workgroup: workgroup(),
        node: node(),
        sequence: 12,
        addresses: vec!["/ip4/192.0.2.9/tcp/47770".into()],
        offered_bytes: 200 << 30,
        free_bytes: 64 << 20,
        uptime_permille: 430,
        program: "backmesh 0.1.0".into(),
        written_at: WRITTEN_AT,
    };
    vec![
        signed("charter-first", charter(), &[&admin()]),
        signed("charter-second", second_charter(), &[&admin(), &key(9)]),
        signed("invitation", invitation(), &[&admin()]),
        signed("certificate", certificate(), &[&invitation_key(), &node_key()]),
        signed("admission", admission, &[&key(5)]),
        signed("revocation", revocation, &[&admin()]),
        signed("member-state", state, &[&node_key()]),
        page("token", &token()),
    ]
}

fn of_vaults() -> Vec<Fixture> {
    let reader = ReaderCert { vault: vault(), reader: key(6).public(), written_at: WRITTEN_AT };
    let pointer = VaultPointer {
        workgroup: workgroup(),
        writer: signed_writer(),
        sequence: 3,
        holders: vec![NodeId([80; 32]), NodeId([81; 32])],
    };
    vec![
        ("writer-certificate", signed_writer().to_wire()),
        signed("reader-certificate", reader, &[&vault_secret().root()]),
        signed("vault-pointer", pointer, &[&writer_key()]),
        signed("head", head(), &[&writer_key()]),
        page("head-body", &head_body()),
        page("snapshot", &snapshot()),
        page(
            "snapshot-page",
            &SnapshotPage { sealed: Vec::new(), snapshots: vec![snapshot(), Snapshot { catalogue: None, ..snapshot() }] },
        ),
        signed("stripe", stripe(), &[&writer_key()]),
    ]
}

fn of_holders() -> Vec<Fixture> {
    let claim = SlotClaim {
        vault: vault(),
        copyset: CopysetId([52; 32]),
        slot: 2,
        node: node(),
        sequence: 9,
        stripes: 4_000,
        bytes: 16 << 30,
        digest: [93; 32],
    };
    let lease = Lease {
        vault: vault(),
        copyset: CopysetId([52; 32]),
        node: node(),
        sequence: 10,
        term_secs: Charter::LEASE_TERM_SECS,
        written_at: WRITTEN_AT,
    };
    let packs = vec![PackId([51; 32]), PackId([55; 32])];
    let release = Release { writer: signed_writer(), sequence: 5, first_shard: 4, packs: packs.clone() };
    let unrelease = Unrelease { vault: vault(), sequence: 6, generations_void: 2, packs };
    vec![
        signed("copyset", copyset(), &[&writer_key()]),
        signed("slot-claim", claim, &[&node_key()]),
        signed("lease", lease, &[&node_key()]),
        signed("release", release, &[&writer_key()]),
        signed("un-release", unrelease, &[&vault_secret().root()]),
    ]
}

fn of_pages() -> Vec<Fixture> {
    vec![
        page("catalogue-leaf", &leaf_page()),
        page("catalogue-inner", &inner_page()),
        page("chunk-list", &ChunkList(vec![chunk(1), chunk(2), chunk(1)])),
        page("index-rows", &row_page()),
        page("index-packs", &PackPage(vec![pack_place(70), pack_place(75)])),
        page("index-segment", &segment_root()),
    ]
}

pub fn sealed_snapshots(number: u8) -> SealedSnapshots {
    SealedSnapshots { count: u32::from(number), keys: vec![key_slot(number)], sealed: Bytes(vec![number; 256]) }
}

fn of_vaults_v2() -> Vec<Fixture> {
    let sealed = vec![sealed_snapshots(64), sealed_snapshots(1)];
    vec![
        page("head-body-2", &HeadBody { sealed: sealed.clone(), ..head_body() }),
        page("snapshot-page-2", &SnapshotPage { sealed, snapshots: vec![snapshot()] }),
    ]
}

/// What version 1 of the records is, and what later versions added: the folder of each, and its fixtures.
pub fn versions() -> Vec<(&'static str, Vec<Fixture>)> {
    let v1 = [of_members(), of_vaults(), of_holders(), of_pages()].concat();
    vec![("v1", v1), ("v2", [of_pages_v2(), of_vaults_v2()].concat())]
}

/// Every record, as its fixture holds it.
pub fn all() -> Vec<Fixture> {
    versions().into_iter().flat_map(|(_, fixtures)| fixtures).collect()
}

fn of_pages_v2() -> Vec<Fixture> {
    vec![("catalogue-leaf-2", to_envelope(&leaf_page_v2())), ("catalogue-contents", to_envelope(&content_page()))]
}
