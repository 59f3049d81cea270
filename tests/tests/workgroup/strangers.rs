//! What is not a member, or does not behave as one: refused for the right reason, and without costing the node its memory. The
//! protocol is spoken here directly.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh::state::State;
use backmesh_codec::tree;
use backmesh_format::charter::Level;
use backmesh_format::copyset::Copyset;
use backmesh_format::keys::{KeyPair, VaultSecret};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe, shard_bytes};
use backmesh_format::vault::{Head, WriterCert};
use backmesh_format::wire::Bytes;
use backmesh_format::{CopysetId, NodeId, PackId, Signed, phrase};
use backmesh_mesh::message::{
    Hello, MESH_FRAME_BYTES_MAX, Message, READ_REPLY_FRAME_BYTES_MAX, ReadReply, ReadRequest, Reader, Refusal, RefusedReason,
    STORE_REPLY_FRAME_BYTES_MAX, Standing, StoreReply, StoreRequest, read_proof_input,
};
use backmesh_net::{FrameReader, FrameWriter, Net, NetConfig, NetEvent, Protocol};
use backmesh_tests::tree::Numbers;
use backmesh_tests::{Group, wait_for};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// A process that takes in what strangers send needs some memory for it; an attack that gets beyond this found no bound.
const MEMORY_PEAK_KIB_MAX: u64 = 256 << 10;
/// Both ends of a stream that must stay open.
type Held = (FrameReader, FrameWriter);

const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a node.
struct Caller {
    net: Net,
    holder: NodeId,
    calls: u64,
    _events: Receiver<NetEvent>,
}

impl Caller {
    async fn dial(key: KeyPair, address: &str) -> Self {
        let mut config = NetConfig::new(key);
        config.listen = Vec::new();
        let (net, events) = Net::start(config).await.unwrap();
        let holder = net.dial(address, None).await.unwrap();
        Self { net, holder, calls: 0, _events: events }
    }

    async fn open(&self, protocol: Protocol) -> (FrameReader, FrameWriter) {
        self.net.open(self.holder, protocol).await.unwrap().split()
    }

