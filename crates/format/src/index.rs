//! The index: which chunk lies where. Runs of rows sorted by id (*segments*), cut into pages, which are themselves chunks in packs.
//!
//! A segment's root names its pages by place, not by id, so that a lookup needs nothing but the head: root, then one page of rows,
//! then one page of packs. Numbers inside pages are varints ([`crate::wire::Writer::varint`]).

use crate::id::{ChunkId, CopysetId, PackId};
use crate::pack::SizeClass;
use crate::record::{Record, from_envelope, to_envelope};
use crate::stripe::Purpose;
use crate::wire::{DecodeError, Reader, Wire, Writer};
use crate::{limits, wire_struct};

wire_struct! {
    /// A chunk by name, and its length.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct ChunkRef {
        /// The chunk.
        pub id: ChunkId,
        /// Its length in bytes, at most [`crate::limits::CHUNK_BYTES_MAX`].
        pub bytes: u32,
    }
}

wire_struct! {
    /// Where a pack lies.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct PackPlace {
        /// The pack.
        pub pack: PackId,
        /// Its copyset.
        pub copyset: CopysetId,
        /// Its size.
        pub class: SizeClass,
    }
}

wire_struct! {
    /// Where a chunk lies inside a pack.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct FramePlace {
        /// The number of the frame.
        pub frame: u32,
        /// Where the sealed frame begins in the pack, in bytes.
        pub frame_offset: u32,
        /// The length of the sealed frame, tag included.
        pub frame_sealed_bytes: u32,
        /// Where the chunk begins in the opened, decompressed frame.
        pub offset: u32,
        /// The chunk's length.
        pub bytes: u32,
    }
}

wire_struct! {
    /// Where a chunk lies.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Place {
        /// In which pack.
        pub pack: PackPlace,
        /// Where in it.
        pub at: FramePlace,
    }
}

wire_struct! {
    /// A segment, as a head names it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SegmentRef {
        /// Data for contents of files, catalogue for directory pages, so that browsing needs the small ones only.
        pub purpose: Purpose,
        /// Whose key made the ids: 0 for the vault's own.
        pub domain: u32,
        /// How many rows it has.
        pub rows: u64,
        /// The id of the root page.
        pub root: ChunkId,
        /// Where the root page lies.
        pub place: Place,
    }
}

/// How many bytes of a chunk's id a row keeps. Half of the id finds it; the whole is compared when the chunk is opened.
pub const ROW_ID_BYTES: usize = 16;

/// The first bytes of a chunk's id.
pub type RowId = [u8; ROW_ID_BYTES];

/// What a row keeps of an id.
pub fn row_id(id: &ChunkId) -> RowId {
    let mut row = [0; ROW_ID_BYTES];
    row.copy_from_slice(&id.0[..ROW_ID_BYTES]);
    row
}

/// A row: a chunk, the number of its pack in the segment's pack pages, and where it lies in the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which chunk.
    pub id: RowId,
    /// Which pack.
    pub pack: u32,
    /// Where in it.
    pub at: FramePlace,
}

/// One page of rows, sorted by id, no id twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowPage(pub Vec<Row>);

/// One page of packs: the rows of a segment number them in the order of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackPage(pub Vec<PackPlace>);

/// A page as the root names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef<K> {
    /// The first row's id, or the first pack's number.
    pub first: K,
    /// The number of the pack in [`SegmentRoot::own_packs`].
    pub pack: u32,
    /// Where in it.
    pub at: FramePlace,
    /// The page's id.
    pub id: ChunkId,
}

/// A segment's root page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentRoot {
    /// The packs in which the segment's own pages lie.
    pub own_packs: Vec<PackPlace>,
    /// Its pages of rows, by first id.
    pub rows: Vec<PageRef<RowId>>,
    /// Its pages of packs, by first number.
    pub packs: Vec<PageRef<u32>>,
}

impl RowPage {
    /// The row of a chunk.
    pub fn find(&self, id: &RowId) -> Option<&Row> {
        self.0.binary_search_by(|row| row.id.cmp(id)).ok().map(|at| &self.0[at])
    }
}

impl SegmentRoot {
    /// The page that holds `id`, if the segment holds it at all.
    pub fn row_page(&self, id: &RowId) -> Option<&PageRef<RowId>> {
        self.rows.partition_point(|page| page.first <= *id).checked_sub(1).map(|at| &self.rows[at])
    }

    /// The page that holds pack number `pack`.
    pub fn pack_page(&self, pack: u32) -> Option<&PageRef<u32>> {
        self.packs.partition_point(|page| page.first <= pack).checked_sub(1).map(|at| &self.packs[at])
    }

    /// Where a page lies.
    pub fn place<K>(&self, page: &PageRef<K>) -> Option<Place> {
        self.own_packs.get(page.pack as usize).map(|pack| Place { pack: *pack, at: page.at })
    }
}

