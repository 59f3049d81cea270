//! The index in the mesh, compared row by row with the local one: both are in the order of the ids.

use super::Check;
use crate::library::Library;
use crate::node::Node;
use crate::serve::failed;
use crate::vault::Listed;
use backmesh_codec::segment::SegmentRow;
use backmesh_control::{Failure, Phase, Progress};
use backmesh_format::index::row_id;
use backmesh_format::stripe::Purpose;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

impl Check<'_> {
    /// The segments that this machine wrote, and the packs that are in none. Those of an earlier machine, or of another copy of this
    /// state, were read where their packs were listed.
    pub(super) fn index(&mut self, library: &mut Library) -> Result<(), Failure> {
        for purpose in [Purpose::Catalogue, Purpose::Data] {
            let mut different = 0;
            let listed = self.node.vault.segments(purpose);
            for gap in gaps(&listed) {
                for row in local_rows(self.node, gap, purpose)? {
                    row?;
                    different += 1;
                }
            }
            for listed in listed.iter().filter(|listed| listed.local) {
                different += self.segment(library, purpose, listed)?;
            }
            if different > 0 {
                self.problem(format!(
                    "the index differs from the local one in {different} rows: a recovery with the phrase may miss chunks"
                ));
            }
        }
        Ok(())
    }

    /// How many rows of a segment are not as they are here.
    fn segment(&mut self, library: &mut Library, purpose: Purpose, listed: &Listed) -> Result<u64, Failure> {
        let here = local_rows(self.node, listed.first_pack..listed.end_pack, purpose)?;
        let mut segments = library.segments(vec![listed.reference.clone()]);
        let (mut rows, mut unreadable) = (0, None);
        let there = segments.rows().map_while(|row| {
            rows += 1;
            if rows % 4096 == 0 {
                if let Err(stopped) = self.go_on() {
                    return Some(Err(stopped));
                }
                self.tell(|| Progress { files: rows, ..Progress::new(Phase::Comparing).with_message("the index") });
            }
            row.map(Ok).map_err(|error| unreadable = Some(error)).ok()
        });
        let different = differences(there, here)?;
        self.result.index_rows += rows;
        Ok(match unreadable {
            // What comes after it is unknown, and no difference.
            Some(error) => {
                self.unreadable("a part of the index", &error);
                0
            }
            None => different,
        })
    }
}

/// The packs before each segment that is written here which are in none.
fn gaps(listed: &[Listed]) -> Vec<Range<u32>> {
    let (mut indexed_to, mut gaps) = (0, Vec::new());
    for listed in listed {
        if listed.local && indexed_to < listed.first_pack {
            gaps.push(indexed_to..listed.first_pack);
        }
        indexed_to = indexed_to.max(listed.end_pack);
    }
    gaps
}

/// The rows of some packs in the local index, without those whose pack was forgotten since: no segment has them either.
fn local_rows(
    node: &Node,
    range: Range<u32>,
    purpose: Purpose,
) -> Result<impl Iterator<Item = Result<SegmentRow, Failure>> + '_, Failure> {
    let packs = node.index.packs(range.clone()).map_err(failed)?;
    let packs: HashMap<u32, _> = packs.iter().map(|pack| (pack.number, pack.place)).collect();
    let rows = node.index.rows(range, purpose).map_err(failed)?;
    Ok(rows.filter_map(move |row| match row {
        Ok(row) => packs.get(&row.pack).map(|pack| Ok(SegmentRow { id: row_id(&row.id), pack: *pack, at: row.at })),
        Err(error) => Some(Err(failed(error))),
    }))
}

/// In how many rows two lists differ that are sorted by id: those that only one has, and those that are not the same in both.
fn differences<E>(
    mut there: impl Iterator<Item = Result<SegmentRow, E>>,
    mut here: impl Iterator<Item = Result<SegmentRow, E>>,
) -> Result<u64, E> {
    let mut different = 0;
    let (mut left, mut right) = (there.next().transpose()?, here.next().transpose()?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(different),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.id.cmp(&right.id),
        };
        different += u64::from(left != right);
        if order.is_le() {
            left = there.next().transpose()?;
        }
        if order.is_ge() {
            right = here.next().transpose()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::index::{FramePlace, PackPlace};
    use backmesh_format::pack::SizeClass;
    use backmesh_format::{CopysetId, PackId};
    use std::convert::Infallible;

    fn row(number: u8) -> SegmentRow {
        let pack = PackPlace { pack: PackId([9; 32]), copyset: CopysetId([8; 32]), class: SizeClass::K4 };
        let at = FramePlace { frame: number.into(), frame_offset: 0, frame_sealed_bytes: 99, offset: 0, bytes: 9 };
        SegmentRow { id: [number; 16], pack, at }
    }

    #[test]
    fn packs_of_segments_that_were_taken_over_are_in_those() {
        let root = backmesh_format::ChunkId([1; 32]);
        let place = backmesh_format::index::Place { pack: row(1).pack, at: row(1).at };
        let reference = backmesh_format::index::SegmentRef { purpose: Purpose::Data, domain: 0, rows: 1, root, place };
        let listed = |first_pack, end_pack, local| Listed { reference: reference.clone(), first_pack, end_pack, local };
        assert_eq!(gaps(&[listed(0, 50, false), listed(0, 0, false), listed(50, 60, true)]), []);
        let mixed =
            [listed(5, 50, false), listed(40, 45, true), listed(60, 70, true), listed(70, 80, true), listed(82, 90, true)];
        assert_eq!(gaps(&mixed), [50..60, 80..82]);
    }

    fn compare(there: &[SegmentRow], here: &[SegmentRow]) -> u64 {
        fn rows(rows: &[SegmentRow]) -> impl Iterator<Item = Result<SegmentRow, Infallible>> + '_ {
            rows.iter().copied().map(Ok)
        }
        differences(rows(there), rows(here)).unwrap()
    }

    #[test]
    fn a_row_that_one_side_lacks_is_one_difference_wherever_it_is() {
        let all: Vec<SegmentRow> = (0..9).map(row).collect();
        assert_eq!(compare(&all, &all), 0);
        for missing in 0..all.len() {
            let mut some = all.clone();
            some.remove(missing);
            assert_eq!((compare(&some, &all), compare(&all, &some)), (1, 1), "row {missing}");
            let mut other = all.clone();
            other[missing].pack.pack = PackId([7; 32]);
            assert_eq!(compare(&other, &all), 1, "row {missing}");
        }
        assert_eq!((compare(&[], &all), compare(&all[..4], &all), compare(&all[..4], &all[4..])), (9, 5, 9));
    }
}
