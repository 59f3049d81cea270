//! A vault as an attacker with all its keys may write it: packs, index and head are sealed and signed as they should be, and what is in them
//! is up to the test.

use crate::{Group, Node};
use anyhow::{Context, Result, bail, ensure};
use backmesh::state::State;
use backmesh_codec::buffer::Buffers;
use backmesh_codec::frame::FrameDraft;
use backmesh_codec::pack::PackAssembler;
use backmesh_codec::seal::seal_head;
use backmesh_codec::segment::SegmentWriter;
use backmesh_codec::stripe::{StripeTemplate, build};
use backmesh_format::catalogue::{CatalogueRoot, InnerPage, LeafPage};
use backmesh_format::charter::Level;
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{ChunkRef, FramePlace, PackPlace, Place, SegmentRef, page_bytes, row_id};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{Head, HeadBody, Snapshot, System};
use backmesh_format::{Bytes, ChunkId, CopysetId, NodeId, Signed};
use backmesh_mesh::message::{
    Hello, MESH_FRAME_BYTES_MAX, Message, STORE_REPLY_FRAME_BYTES_MAX, Standing, StoreReply, StoreRequest,
};
use backmesh_net::{FrameReader, FrameWriter, Net, NetConfig, Protocol};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// What is written so far.
pub struct Forger {
    state: State,
    body: HeadBody,
    drafts: BTreeMap<ChunkId, (Purpose, Vec<u8>)>,
}

impl Forger {
    /// A member whose vault this is, and whose agent never runs. It is called `impostor`, and so is the file of its phrase.
    ///
    /// # Errors
    /// Where it cannot join.
    pub fn join(group: &Group) -> Result<Self> {
        let blank = group.blank("impostor");
        // Without an address in the token, nobody hears of it.
        let token = group.admin(&["invite"]).expect(0).stdout.trim().to_owned();
        group.join(&blank, &token, "0").expect(0);
        Ok(Self { state: State::open(&blank.state)?, body: HeadBody::default(), drafts: BTreeMap::new() })
    }

    /// Stores the contents of files.
    pub fn chunk(&mut self, bytes: &[u8]) -> ChunkRef {
        self.put(Purpose::Data, bytes.to_vec())
    }

    /// Stores a page, whatever it says.
    pub fn page(&mut self, bytes: Vec<u8>) -> ChunkRef {
        self.put(Purpose::Catalogue, bytes)
    }

    fn put(&mut self, purpose: Purpose, bytes: Vec<u8>) -> ChunkRef {
        let id = self.state.chunk_id_key().expect("the key is there").id(&bytes);
        let length = bytes.len() as u32;
        self.drafts.insert(id, (purpose, bytes));
        ChunkRef { id, bytes: length }
    }

    /// Stores pages of entries under one page of pages; each page is found by its first key.
    pub fn catalogue(&mut self, pages: Vec<LeafPage>) -> CatalogueRoot {
        let named: Vec<_> = pages.iter().map(|page| (page.0[0].0.clone(), self.page(page_bytes(page)))).collect();
        CatalogueRoot { page: self.page(page_bytes(&InnerPage(named))), height: 1 }
    }

    /// Adds a snapshot, as old as there are snapshots behind it.
    pub fn snapshot(&mut self, host: &str, root: Option<CatalogueRoot>, roots: &[&[u8]]) {
        let started_at = 1_700_000_000_000 + 1000 * self.body.snapshots.len() as u64;
        self.body.snapshots.push(Snapshot {
            started_at,
            finished_at: u64::MAX,
            seat: 0,
            host: host.to_owned(),
            system: System::Unix,
            roots: roots.iter().map(|root| Bytes(root.to_vec())).collect(),
            catalogue: root,
            files: u64::MAX,
            entries: u64::MAX,
            bytes: u64::MAX,
            bytes_added: u64::MAX,
            problems: u64::MAX,
            tags: vec!["\x1b[31m".to_owned()],
        });
    }

    /// Seals and signs all of it, and brings it to a holder, who keeps it for what it claims to be.
    ///
    /// # Errors
    /// Where the holder refuses.
    pub fn send(&mut self, holder: &Node) -> Result<()> {
        let address = holder.address();
        Runtime::new()?.block_on(async {
            let mut line = Line::open(&self.state, &address).await?;
            for (purpose, copyset) in [(Purpose::Data, CopysetId([7; 32])), (Purpose::Catalogue, CopysetId([8; 32]))] {
                let chunks: Vec<_> = self.drafts.iter().filter(|(_, (of, _))| *of == purpose).collect();
                let chunks: Vec<_> = chunks.into_iter().map(|(id, (_, bytes))| (*id, bytes.clone())).collect();
                let mut rows = line.store(&self.state, purpose, copyset, chunks).await?;
                rows.sort_by_key(|(id, _)| row_id(id));
                let segment = line.segment(&self.state, purpose, rows).await?;
                self.body.segments.extend(segment);
            }
            line.head(&self.state, &self.body).await
        })
    }
}

/// A connection to the holder.
struct Line {
    net: Net,
    holder: NodeId,
    calls: u64,
    announced: Vec<CopysetId>,
    _greeted: (FrameReader, FrameWriter),
}