    /// Sends a store request on a stream of its own; why it was refused, or none where it was done.
    async fn store(&mut self, request: impl FnOnce(u64) -> StoreRequest) -> Option<Refusal> {
        let (mut reader, mut writer) = self.open(Protocol::Store).await;
        self.calls += 1;
        let request = request(self.calls);
        let (fields, tail) = request.encode_parts();
        writer.send_parts(&[&fields, tail]).await.unwrap();
        writer.flush().await.unwrap();
        let frame = timeout(PATIENCE, reader.next(STORE_REPLY_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
        match StoreReply::decode(&frame).unwrap() {
            StoreReply::Done { call } => {
                assert_eq!(call, self.calls);
                None
            }
            StoreReply::Refused { call, reason, text } => {
                assert_eq!(call, self.calls);
                assert!(!text.is_empty());
                Some(reason)
            }
        }
    }

    /// Greets as a member does, or as a guest without a certificate; what the node thinks of it. The stream must stay open.
    async fn greet(&self, state: &State, with_certificate: bool) -> (Result<Standing, RefusedReason>, Held) {
        let (mut reader, mut writer) = self.open(Protocol::Mesh).await;
        let hello = Hello {
            program: "test".to_owned(),
            workgroup: state.charter().unwrap().workgroup_id(),
            certificate: with_certificate.then(|| state.certificate().unwrap()),
            admissions: Vec::new(),
            charter: Some(state.charter().unwrap()),
            observed: String::new(),
        };
        writer.send(&Message::Hello(Box::new(hello)).encode()).await.unwrap();
        writer.flush().await.unwrap();
        loop {
            let frame = timeout(PATIENCE, reader.next(MESH_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
            match Message::decode(&frame).unwrap() {
                Message::Welcome { standing } => return (Ok(standing), (reader, writer)),
                Message::Refused { reason, .. } => return (Err(reason), (reader, writer)),
                _ => {}
            }
        }
    }

    /// Proves the right to read, or fails to.
    async fn prove(&self, vault: VaultSecret, signer: &KeyPair) -> Option<Refusal> {
        let (mut reader, mut writer) = self.open(Protocol::Read).await;
        let challenge = reader.next(READ_REPLY_FRAME_BYTES_MAX).await.unwrap().unwrap();
        let ReadReply::Challenge { nonce } = ReadReply::decode(challenge).unwrap() else { panic!("no challenge") };
        let input = read_proof_input(&nonce, &self.holder, &self.net.local(), &vault.vault());
        let request =
            ReadRequest::Prove { vault: vault.vault(), how: Reader::Root, key: signer.public(), signature: signer.sign(&input) };
        writer.send(&request.encode()).await.unwrap();
        writer.flush().await.unwrap();
        let answer = timeout(PATIENCE, reader.next(READ_REPLY_FRAME_BYTES_MAX)).await.unwrap().unwrap().unwrap();
        match ReadReply::decode(answer).unwrap() {
            ReadReply::Proved => None,
            ReadReply::Refused { reason, .. } => Some(reason),
            other => panic!("{other:?}"),
        }
    }
}

/// A vault's writer, and what it writes to one holder.
struct Author {
    root: KeyPair,
    key: KeyPair,
    writer: Signed<WriterCert>,
    holder: NodeId,
}

impl Author {
    /// The writer of a state folder that has joined.
    fn of(state: &State, secret: &VaultSecret, holder: NodeId) -> Self {
        Self { root: secret.root(), key: state.writer_key().unwrap(), writer: state.writer().unwrap(), holder }
    }

    /// The same vault's next generation, written from the same node.
    fn next(&self) -> Self {
        let key = KeyPair::from_secret(&[21; 32]);
        let cert = WriterCert { generation: self.writer.generation + 1, writer: key.public(), ..(*self.writer).clone() };
        let root = KeyPair::from_secret(&self.root.secret());
        Self { writer: Signed::new(cert, &[&root]), root, key, holder: self.holder }
    }

    fn copyset(&self) -> Copyset {
        Copyset {
            writer: self.writer.clone(),
            copyset: CopysetId([7; 32]),
            sequence: 1,
            purpose: Purpose::Data,
            level: Level::Standard,
            k: 1,
            slots: vec![self.holder],
            slot_bytes_max: 40 << 20,
            closed: false,
        }
    }

    fn stripe(&self, pack: u8, class: SizeClass) -> (Stripe, Vec<u8>) {
        let bytes = Numbers::new(pack.into()).bytes(class.bytes() as usize);
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
        (stripe, bytes)
    }

    fn head(&self, sequence: u64) -> Head {
        Head {
            writer: self.writer.clone(),
            sequence,
            previous: None,
            written_at: 1,
            keys: Vec::new(),
            sealed: Bytes(vec![9; 4096]),
        }
    }

    fn sign_copyset(&self, copyset: Copyset) -> impl FnOnce(u64) -> StoreRequest {
        let copyset = Box::new(Signed::new(copyset, &[&self.key]));
        move |call| StoreRequest::Copyset { call, copyset }
    }

    fn sign_head(&self, head: Head) -> impl FnOnce(u64) -> StoreRequest {
        let head = Box::new(Signed::new(head, &[&self.key]));
        move |call| StoreRequest::Head { call, head }
    }

    fn sign_shard(&self, stripe: Stripe, shard: u8, bytes: Vec<u8>) -> impl FnOnce(u64) -> StoreRequest {
        let stripe = Box::new(Signed::new(stripe, &[&self.key]));
        move |call| StoreRequest::Shard { call, shard, stripe, bytes }
    }
}

/// A group with one running node, and a member whose agent does not run: the test speaks in its place.
fn holder_and_impostor() -> (Group, State, VaultSecret) {
    let group = Group::start(1).unwrap();
    let blank = group.blank("impostor");
    // Without an address in the token, nobody hears of it.
    group.join(&blank, group.admin(&["invite"]).expect(0).stdout.trim(), "0").expect(0);
    let state = State::open(&blank.state).unwrap();
    let secret = phrase::parse(&fs::read_to_string(group.phrase_file("impostor")).unwrap()).unwrap();
    (group, state, secret)
}

#[test]
fn shards_that_do_not_match_are_refused() {
    let (group, state, secret) = holder_and_impostor();
    let address = group.nodes[0].address();
    Runtime::new().unwrap().block_on(async {
        let mut caller = Caller::dial(state.node_key().unwrap(), &address).await;
        let author = Author::of(&state, &secret, caller.holder);
        // A genuine certificate counts once it was shown.
        assert_eq!(caller.store(author.sign_copyset(author.copyset())).await, Some(Refusal::NotMember));
        let (standing, _greeted) = caller.greet(&state, true).await;
        assert_eq!(standing, Ok(Standing::Accepted));

        let (stripe, bytes) = author.stripe(1, SizeClass::K16);
        let refused = caller.store(author.sign_shard(stripe.clone(), 0, bytes.clone())).await;
        assert_eq!(refused, Some(Refusal::UnknownCopyset));
        refuse_copysets(&mut caller, &author).await;
        assert_eq!(caller.store(author.sign_copyset(author.copyset())).await, None);
        refuse_shards(&mut caller, &author).await;

        assert_eq!(caller.store(author.sign_shard(stripe.clone(), 0, bytes.clone())).await, None);
        assert_eq!(caller.store(author.sign_shard(stripe.clone(), 0, bytes.clone())).await, None, "the same again is no harm");
        let mut other = bytes;
        other[5] ^= 1;
        let root = tree::root(&other);
        let changed = Stripe { pack_root: root, shard_roots: vec![root], ..stripe };
        assert_eq!(caller.store(author.sign_shard(changed, 0, other)).await, Some(Refusal::BadRecord), "roots never change");

        for pack in 10..12 {
            let (stripe, bytes) = author.stripe(pack, SizeClass::M16);
            assert_eq!(caller.store(author.sign_shard(stripe, 0, bytes)).await, None);
        }
        let (stripe, bytes) = author.stripe(12, SizeClass::M16);
        assert_eq!(caller.store(author.sign_shard(stripe, 0, bytes)).await, Some(Refusal::Budget));

        refuse_heads_and_generations(&mut caller, &author).await;
    });
    assert_eq!(group.nodes[0].status()["shelf"]["shards"], 3);
    assert!(group.nodes[0].memory_peak_kib() < MEMORY_PEAK_KIB_MAX);
}

async fn refuse_copysets(caller: &mut Caller, author: &Author) {
    let plan = author.copyset();
    let unsigned = Box::new(Signed::new(plan.clone(), &[&KeyPair::from_secret(&[5; 32])]));
    let request = |call| StoreRequest::Copyset { call, copyset: unsigned };
    assert_eq!(caller.store(request).await, Some(Refusal::Writer));
    let own_root = KeyPair::from_secret(&[6; 32]);
    let uncertified = Copyset { writer: Signed::new((*author.writer).clone(), &[&own_root]), ..plan.clone() };
    assert_eq!(caller.store(author.sign_copyset(uncertified)).await, Some(Refusal::Writer));
    let elsewhere = Copyset { slots: vec![NodeId([3; 32])], ..plan.clone() };
    assert_eq!(caller.store(author.sign_copyset(elsewhere)).await, Some(Refusal::WrongSlot));
    let twice = Copyset { slots: vec![author.holder, author.holder], ..plan };
    assert_eq!(caller.store(author.sign_copyset(twice)).await, Some(Refusal::BadRecord));
}

async fn refuse_shards(caller: &mut Caller, author: &Author) {
    let (stripe, bytes) = author.stripe(2, SizeClass::K16);
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    assert_eq!(caller.store(author.sign_shard(stripe.clone(), 0, flipped)).await, Some(Refusal::WrongBytes));
    assert_eq!(caller.store(author.sign_shard(stripe.clone(), 0, bytes[1..].to_vec())).await, Some(Refusal::WrongBytes));
    assert_eq!(caller.store(author.sign_shard(stripe.clone(), 0, Vec::new())).await, Some(Refusal::WrongBytes));
    assert_eq!(caller.store(author.sign_shard(stripe.clone(), 1, bytes.clone())).await, Some(Refusal::WrongSlot));
    let wrong_k = Stripe { k: 2, founding_n: 2, ..stripe.clone() };
    assert_eq!(caller.store(author.sign_shard(wrong_k, 0, bytes.clone())).await, Some(Refusal::BadRecord));
    let stranger = Box::new(Signed::new(stripe.clone(), &[&KeyPair::from_secret(&[5; 32])]));
    let request = |call| StoreRequest::Shard { call, shard: 0, stripe: stranger, bytes: bytes.clone() };
    assert_eq!(caller.store(request).await, Some(Refusal::Writer));
    let later = Stripe { generation: 2, ..stripe };
    assert_eq!(caller.store(author.sign_shard(later, 0, bytes.clone())).await, Some(Refusal::Writer));
}

async fn refuse_heads_and_generations(caller: &mut Caller, author: &Author) {
    let forged = Box::new(Signed::new(author.head(1), &[&KeyPair::from_secret(&[5; 32])]));
    assert_eq!(caller.store(|call| StoreRequest::Head { call, head: forged }).await, Some(Refusal::Writer));
    assert_eq!(caller.store(author.sign_head(author.head(2))).await, None);
    assert_eq!(caller.store(author.sign_head(author.head(1))).await, Some(Refusal::OldSequence));

    let next = author.next();
    assert_eq!(caller.store(next.sign_head(next.head(3))).await, None);
    assert_eq!(caller.store(author.sign_head(author.head(4))).await, Some(Refusal::Fenced));
    let (stripe, bytes) = author.stripe(3, SizeClass::K4);
    assert_eq!(caller.store(author.sign_shard(stripe, 0, bytes)).await, Some(Refusal::Fenced));
}

#[test]
fn who_has_no_certificate_may_only_read_what_it_proves() {
    let (group, state, secret) = holder_and_impostor();
    let address = group.nodes[0].address();
    Runtime::new().unwrap().block_on(async {
        let mut caller = Caller::dial(KeyPair::from_secret(&[1; 32]), &address).await;
        let author = Author::of(&state, &secret, caller.holder);
        let (stripe, bytes) = author.stripe(1, SizeClass::K4);
        let before = caller.store(author.sign_copyset(author.copyset())).await;
        assert_eq!(before, Some(Refusal::NotMember));
        let (standing, _greeted) = caller.greet(&state, false).await;
        assert_eq!(standing, Ok(Standing::Guest));
        assert_eq!(caller.store(author.sign_copyset(author.copyset())).await, Some(Refusal::NotMember));
        assert_eq!(caller.store(author.sign_shard(stripe, 0, bytes)).await, Some(Refusal::NotMember));
        assert_eq!(caller.store(author.sign_head(author.head(1))).await, Some(Refusal::NotMember));
        let (stolen, _greeted) = caller.greet(&state, true).await;
        assert_eq!(stolen, Err(RefusedReason::Certificate), "another node's certificate is of no use");

        assert_eq!(caller.prove(VaultSecret::new([8; 32]), &KeyPair::from_secret(&[9; 32])).await, Some(Refusal::Proof));
        let own = VaultSecret::new([8; 32]);
        let root = own.root();
        assert_eq!(caller.prove(own, &root).await, None);
    });
    assert_eq!(group.nodes[0].status()["workgroup"]["members"], 1);
    assert_eq!(group.nodes[0].status()["shelf"]["shards"], 0);
}

#[test]
fn noise_costs_neither_the_node_nor_its_memory() {
    let (group, state, secret) = holder_and_impostor();
    let node = &group.nodes[0];
    let address = node.address();
    let place = tcp_place(&address);

    // Bytes that mean nothing, and connections that say nothing.
    let silent: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(&place).ok()).collect();
    for seed in 0..16 {
        if let Ok(mut stream) = TcpStream::connect(&place) {
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let garbage = Numbers::new(seed + 1).bytes(1 << 20);
            while stream.write_all(&garbage).is_ok() {}
        }
    }
    drop(silent);

    Runtime::new().unwrap().block_on(async {
        // Frames without an end, from a stranger and from a member, on all protocols.
        for (key, member) in [(KeyPair::from_secret(&[1; 32]), false), (state.node_key().unwrap(), true)] {
            let caller = Caller::dial(key, &address).await;
            let greeted = if member { Some(caller.greet(&state, true).await) } else { None };
            for protocol in [Protocol::Mesh, Protocol::Store, Protocol::Read] {
                let (_reader, mut writer) = caller.open(protocol).await;
                let part = vec![0x55; 16 << 20];
                let parts: Vec<&[u8]> = (0..200).map(|_| &part[..]).collect();
                let sent = timeout(PATIENCE, writer.send_parts(&parts)).await;
                assert!(
                    matches!(sent, Ok(Err(_))),
                    "a frame of 3 GiB on {protocol} from a {}: {sent:?}",
                    if member { "member" } else { "stranger" }
                );
            }
            drop(greeted);
        }
        // A member that sends and never reads what is answered.
        let caller = Caller::dial(state.node_key().unwrap(), &address).await;
        let (_standing, _greeted) = caller.greet(&state, true).await;
        let author = Author::of(&state, &secret, caller.holder);
        let (stripe, bytes) = author.stripe(1, SizeClass::M16);
        let stripe = Signed::new(stripe, &[&author.key]);
        let streams = (0..8).map(|_| async {
            let (_reader, mut writer) = caller.open(Protocol::Store).await;
            for call in 0..24 {
                let fields = StoreRequest::shard_fields(call, 0, &stripe);
                let sent = timeout(Duration::from_secs(10), writer.send_parts(&[&fields, &bytes])).await;
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
        });
        let all: Vec<_> = streams.collect();
        futures::future::join_all(all).await;
    });

    wait_for("the node to answer", Duration::from_secs(10), || Ok(node.status()["agent"] == true)).unwrap();
    let peak = node.memory_peak_kib();
    assert!(peak < MEMORY_PEAK_KIB_MAX, "the node's memory rose to {peak} KiB");
    // And it still does its work.
    let (mut group, _state, _secret) = (group, state, secret);
    group.add().unwrap();
    wait_for("a new member to be met", Duration::from_secs(30), || {
        Ok(group.nodes[0].peers().iter().any(|peer| peer["name"] == "node1" && peer["connected"] == true))
    })
    .unwrap();
}

fn tcp_place(address: &str) -> String {
    let parts: Vec<&str> = address.split('/').collect();
    format!("{}:{}", parts[2], parts[4])
}
