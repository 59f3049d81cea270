//! The holder as its peers meet it: over real streams, with a member and with strangers.

use super::*;
use crate::members::Members;
use crate::state::{Config, Founding};
use backmesh_codec::tree;
use backmesh_format::charter::{Charter, Level};
use backmesh_format::copyset::Copyset;
use backmesh_format::keys::{KeyPair, VaultSecret};
use backmesh_format::membership::{Invitation, Role};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe, shard_bytes};
use backmesh_format::token::Token;
use backmesh_format::vault::{Head, WriterCert};
use backmesh_format::wire::Bytes;
use backmesh_format::{CopysetId, MachineId, PackId, Signed};
use backmesh_mesh::message::{
    Hello, MESH_FRAME_BYTES_MAX, Message, READ_REPLY_FRAME_BYTES_MAX, ReadReply, ReadRequest, Reader, Refusal,
    STORE_REPLY_FRAME_BYTES_MAX, StoreReply, StoreRequest, read_proof_input,
};
use backmesh_net::{FrameReader, FrameWriter, Net, NetConfig, NetEvent, Protocol};
use backmesh_store::faulty::{Fault, FaultyDisk};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn token() -> Token {
    let (admin, secret) = (KeyPair::from_secret(&[50; 32]), [51; 32]);
    let charter = Charter {
        name: "test".to_owned(),
        number: 1,
        workgroup: None,
        previous: None,
        admins: vec![admin.public()],
        level: Level::Standard,
        site_safe: false,
        retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
        lease_term_secs: Charter::LEASE_TERM_SECS,
        quota_bytes: 0,
        written_at: 1,
        nonce: [0; 16],
    };
    let invitation = Invitation {
        workgroup: charter.workgroup_id(),
        key: KeyPair::from_secret(&secret).public(),
        uses: 10,
        expires_at: 0,
        role: Role::Member,
        site: String::new(),
        seeds: Vec::new(),
        written_at: 1,
    };
    Token { charter: Signed::new(charter, &[&admin]), invitation: Signed::new(invitation, &[&admin]), secret }
}

/// The state of a node that has joined; its keys follow from a number.
pub(crate) fn joined(seed: u8) -> (tempfile::TempDir, State) {
    let folder = tempfile::tempdir().unwrap();
    let state = State::create(&folder.path().join("state")).unwrap();
    state
        .found(&Founding {
            token: &token(),
            secret: &VaultSecret::new([seed; 32]),
            takeover: false,
            node_key: KeyPair::from_secret(&[seed; 32]),
            writer_key: KeyPair::from_secret(&[seed + 100; 32]),
            machine: MachineId([seed; 32]),
            name: format!("node {seed}"),
            config: Config::default(),
            now: 1,
        })
        .unwrap();
    (folder, state)
}

pub(crate) async fn net(key: KeyPair) -> (Net, mpsc::Receiver<NetEvent>) {
    let mut config = NetConfig::new(key);
    config.listen = vec!["127.0.0.1:0".to_owned()];
    Net::start(config).await.unwrap()
}

/// A holder that runs.
pub(crate) struct Stage {
    holder: Arc<Holder>,
    disk: Arc<FaultyDisk>,
    pub(crate) net: Net,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new(offered_bytes: u64) -> Self {
        let (folder, state) = joined(1);
        let (net, mut events) = net(state.node_key().unwrap()).await;
        let disk = Arc::new(FaultyDisk::new());
        let shared: SharedDisk = disk.clone();
        let records = Arc::new(Records::open(Arc::new(backmesh_store::RealDisk), &state.records_path()).unwrap());
        let (members, drive) = Members::open(&state, net.clone(), Arc::clone(&records)).unwrap();
        let holder = Arc::new(Holder::open(&shared, &state, records, Arc::clone(&members), offered_bytes).unwrap());
        tokio::spawn(drive.run());
        let serving = Arc::clone(&holder);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let holder = Arc::clone(&serving);
                match event {
                    NetEvent::Inbound { peer, protocol: Protocol::Store, stream } => {
                        tokio::spawn(holder.serve_store(peer, stream));
                    }
                    NetEvent::Inbound { peer, protocol: Protocol::Read, stream } => {
                        tokio::spawn(holder.serve_read(peer, stream));
                    }
                    other => members.tell(other).await,
                }
            }
        });
        Self { holder, disk, net, _folder: folder }
    }
}

