//! The index in the mesh, compared row by row with the local one: both are in the order of the ids.

use super::Check;
use crate::library::Library;
use crate::serve::failed;
use crate::vault::Listed;
use backmesh_control::{Failure, Phase, Progress};
use backmesh_format::stripe::Purpose;
use std::collections::HashMap;

impl Check<'_> {
    /// The segments that this machine wrote. Those of an earlier one were read where their packs were listed.
    pub(super) fn index(&mut self, library: &mut Library) -> Result<(), Failure> {
        for purpose in [Purpose::Catalogue, Purpose::Data] {
            for listed in self.node.vault.segments(purpose).into_iter().filter(|listed| listed.local) {
                let different = self.segment(library, purpose, &listed)?;
                if different > 0 {
                    self.problem(format!(
                        "the index differs from the local one in {different} rows: a recovery with the phrase may miss chunks"
                    ));
                }
            }
        }
        Ok(())
    }

    fn segment(&mut self, library: &mut Library, purpose: Purpose, listed: &Listed) -> Result<u64, Failure> {
        let range = listed.first_pack..listed.end_pack;
        let packs = self.node.index.packs(range.clone()).map_err(failed)?;
        let packs: HashMap<u32, _> = packs.iter().map(|pack| (pack.number, pack.place)).collect();
        let node = self.node.clone();
        let mut local = node.index.rows(range, purpose).map_err(failed)?;
        let mut segments = library.segments(vec![listed.reference.clone()]);
        let (mut different, mut count) = (0, 0);
        for row in segments.rows() {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    self.unreadable("a part of the index", &error);
                    return Ok(different);
                }
            };
            // Rows without a pack were forgotten since: they were never written either.
            let here = loop {
                match local.next().transpose().map_err(failed)? {
                    Some(here) if !packs.contains_key(&here.pack) => {}
                    here => break here,
                }
            };
            let same = here.is_some_and(|here| {
                backmesh_format::index::row_id(&here.id) == row.id
                    && packs.get(&here.pack) == Some(&row.pack)
                    && here.at == row.at
            });
            different += u64::from(!same);
            count += 1;
            if count % 4096 == 0 {
                self.go_on()?;
                self.tell(|| Progress { files: count, ..Progress::new(Phase::Comparing).with_message("the index") });
            }
        }
        self.result.index_rows += count;
        Ok(different)
    }
}