fn put_at(at: &FramePlace, w: &mut Writer) {
    for number in [at.frame, at.frame_offset, at.frame_sealed_bytes, at.offset, at.bytes] {
        w.varint(u64::from(number));
    }
}

fn take_at(r: &mut Reader<'_>) -> Result<FramePlace, DecodeError> {
    let at = FramePlace {
        frame: take_u32(r, "frame number")?,
        frame_offset: take_u32(r, "frame offset")?,
        frame_sealed_bytes: take_u32(r, "frame length")?,
        offset: take_u32(r, "chunk offset")?,
        bytes: take_u32(r, "chunk length")?,
    };
    let frame_end = u64::from(at.frame_offset) + u64::from(at.frame_sealed_bytes);
    let chunk_end = u64::from(at.offset) + u64::from(at.bytes);
    if frame_end > limits::PACK_BYTES_MAX || chunk_end > u64::from(limits::FRAME_BYTES_MAX) || at.bytes > limits::CHUNK_BYTES_MAX
    {
        return Err(DecodeError::Invalid("the place of a chunk"));
    }
    Ok(at)
}

fn take_u32(r: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    r.varint_max(what, u64::from(u32::MAX)).map(|number| number as u32)
}

fn put_list<T>(items: &[T], w: &mut Writer, put: impl Fn(&T, &mut Writer)) {
    w.varint(items.len() as u64);
    items.iter().for_each(|item| put(item, w));
}

fn take_list<T>(r: &mut Reader<'_>, take: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
    let count = r.varint()?;
    if count > r.remaining() as u64 {
        return Err(DecodeError::Truncated);
    }
    (0..count).map(|_| take(r)).collect()
}

impl Wire for RowPage {
    fn put(&self, w: &mut Writer) {
        put_list(&self.0, w, |row, w| {
            w.bytes(&row.id);
            w.varint(u64::from(row.pack));
            put_at(&row.at, w);
        });
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let rows = take_list(r, |r| Ok(Row { id: r.array()?, pack: take_u32(r, "pack number")?, at: take_at(r)? }))?;
        if rows.is_sorted_by(|a, b| a.id < b.id) { Ok(Self(rows)) } else { Err(DecodeError::Invalid("the order of rows")) }
    }
}

impl Wire for PackPage {
    fn put(&self, w: &mut Writer) {
        put_list(&self.0, w, Wire::put);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        take_list(r, PackPlace::take).map(Self)
    }
}

fn put_page<K>(page: &PageRef<K>, w: &mut Writer, put_first: impl Fn(&K, &mut Writer)) {
    put_first(&page.first, w);
    w.varint(u64::from(page.pack));
    put_at(&page.at, w);
    page.id.put(w);
}

fn take_page<K>(
    r: &mut Reader<'_>,
    take_first: impl Fn(&mut Reader<'_>) -> Result<K, DecodeError>,
) -> Result<PageRef<K>, DecodeError> {
    Ok(PageRef { first: take_first(r)?, pack: take_u32(r, "pack number")?, at: take_at(r)?, id: ChunkId::take(r)? })
}

impl Wire for SegmentRoot {
    fn put(&self, w: &mut Writer) {
        put_list(&self.own_packs, w, Wire::put);
        put_list(&self.rows, w, |page, w| put_page(page, w, |first, w| w.bytes(first)));
        put_list(&self.packs, w, |page, w| put_page(page, w, |first, w| w.varint(u64::from(*first))));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let root = Self {
            own_packs: take_list(r, PackPlace::take)?,
            rows: take_list(r, |r| take_page(r, |r| r.array()))?,
            packs: take_list(r, |r| take_page(r, |r| take_u32(r, "pack number")))?,
        };
        if root.rows.is_sorted_by(|a, b| a.first < b.first) && root.packs.is_sorted_by(|a, b| a.first < b.first) {
            Ok(root)
        } else {
            Err(DecodeError::Invalid("the order of pages"))
        }
    }
}

impl Record for RowPage {
    const MAGIC: [u8; 4] = *b"BMir";
    const NAME: &'static str = "index page";
}

impl Record for PackPage {
    const MAGIC: [u8; 4] = *b"BMip";
    const NAME: &'static str = "index page of packs";
}

impl Record for SegmentRoot {
    const MAGIC: [u8; 4] = *b"BMis";
    const NAME: &'static str = "index segment";
}

/// Writes any page, as the bytes of its chunk.
pub fn page_bytes<T: Record>(page: &T) -> Vec<u8> {
    to_envelope(page)
}

/// Reads any page from the bytes of its chunk.
///
/// # Errors
/// Whatever is wrong with the bytes.
pub fn page_from_bytes<T: Record>(bytes: &[u8]) -> Result<T, DecodeError> {
    from_envelope(bytes)
}
