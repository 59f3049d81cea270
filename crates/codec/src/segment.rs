//! Segments of the index: from rows in id order to pages and a root, and back. What pages look like is in
//! [`backmesh_format::index`] and docs/format.md.
//!
//! A root names pages by place, and places are known once packs are sealed. So writing takes three steps:
//!
//! 1. [`SegmentWriter`] takes the rows and gives pages to a sink, which stores each as a chunk and names it; then the caller
//!    flushes its packs.
//! 2. [`PagedSegment::root_page`] asks where each page came to lie and gives the root's bytes; the caller stores them as one more
//!    chunk and flushes again.
//! 3. [`PagedSegment::segment_ref`] makes what the head names, from the root's id and place.
//!
//! Pages of a segment are found by place and need no rows themselves.
//!
//! Reading: [`SegmentReader`] for one segment, [`Segments`] for all that a head names, the newest first. [`plan_merge`] says
//! which to write as one.

mod merge;
mod read;
mod several;
#[cfg(test)]
mod tests;
mod write;

pub use merge::{MERGE_FAN, SEGMENT_ROWS_MAX, plan_merge};
pub use read::{PlacedPages, SegmentReader};
pub use several::{Found, Rows, Segments};
pub use write::{PagedSegment, RootError, SegmentError, SegmentWriter};

use backmesh_format::index::{FramePlace, PackPlace, Place, RowId};

/// A row with its pack: half of a chunk's id, and where the chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRow {
    /// The chunk; [`backmesh_format::index::row_id`] makes it of a whole id.
    pub id: RowId,
    /// The pack.
    pub pack: PackPlace,
    /// Where in it.
    pub at: FramePlace,
}

impl SegmentRow {
    /// Where the chunk lies.
    pub fn place(&self) -> Place {
        Place { pack: self.pack, at: self.at }
    }
}