type Ends = (FrameReader, FrameWriter);

/// One who speaks to it.
struct Caller {
    net: Net,
    holder: NodeId,
    _events: mpsc::Receiver<NetEvent>,
}

impl Caller {
    async fn new(stage: &Stage, key: KeyPair) -> Self {
        let (net, events) = net(key).await;
        let holder = net.dial(&stage.net.addresses()[0], None).await.unwrap();
        Self { net, holder, _events: events }
    }

    /// A member, and the stream that it greeted on.
    async fn member(stage: &Stage) -> (Self, Author, Ends) {
        let (_folder, state) = joined(2);
        let caller = Self::new(stage, state.node_key().unwrap()).await;
        let (mut reader, mut writer) = caller.open(Protocol::Mesh).await;
        let hello = Hello {
            program: "test".to_owned(),
            workgroup: state.charter().unwrap().workgroup_id(),
            certificate: Some(state.certificate().unwrap()),
            admissions: Vec::new(),
            charter: Some(state.charter().unwrap()),
            observed: String::new(),
        };
        writer.send(&Message::Hello(Box::new(hello)).encode()).await.unwrap();
        writer.flush().await.unwrap();
        loop {
            let frame = timeout(PATIENCE, reader.next(MESH_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
            if let Message::Welcome { .. } = Message::decode(&frame).unwrap() {
                break;
            }
        }
        let author = Author {
            key: state.writer_key().unwrap(),
            writer: state.writer().unwrap(),
            secret: VaultSecret::new([2; 32]),
            holder: caller.holder,
        };
        (caller, author, (reader, writer))
    }

    async fn open(&self, protocol: Protocol) -> Ends {
        self.net.open(self.holder, protocol).await.unwrap().split()
    }

    /// What a store request on a stream is answered with.
    async fn ask(ends: &mut Ends, request: &StoreRequest) -> Option<(u64, Refusal)> {
        let (fields, tail) = request.encode_parts();
        ends.1.send_parts(&[&fields, tail]).await.unwrap();
        ends.1.flush().await.unwrap();
        answer(&mut ends.0).await
    }

    async fn store(&self, request: StoreRequest) -> Option<Refusal> {
        let mut ends = self.open(Protocol::Store).await;
        Self::ask(&mut ends, &request).await.map(|(_, reason)| reason)
    }

    /// A read stream on which the right to read a vault was proved.
    async fn reading(&self, secret: &VaultSecret) -> Ends {
        let (mut reader, mut writer) = self.open(Protocol::Read).await;
        let ReadReply::Challenge { nonce } = read_reply(&mut reader).await else { panic!("no challenge") };
        let (vault, root) = (secret.vault(), secret.root());
        let signature = root.sign(&read_proof_input(&nonce, &self.holder, &self.net.local(), &vault));
        let proof = ReadRequest::Prove { vault, how: Reader::Root, key: root.public(), signature };
        writer.send(&proof.encode()).await.unwrap();
        writer.flush().await.unwrap();
        assert!(matches!(read_reply(&mut reader).await, ReadReply::Proved));
        (reader, writer)
    }
}

async fn answer(reader: &mut FrameReader) -> Option<(u64, Refusal)> {
    let frame = timeout(PATIENCE, reader.next(STORE_REPLY_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
    match StoreReply::decode(&frame).unwrap() {
        StoreReply::Done { .. } => None,
        StoreReply::Refused { call, reason, .. } => Some((call, reason)),
    }
}

async fn read_reply(reader: &mut FrameReader) -> ReadReply {
    let frame = timeout(PATIENCE, reader.next(READ_REPLY_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
    ReadReply::decode(frame).unwrap()
}

/// The writer of the member's vault.
struct Author {
    key: KeyPair,
    writer: Signed<WriterCert>,
    secret: VaultSecret,
    holder: NodeId,
}

impl Author {
    fn copyset(&self) -> StoreRequest {
        let copyset = Copyset {
            writer: self.writer.clone(),
            copyset: CopysetId([7; 32]),
            sequence: 1,
            purpose: Purpose::Data,
            level: Level::Standard,
            k: 1,
            slots: vec![self.holder],
            slot_bytes_max: 40 << 20,
            closed: false,
        };
        StoreRequest::Copyset { call: 1, copyset: Box::new(Signed::new(copyset, &[&self.key])) }
    }

    fn shard(&self, pack: u8) -> StoreRequest {
        let class = SizeClass::K64;
        let bytes = vec![pack; class.bytes() as usize];
        let root = tree::root(&bytes);
        let stripe = Stripe {
            vault: self.writer.vault,
            pack: PackId([pack; 32]),
            copyset: CopysetId([7; 32]),
            purpose: Purpose::Data,
            class,
            k: 1,
            founding_n: 1,
            shard_bytes: shard_bytes(class, 1),
            pack_root: root,
            shard_roots: vec![root],
            keys: Vec::new(),
            generation: self.writer.generation,
            seat: 0,
        };
        StoreRequest::Shard { call: 2, shard: 0, stripe: Box::new(Signed::new(stripe, &[&self.key])), bytes }
    }

    fn head(&self, sequence: u64, bytes: usize) -> StoreRequest {
        let writer = self.writer.clone();
        let head = Head { writer, sequence, previous: None, written_at: 1, keys: Vec::new(), sealed: Bytes(vec![9; bytes]) };
        StoreRequest::Head { call: 3, head: Box::new(Signed::new(head, &[&self.key])) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_stranger_only_small_frames_are_read() {
    let stage = Stage::new(1 << 30).await;
    let (_member, author, _greeted) = Caller::member(&stage).await;
    let stranger = Caller::new(&stage, KeyPair::from_secret(&[9; 32])).await;
    let mut ends = stranger.open(Protocol::Store).await;
    assert_eq!(Caller::ask(&mut ends, &author.copyset()).await, Some((1, Refusal::NotMember)));
    assert_eq!(Caller::ask(&mut ends, &author.head(1, 100)).await, Some((3, Refusal::NotMember)), "the stream stays of use");
    // A shard is longer: its length is refused, before its bytes are there.
    let (fields, tail) = author.shard(1).encode_parts().0.split_at_checked(8).map(|(a, b)| (a.to_vec(), b.to_vec())).unwrap();
    let long = [&fields[..], &tail, &vec![0; 16 << 20]].concat();
    let sending = tokio::spawn(async move { ends.1.send(&long).await.map(|()| ends.1) });
    assert_eq!(answer(&mut ends.0).await, Some((0, Refusal::NotMember)));
    let sent = timeout(PATIENCE, sending).await.expect("the sender is not left waiting").unwrap();
    assert!(sent.is_err(), "16 MiB of a stranger were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_has_few_streams() {
    let stage = Stage::new(1 << 30).await;
    let (member, author, _greeted) = Caller::member(&stage).await;
    let mut held = Vec::new();
    for _ in 0..STORING.streams {
        let mut ends = member.open(Protocol::Store).await;
        assert_eq!(Caller::ask(&mut ends, &author.copyset()).await, None);
        held.push(ends);
    }
    let mut more = member.open(Protocol::Store).await;
    assert_eq!(answer(&mut more.0).await, Some((0, Refusal::Busy)));
    let mut reading = Vec::new();
    for _ in 0..READING.streams {
        reading.push(member.reading(&author.secret).await);
    }
    let (mut reader, _writer) = member.open(Protocol::Read).await;
    assert!(matches!(read_reply(&mut reader).await, ReadReply::Refused { call: 0, reason: Refusal::Busy, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_use_up_the_offer() {
    let stage = Stage::new(300 << 10).await;
    let (member, author, _greeted) = Caller::member(&stage).await;
    assert_eq!(member.store(author.head(1, 1000)).await, Some(Refusal::UnknownCopyset));
    assert_eq!(member.store(author.copyset()).await, None);
    let before = stage.holder.free_bytes();
    assert_eq!(member.store(author.head(1, 200 << 10)).await, None);
    assert!(stage.holder.free_bytes() < before - (200 << 10));
    assert_eq!(member.store(author.head(2, 200 << 10)).await, Some(Refusal::Full));
    assert_eq!(member.store(author.shard(1)).await, None);
    assert_eq!(member.store(author.shard(2)).await, Some(Refusal::Full));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_shard_is_not_served_until_it_comes_anew() {
    let stage = Stage::new(1 << 30).await;
    let (member, author, _greeted) = Caller::member(&stage).await;
    assert_eq!(member.store(author.copyset()).await, None);
    assert_eq!(member.store(author.shard(1)).await, None);
    let mut ends = member.reading(&author.secret).await;
    let read = async |ends: &mut Ends| {
        let (pack, bytes) = (PackId([1; 32]), 1000);
        let range = ReadRequest::Range { call: 5, pack, shard: 0, offset: 0, bytes, with_stripe: false };
        ends.1.send(&range.encode()).await.unwrap();
        ends.1.flush().await.unwrap();
        read_reply(&mut ends.0).await
    };
    assert!(matches!(read(&mut ends).await, ReadReply::Range { .. }));
    let name = PackId([1; 32]).to_string();
    let file = stage.disk.files().into_iter().find(|path| path.to_string_lossy().contains(&name)).unwrap();
    let sound = stage.disk.bytes_of(&file).unwrap();
    let mut bad = sound.clone();
    *bad.last_mut().unwrap() ^= 1;
    stage.disk.set_bytes_of(&file, bad);
    for _ in 0..2 {
        assert!(matches!(read(&mut ends).await, ReadReply::Missing { .. }));
        assert_eq!(stage.holder.damaged_shards(), 1);
    }
    assert_eq!(member.store(author.shard(1)).await, None);
    assert_eq!(stage.holder.damaged_shards(), 0);
    assert!(matches!(read(&mut ends).await, ReadReply::Range { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_confirms_nothing_is_given_nothing() {
    let mut broke = false;
    for ahead in 1..40 {
        let stage = Stage::new(1 << 30).await;
        let (member, author, _greeted) = Caller::member(&stage).await;
        assert_eq!(member.store(author.copyset()).await, None);
        stage.disk.fail_at(stage.disk.calls() + ahead, Fault::Fail);
        member.store(author.shard(1)).await;
        if stage.holder.is_broken() {
            broke = true;
            assert_eq!(member.store(author.shard(2)).await, Some(Refusal::Failed));
            assert_eq!(member.store(author.head(1, 100)).await, Some(Refusal::Failed));
            assert_eq!(stage.holder.free_bytes(), 0);
            break;
        }
    }
    assert!(broke, "no call of a put is a sync");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_or_served_before_there_is_memory_for_it() {
    let stage = Stage::new(1 << 30).await;
    let (member, author, _greeted) = Caller::member(&stage).await;
    assert_eq!(member.store(author.copyset()).await, None);
    assert_eq!(member.store(author.shard(1)).await, None);
    let mut reading = member.reading(&author.secret).await;
    for (gate, bounds) in [(&stage.holder.storing, STORING), (&stage.holder.reading, READING)] {
        let mut taken = Vec::new();
        let mut left = bounds.all_kib;
        for others in 0..bounds.all_kib.div_ceil(bounds.peer_kib) {
            let pass = gate.enter(NodeId([200 + others as u8; 32])).unwrap();
            let kib = left.min(bounds.peer_kib);
            left -= kib;
            taken.push((pass.room(kib << 10).await.unwrap(), pass));
        }
        let stored = async { assert_eq!(member.store(author.shard(2)).await, None) };
        let read = async {
            reading.1.send(&ReadRequest::Packs { call: 9, copyset: CopysetId([7; 32]), after: None }.encode()).await.unwrap();
            reading.1.flush().await.unwrap();
            assert!(matches!(read_reply(&mut reading.0).await, ReadReply::Packs { call: 9, .. }));
        };
        let storing = Arc::ptr_eq(gate, &stage.holder.storing);
        let work = async { if storing { stored.await } else { read.await } };
        tokio::pin!(work);
        assert!(timeout(Duration::from_millis(500), &mut work).await.is_err(), "there is no memory for it");
        drop(taken);
        timeout(PATIENCE, work).await.expect("it is done once there is");
    }
}
