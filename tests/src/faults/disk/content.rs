//! What the stories are about: a vault's keys, files that change, and how files become stripes and come back. All of it is the codec's
//! own work; only the catalogue is a plain list, in one chunk.

use backmesh_codec::buffer::Buffers;
use backmesh_codec::frame::{FrameDraft, chunk_in, open_frame};
use backmesh_codec::pack::{PackAssembler, pack_overhead_bytes};
use backmesh_codec::seal::{PackKey, open_any_key, sealing_key};
use backmesh_codec::stripe::{BuiltStripe, StripeTemplate, build, join, rebuild};
use backmesh_format::charter::Level;
use backmesh_format::copyset::Copyset;
use backmesh_format::index::Place;
use backmesh_format::keys::{ChunkIdKey, KeyPair, VaultSecret};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe};
use backmesh_format::vault::{Head, WriterCert};
use backmesh_format::wire::{Bytes, Reader, Wire, Writer};
use backmesh_format::{ChunkId, CopysetId, MachineId, NodeId, RecordHash, Signed, VaultId};
use backmesh_store::StatKey;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// How stripes are coded: any `k` of `n` shards give a pack back.
pub type Shape = backmesh_policy::Shape;

/// The keys of the owner and its vault.
pub struct Keys {
    /// The vault.
    pub vault: VaultId,
    /// That the writer may write.
    pub certificate: Signed<WriterCert>,
    /// The copyset that takes everything.
    pub set: Signed<Copyset>,
    /// How its stripes are coded.
    pub shape: Shape,
    /// Names chunks.
    pub id_key: ChunkIdKey,
    writer: KeyPair,
    unsealing: [u8; 32],
    buffers: Buffers,
}

/// The number of the owner's node.
const OWNER: u8 = 200;

/// The name of a holder.
pub const fn holder_id(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 32])
}

impl Keys {
    /// The keys of all stories whose stripes are coded so.
    pub fn new(shape: Shape) -> Self {
        let (secret, writer) = (VaultSecret::new([9; 32]), KeyPair::from_secret(&[8; 32]));
        let unsealing = *secret.unsealing_secret(1);
        let certificate = WriterCert {
            vault: secret.vault(),
            seat: 0,
            generation: 1,
            writer: writer.public(),
            sealing: sealing_key(&unsealing),
            node: NodeId([OWNER; 32]),
            machine: MachineId([OWNER; 32]),
            written_at: 1,
        };
        let certificate = Signed::new(certificate, &[&secret.root()]);
        let set = Copyset {
            writer: certificate.clone(),
            copyset: CopysetId([7; 32]),
            sequence: 1,
            purpose: Purpose::Data,
            level: Level::Standard,
            k: shape.k,
            slots: (0..usize::from(shape.n)).map(holder_id).collect(),
            slot_bytes_max: 1 << 30,
            closed: false,
        };
        let set = Signed::new(set, &[&writer]);
        let (vault, id_key) = (secret.vault(), secret.chunk_id_key());
        Self { vault, certificate, set, shape, id_key, writer, unsealing, buffers: Buffers::default() }
    }

    /// A thing that packs frames of this vault.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn assembler(&self) -> anyhow::Result<PackAssembler> {
        let overhead = pack_overhead_bytes(self.shape.k, self.shape.n);
        Ok(PackAssembler::new(SizeClass::K64, overhead)?.within(self.buffers.clone()))
    }

    /// Seals and codes what waits.
    ///
    /// # Errors
    /// The codec's.
    pub fn stripes(&self, assembler: &mut PackAssembler, rng: &mut StdRng) -> anyhow::Result<Vec<BuiltStripe>> {
        let template = StripeTemplate {
            vault: self.vault,
            copyset: self.set.copyset,
            purpose: Purpose::Data,
            k: self.shape.k,
            n: self.shape.n,
            generation: 1,
            seat: 0,
        };
        let recipients = [self.certificate.sealing];
        let packs = assembler.flush(rng)?;
        let built =
            packs.into_iter().map(|pack| build(pack, &template, &recipients, &self.writer, &self.id_key, &self.buffers, rng));
        Ok(built.collect::<Result<_, _>>()?)
    }

    /// A head that says where the list of a snapshot lies.
    pub fn head(&self, sequence: u64, previous: Option<RecordHash>, list: (ChunkId, Place)) -> Signed<Head> {
        let mut w = Writer::default();
        list.0.put(&mut w);
        list.1.put(&mut w);
        let sealed = Bytes(w.finish());
        let head = Head { writer: self.certificate.clone(), sequence, previous, written_at: sequence, keys: Vec::new(), sealed };
        Signed::new(head, &[&self.writer])
    }

    /// Whether the vault's writer signed a stripe.
    pub fn signed(&self, stripe: &Signed<Stripe>) -> bool {
        stripe.signed_by(&self.writer.public())
    }
}

/// Where the list of a head's snapshot lies.
pub fn list_of(head: &Head) -> Option<(ChunkId, Place)> {
    let mut r = Reader::new(&head.sealed.0);
    Some((ChunkId::take(&mut r).ok()?, Place::take(&mut r).ok()?))
}

/// Files by name, each with how often it has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, (u64, Vec<u8>)>);

impl Files {
    /// Changes, adds and removes some.
    #[must_use]
    pub fn changed(&self, rng: &mut StdRng) -> Self {
        let mut files = self.clone();
        for _ in 0..rng.random_range(1..4) {
            let name = format!("file {}", rng.random_range(0..6));
            if rng.random_range(0..6) == 0 {
                files.0.remove(&name);
                continue;
            }
            let mut bytes = vec![0; rng.random_range(0..3000)];
            rng.fill_bytes(&mut bytes);
            let file = files.0.entry(name).or_default();
            file.0 += 1;
            // What was in front stays: its chunks are known.
            file.1.truncate(2048);
            file.1.extend(bytes);
            file.1.truncate(6000);
        }
        files
    }
}

