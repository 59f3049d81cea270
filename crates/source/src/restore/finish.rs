//! The end of a restore: other names of files, then folders from the deepest up, then the disk.

use std::io;

use backmesh_format::Wire;
use backmesh_format::catalogue::Entry;

use super::{FirstName, RestoreError, RestoreWriter, Shared};
use crate::os;

/// How a restore ended.
#[derive(Debug, Default)]
pub struct Finished {
    /// What is missing, or not as it was.
    pub problems: Vec<RestoreError>,
    /// Entries that belong to whoever restored them, because only root can give files away.
    pub owners_not_set: u64,
    /// Labels of the system's security that only root can set.
    pub labels_not_set: u64,
    /// Entries without the file system's flags that they had: the file system there has no such flags, or only root may set them.
    pub flags_not_set: u64,
    /// Entries without extended attributes or access control lists that they had, because the file system there keeps none.
    pub attributes_not_set: u64,
    /// Names that became files of their own, because there are too many files with several names.
    pub names_apart: u64,
    /// Problems beyond the first 1,000, which are not among them.
    pub problems_untold: u64,
}

/// Problems at the end of a restore that are told one by one.
const PROBLEMS_MAX: usize = 1000;

/// Problems, of which the first are kept.
#[derive(Debug, Default)]
struct Problems {
    first: Vec<RestoreError>,
    untold: u64,
}

impl Problems {
    fn push(&mut self, problem: RestoreError) {
        if self.first.len() < PROBLEMS_MAX { self.first.push(problem) } else { self.untold += 1 }
    }

    fn extend(&mut self, problems: impl IntoIterator<Item = RestoreError>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

impl RestoreWriter {
    /// Makes the other names of files, sets the metadata of folders, and waits for the disk. To be called when every [`super::FileSink`]
    /// is finished.
    pub fn finish(self) -> Finished {
        let mut problems = Problems::default();
        if !self.shared.options.dry_run {
            self.shared.put_links(&mut problems);
            self.shared.finish_folders(&mut problems);
            self.shared.pin(&mut problems);
            self.shared.sync(&mut problems);
        }
        let state = self.shared.state();
        Finished {
            problems: problems.first,
            problems_untold: problems.untold,
            names_apart: state.names_apart,
            owners_not_set: state.owners_not_set,
            labels_not_set: state.labels_not_set,
            flags_not_set: state.flags_not_set,
            attributes_not_set: state.attributes_not_set,
        }
    }
}

impl Shared {
    fn put_links(&self, problems: &mut Problems) {
        let (groups, links) = {
            let mut state = self.state();
            (std::mem::take(&mut state.groups), std::mem::take(&mut state.links))
        };
        let ended = links.forwards(|piece| {
            let Some((group, key)) = piece.split_first_chunk() else { return };
            let made = groups.get(&u64::from_le_bytes(*group)).map_or(Ok(()), |first| self.put_link(first, key));
            problems.extend(made.err());
        });
        problems.extend(ended.err().map(|error| self.lost(error)));
    }

    /// What was set aside for the end cannot be read.
    fn lost(&self, error: io::Error) -> RestoreError {
        RestoreError::Target { path: self.path.clone(), error }
    }

    fn put_link(&self, first: &FirstName, key: &[u8]) -> Result<(), RestoreError> {
        let is_ready = first.is_ready;
        let (first, place) = (self.place(&first.key)?, self.place(key)?);
        let missing = || RestoreError::LinkMissing { path: place.path(), first: first.path() };
        let source = self.parent(&first, false)?.ok_or_else(missing)?;
        let stat = os::stat_at(&*source, &first.name).map_err(|_| missing())?;
        if !is_ready || stat.is_folder() {
            return Err(missing());
        }
        if self.there(&place)?.is_some_and(|there| there.is_same_file(&stat)) {
            return Ok(());
        }
        let parent = self.made_parent(&place)?;
        let make = |name: &[u8]| os::link(&*source, &first.name, &*parent, name);
        self.put_named(&place, &parent, make, |error| place.io("make another name of the file", error), |_| Ok(()))
    }

    /// The deepest first: a folder that nobody may enter would hide those below it. They came in the order of the catalogue, in which
    /// a folder stands before those in it.
    fn finish_folders(&self, problems: &mut Problems) {
        let folders = std::mem::take(&mut self.state().folders);
        let mut each = |piece: &[u8]| {
            let Some((length, rest)) = piece.split_first_chunk() else { return };
            let (key, entry) = rest.split_at((u32::from_le_bytes(*length) as usize).min(rest.len()));
            match Entry::from_wire(entry).map_err(RestoreError::from).and_then(|entry| self.finish_folder(key, &entry)) {
                Ok(found) => problems.extend(found),
                Err(error) => problems.push(error),
            }
        };
        if folders.is_small() {
            // What was asked for may be a folder, and then one that it lies in.
            let mut all: Vec<Vec<u8>> = Vec::new();
            let ended = folders.forwards(|piece| all.push(piece.to_vec()));
            all.sort_unstable_by(|a, b| b.get(4..).cmp(&a.get(4..)));
            all.iter().for_each(|piece| each(piece));
            problems.extend(ended.err().map(|error| self.lost(error)));
            return;
        }
        let ended = folders.backwards(&mut each);
        problems.extend(ended.err().map(|error| self.lost(error)));
    }

    fn finish_folder(&self, key: &[u8], entry: &Entry) -> Result<Vec<RestoreError>, RestoreError> {
        let place = self.place(key)?;
        let Some(parent) = self.parent(&place, false)? else { return Ok(Vec::new()) };
        match os::folder_at(&*parent, &place.name, true) {
            Ok(folder) => {
                if os::is_pinned(entry.flags) {
                    let piece = [&entry.flags.to_le_bytes()[..], key].concat();
                    let set_aside = self.state().pinned.push(&piece, || self.nameless());
                    set_aside.map_err(|error| place.metadata("the file system's flags", error))?;
                }
                Ok(self.metadata(&place, &folder, entry))
            }
            Err(error) => Err(place.metadata("the folder's mode and times", error)),
        }
    }

    fn pin(&self, problems: &mut Problems) {
        let pinned = std::mem::take(&mut self.state().pinned);
        let ended = pinned.forwards(|piece| {
            let Some((flags, key)) = piece.split_first_chunk() else { return };
            problems.extend(self.pin_one(key, u32::from_le_bytes(*flags)).err());
        });
        problems.extend(ended.err().map(|error| self.lost(error)));
    }

    fn pin_one(&self, key: &[u8], flags: u32) -> Result<(), RestoreError> {
        let place = self.place(key)?;
        let Some(parent) = self.parent(&place, false)? else { return Ok(()) };
        let file = os::open_file_at(Some(&parent), &place.name);
        let set = match file.and_then(|file| os::set_flags_pinned(&file, flags)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !self.is_root => false,
            set => set.map_err(|error| place.metadata("the file system's flags", error))?,
        };
        self.state().flags_not_set += u64::from(!set);
        Ok(())
    }

    fn sync(&self, problems: &mut Problems) {
        if let Some(folders) = self.folders.as_ref().filter(|_| self.options.sync)
            && let Err(error) = os::sync_file_system(&**folders.root())
        {
            problems.push(RestoreError::Target { path: self.path.clone(), error });
        }
    }
}