impl Line {
    async fn open(state: &State, address: &str) -> Result<Self> {
        let mut config = NetConfig::new(state.node_key()?);
        config.listen = Vec::new();
        let (net, mut events) = Net::start(config).await?;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let holder = net.dial(address, None).await?;
        let (mut reader, mut writer) = net.open(holder, Protocol::Mesh).await?.split();
        let hello = Hello {
            program: "forger".to_owned(),
            workgroup: state.charter()?.workgroup_id(),
            certificate: Some(state.certificate()?),
            admissions: Vec::new(),
            charter: Some(state.charter()?),
            observed: String::new(),
        };
        writer.send(&Message::Hello(Box::new(hello)).encode()).await?;
        writer.flush().await?;
        loop {
            let frame = timeout(PATIENCE, reader.next(MESH_FRAME_BYTES_MAX)).await??.context("the stream ended")?;
            match Message::decode(&frame)? {
                Message::Welcome { standing } => {
                    ensure!(standing == Standing::Accepted, "{standing:?}");
                    return Ok(Self { net, holder, calls: 0, announced: Vec::new(), _greeted: (reader, writer) });
                }
                Message::Refused { text, .. } => bail!("not welcome: {text}"),
                _ => {}
            }
        }
    }

    async fn ask(&mut self, request: impl FnOnce(u64) -> StoreRequest) -> Result<()> {
        let (mut reader, mut writer) = self.net.open(self.holder, Protocol::Store).await?.split();
        self.calls += 1;
        let request = request(self.calls);
        let (fields, tail) = request.encode_parts();
        writer.send_parts(&[&fields, tail]).await?;
        writer.flush().await?;
        let frame = timeout(PATIENCE, reader.next(STORE_REPLY_FRAME_BYTES_MAX)).await??.context("no reply")?;
        match StoreReply::decode(&frame)? {
            StoreReply::Done { .. } => Ok(()),
            StoreReply::Refused { text, reason, .. } => bail!("refused: {reason:?}: {text}"),
        }
    }

    /// Packs chunks, each in a frame of its own, and stores the packs; where each chunk lies.
    async fn store(
        &mut self,
        state: &State,
        purpose: Purpose,
        copyset: CopysetId,
        chunks: Vec<(ChunkId, Vec<u8>)>,
    ) -> Result<Vec<(ChunkId, Place)>> {
        let (key, writer, id_key) = (state.writer_key()?, state.writer()?, state.chunk_id_key()?);
        if !self.announced.contains(&copyset) {
            let plan = Copyset {
                writer: writer.clone(),
                copyset,
                sequence: 1,
                purpose,
                level: Level::Standard,
                k: 1,
                slots: vec![self.holder],
                slot_bytes_max: 1 << 30,
                closed: false,
            };
            let plan = Box::new(Signed::new(plan, &[&key]));
            self.ask(|call| StoreRequest::Copyset { call, copyset: plan }).await?;
            self.announced.push(copyset);
        }
        let mut packs = PackAssembler::new(SizeClass::M16, 4096)?;
        for (id, bytes) in chunks {
            let mut draft = FrameDraft::default();
            draft.push(id, &bytes);
            packs.push(draft)?;
        }
        let mut places = Vec::new();
        let template =
            StripeTemplate { vault: writer.vault, copyset, purpose, k: 1, n: 1, generation: writer.generation, seat: 0 };
        for pack in packs.flush(&mut rand::rng())? {
            let (pack_id, class) = (pack.id, pack.class);
            let built = build(pack, &template, &[writer.sealing], &key, &id_key, &Buffers::default(), &mut rand::rng())?;
            let place = PackPlace { pack: pack_id, copyset, class };
            places.extend(built.chunks.iter().map(|(id, at): &(ChunkId, FramePlace)| (*id, Place { pack: place, at: *at })));
            let (stripe, bytes) = (Box::new(built.record), built.shards[0].to_vec());
            self.ask(|call| StoreRequest::Shard { call, shard: 0, stripe, bytes }).await?;
        }
        Ok(places)
    }

    /// Writes a segment of the index that names these chunks.
    async fn segment(&mut self, state: &State, purpose: Purpose, rows: Vec<(ChunkId, Place)>) -> Result<Option<SegmentRef>> {
        let id_key = state.chunk_id_key()?;
        let mut pages: Vec<(ChunkId, Vec<u8>)> = Vec::new();
        let put = |pages: &mut Vec<(ChunkId, Vec<u8>)>, bytes: Vec<u8>| {
            let chunk = ChunkRef { id: id_key.id(&bytes), bytes: bytes.len() as u32 };
            pages.push((chunk.id, bytes));
            Ok::<_, std::convert::Infallible>(chunk)
        };
        let mut writer = SegmentWriter::new();
        for (id, place) in rows {
            writer.push(&id, place.pack, place.at, |bytes| put(&mut pages, bytes)).ok().context("a row")?;
        }
        let paged = writer.finish(|bytes| put(&mut pages, bytes)).ok().context("the end of a segment")?;
        let Some(paged) = paged else { return Ok(None) };
        let placed: BTreeMap<_, _> =
            self.store(state, Purpose::Catalogue, CopysetId([8; 32]), pages).await?.into_iter().collect();
        let root = paged.root_page(|id| placed.get(id).copied())?;
        let root = (id_key.id(&root), root);
        let at = self.store(state, Purpose::Catalogue, CopysetId([8; 32]), vec![root.clone()]).await?;
        let (_, place) = at.into_iter().next().context("the root of a segment lies somewhere")?;
        Ok(Some(paged.segment_ref(purpose, 0, root.0, place)))
    }

    async fn head(&mut self, state: &State, body: &HeadBody) -> Result<()> {
        let (key, writer) = (state.writer_key()?, state.writer()?);
        let (keys, sealed) = seal_head(body, &writer, 1, &[writer.sealing], &mut rand::rng())?;
        let head = Head { writer, sequence: 1, previous: None, written_at: 1, keys, sealed };
        let head = Box::new(Signed::new(head, &[&key]));
        self.ask(|call| StoreRequest::Head { call, head }).await
    }
}