/// What `stat` says of a file.
pub fn stat_of((version, bytes): &(u64, Vec<u8>)) -> StatKey {
    let time = backmesh_format::catalogue::FileTime { seconds: *version as i64, nanoseconds: 5 };
    StatKey { size: bytes.len() as u64, modified: time, changed: time, inode: 77, device: 1 }
}

/// The chunks of a file.
pub fn chunks_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(2048)
}

/// A list of a snapshot: the files, and where their chunks lie.
pub type List = BTreeMap<String, Vec<(ChunkId, Place)>>;

/// A list as bytes.
pub fn list_bytes(list: &List) -> Vec<u8> {
    let mut w = Writer::default();
    w.varint(list.len() as u64);
    for (name, chunks) in list {
        name.put(&mut w);
        chunks.iter().map(|(id, _)| *id).collect::<Vec<_>>().put(&mut w);
        chunks.iter().for_each(|(_, place)| place.put(&mut w));
    }
    w.finish()
}

/// A list from bytes.
///
/// # Errors
/// Where they are none.
pub fn list_from(bytes: &[u8]) -> anyhow::Result<List> {
    let mut r = Reader::new(bytes);
    let count = r.varint_max("count of files", 1000)?;
    let mut file = || {
        let (name, ids) = (String::take(&mut r)?, Vec::<ChunkId>::take(&mut r)?);
        let chunks = ids.into_iter().map(|id| Ok((id, Place::take(&mut r)?)));
        Ok((name, chunks.collect::<anyhow::Result<_>>()?))
    };
    (0..count).map(|_| file()).collect()
}

/// A frame of one chunk.
pub fn frame_of(id: ChunkId, bytes: &[u8]) -> FrameDraft {
    let mut draft = FrameDraft::default();
    draft.push(id, bytes);
    draft
}

/// A pack from good shards of its stripe, `None` where there are too few.
pub fn pack_of(stripe: &Stripe, mut shards: Vec<Option<Vec<u8>>>) -> Option<Vec<u8>> {
    let k = usize::from(stripe.k);
    let missing: Vec<usize> = (0..k).filter(|shard| shards[*shard].is_none()).collect();
    rebuild(k, &mut shards, &missing).ok()?;
    join(stripe.class, stripe.k, &shards).ok()
}

/// A pack that was put together, with what opens it.
pub struct Opened {
    stripe: Signed<Stripe>,
    key: PackKey,
    bytes: Vec<u8>,
}

impl Opened {
    /// Opens a pack.
    ///
    /// # Errors
    /// Where it is not sealed to this vault.
    pub fn new(keys: &Keys, stripe: Signed<Stripe>, bytes: Vec<u8>) -> anyhow::Result<Self> {
        let name = stripe.hash().0;
        let known = KEYS.with_borrow(|read| read.get(&name).cloned());
        let key = match known {
            Some(key) => key,
            None => open_any_key(&stripe.keys, &keys.unsealing)?,
        };
        KEYS.with_borrow_mut(|read| read.insert(name, key.clone()));
        Ok(Self { stripe, key, bytes })
    }

    /// A chunk of it.
    ///
    /// # Errors
    /// Where the bytes are not what was packed.
    pub fn chunk(&self, keys: &Keys, id: &ChunkId, place: &Place) -> anyhow::Result<Vec<u8>> {
        let at = place.at.frame_offset as usize..(place.at.frame_offset + place.at.frame_sealed_bytes) as usize;
        let sealed = self.bytes.get(at).ok_or_else(|| anyhow::anyhow!("a frame lies outside its pack"))?;
        let frame = open_frame(&self.key, &self.stripe.pack, place.at.frame, sealed)?;
        Ok(chunk_in(&frame, &place.at, id, &keys.id_key)?.to_vec())
    }
}

/// Records whose signatures were compared, by their bytes: that is most of the work of a case, and not what it is about.
type Read<T> = RefCell<HashMap<[u8; 32], T>>;

thread_local! {
    static STRIPES: Read<Signed<Stripe>> = RefCell::default();
    static HEADS: Read<Signed<Head>> = RefCell::default();
    static KEYS: Read<PackKey> = RefCell::default();
}

/// A stripe's record from its bytes; none where they are none, or signed by nobody.
pub fn stripe_from(bytes: &[u8]) -> Option<Signed<Stripe>> {
    STRIPES.with(|read| read_once(read, bytes))
}

/// A head from its bytes; none where they are none, or signed by nobody.
pub fn head_from(bytes: &[u8]) -> Option<Signed<Head>> {
    HEADS.with(|read| read_once(read, bytes))
}

fn read_once<T: Wire + Clone>(read: &Read<T>, bytes: &[u8]) -> Option<T> {
    let name = *blake3::hash(bytes).as_bytes();
    if let Some(known) = read.borrow().get(&name) {
        return Some(known.clone());
    }
    let record = T::from_wire(bytes).ok()?;
    read.borrow_mut().insert(name, record.clone());
    Some(record)
}

/// Forgets what was read, now and then.
pub fn forget_read() {
    if KEYS.with_borrow(HashMap::len) > 500 {
        STRIPES.with_borrow_mut(HashMap::clear);
        HEADS.with_borrow_mut(HashMap::clear);
        KEYS.with_borrow_mut(HashMap::clear);
    }
}
