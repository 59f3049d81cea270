//! Owners, modes, times, attributes: what an entry has beside its contents.

use std::io;

use backmesh_format::catalogue::{Entry, Kind};

use super::place::Place;
use super::sink::with_temporary_name;
use super::{RestoreError, Shared, extras};
use crate::os::{self, Handle, Opened};
use crate::stat::{FileKind, Stat};

/// Where metadata goes: an open file, or a name in a folder for what cannot be opened.
enum Onto<'a, F: Opened> {
    File(&'a F),
    Name(&'a Handle, &'a [u8]),
}

impl<F: Opened> Onto<'_, F> {
    fn stat(&self) -> io::Result<Stat> {
        match self {
            Self::File(file) => os::stat_of(file),
            Self::Name(folder, name) => os::stat_at(folder, name),
        }
    }
    fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match self {
            Self::File(file) => os::chown(file, uid, gid),
            Self::Name(folder, name) => os::chown_at(folder, name, uid, gid),
        }
    }
    fn chmod(&self, mode: u16) -> io::Result<()> {
        match self {
            Self::File(file) => os::chmod(file, mode),
            Self::Name(folder, name) => os::chmod_at(folder, name, mode),
        }
    }
    fn set_modified(&self, entry: &Entry) -> io::Result<()> {
        match self {
            Self::File(file) => os::set_modified(file, entry.modified),
            Self::Name(folder, name) => os::set_modified_at(folder, name, entry.modified),
        }
    }
    fn list_xattrs(&self) -> io::Result<Vec<Vec<u8>>> {
        match self {
            Self::File(file) => os::list_xattrs(file),
            Self::Name(folder, name) => os::list_xattrs_at(folder, name),
        }
    }
    fn xattr(&self, xattr: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::File(file) => os::xattr(file, xattr),
            Self::Name(folder, name) => os::xattr_at(folder, name, xattr),
        }
    }
    fn set_xattr(&self, xattr: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => os::set_xattr(file, xattr, value),
            Self::Name(folder, name) => os::set_xattr_at(folder, name, xattr, value),
        }
    }
    fn remove_xattr(&self, xattr: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => os::remove_xattr(file, xattr),
            Self::Name(folder, name) => os::remove_xattr_at(folder, name, xattr),
        }
    }
}

impl Shared {
    /// Sets the metadata of an open file or folder. Returns what could not be set.
    pub(super) fn metadata(&self, place: &Place, file: &impl Opened, entry: &Entry) -> Vec<RestoreError> {
        let mut problems = self.metadata_onto(place, &Onto::File(file), entry);
        match os::set_flags(file, entry.flags) {
            Ok(true) => {}
            // What forbids changes comes last, and is counted then.
            Ok(false) if os::is_pinned(entry.flags) => {}
            Ok(false) => self.state().flags_not_set += 1,
            Err(error) => problems.push(place.metadata("the file system's flags", error)),
        }
        problems
    }

    /// Sets the metadata of what lies at `name` beside the place: a link, a pipe or a device.
    pub(super) fn metadata_at(&self, place: &Place, name: &[u8], entry: &Entry) -> Result<Vec<RestoreError>, RestoreError> {
        let parent = self.made_parent(place)?;
        Ok(self.metadata_onto(place, &Onto::<Handle>::Name(&parent, name), entry))
    }

    /// Owner first, because a change of owner takes the setuid bits and capabilities away; attributes before the mode, because a
    /// read-only file takes none; times last.
    fn metadata_onto<F: Opened>(&self, place: &Place, onto: &Onto<'_, F>, entry: &Entry) -> Vec<RestoreError> {
        let mut problems = Vec::new();
        let mut stat = match onto.stat() {
            Ok(stat) => stat,
            Err(error) => return vec![place.metadata("anything", error)],
        };
        let (uid, gid) = self.wanted_owner(entry);
        if (stat.uid, stat.gid) != (uid, gid) {
            match self.give_away(onto, &stat, uid, gid) {
                Ok(()) => {}
                Err(error) if self.is_root => problems.push(place.metadata("the owner", error)),
                Err(_) => self.state().owners_not_set += 1,
            }
            stat = onto.stat().unwrap_or(stat);
        }
        let attributes = self.xattrs(place, onto, entry, &mut problems);
        if attributes.changed {
            // An ACL that was set or removed changes the mode.
            stat = onto.stat().unwrap_or(stat);
        }
        if stat.kind != FileKind::Symlink {
            let mode = attributes.mode(entry.mode);
            let mode = allowed_mode(mode, stat.uid == uid, stat.gid == gid);
            if stat.permissions() != mode
                && let Err(error) = onto.chmod(mode)
            {
                problems.push(place.metadata("the mode", error));
            }
        }
        if stat.key.modified != entry.modified
            && let Err(error) = onto.set_modified(entry)
        {
            problems.push(place.metadata("the time of the last change", error));
        }
        problems
    }

    /// Whose the file should be here.
    fn wanted_owner(&self, entry: &Entry) -> (u32, u32) {
        if self.options.numeric_owners || !self.is_root {
            return (entry.uid, entry.gid);
        }
        let uid = Some(&entry.user).filter(|name| !name.is_empty()).and_then(|name| self.owners.uid(name));
        let gid = Some(&entry.group).filter(|name| !name.is_empty()).and_then(|name| self.owners.gid(name));
        (uid.unwrap_or(entry.uid), gid.unwrap_or(entry.gid))
    }

    /// Anyone may give a file to a group that they are in; only root may give it to someone else.
    fn give_away<F: Opened>(&self, onto: &Onto<'_, F>, stat: &Stat, uid: u32, gid: u32) -> io::Result<()> {
        if stat.uid == uid || self.is_root {
            return onto.chown(Some(uid).filter(|uid| *uid != stat.uid), Some(gid));
        }
        if stat.gid != gid {
            // Worth a try; what counts is that the owner is another.
            let _ = onto.chown(None, Some(gid));
        }
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }

    /// Makes the extended attributes those of the entry.
    fn xattrs<F: Opened>(
        &self,
        place: &Place,
        onto: &Onto<'_, F>,
        entry: &Entry,
        problems: &mut Vec<RestoreError>,
    ) -> Attributes {
        let mut attributes = Attributes::default();
        let there = match onto.list_xattrs() {
            Ok(there) => there,
            Err(error) if entry.xattrs.is_empty() && error.kind() == io::ErrorKind::NotFound => return attributes,
            Err(error) => {
                problems.push(place.metadata("extended attributes", error));
                return attributes;
            }
        };
        let mut not_supported = false;
        let mut check = |name: &[u8], done: io::Result<()>| {
            attributes.changed = true;
            let Err(error) = done else { return };
            if name == ACL {
                attributes.acl_missing = true;
            }
            if !self.is_root && (name.starts_with(b"security.") || name.starts_with(b"trusted.")) {
                self.state().labels_not_set += 1;
            } else if os::is_not_supported(&error) {
                not_supported = true;
            } else {
                problems.push(place.metadata(format!("the extended attribute {}", String::from_utf8_lossy(name)), error));
            }
        };
        for name in there.iter().filter(|name| is_a_persons(name) && entry.xattrs.iter().all(|(wanted, _)| wanted != *name)) {
            check(name, onto.remove_xattr(name));
        }
        for (name, value) in &entry.xattrs {
            let same = there.contains(name) && onto.xattr(name).is_ok_and(|found| found.as_ref() == Some(value));
            if !same {
                check(name, onto.set_xattr(name, value));
            }
        }
        if not_supported {
            self.state().attributes_not_set += 1;
        }
        if attributes.acl_missing {
            let acl = entry.xattrs.iter().find(|(name, _)| name == ACL);
            attributes.group_bits = acl.and_then(|(_, acl)| os::acl_group_bits(acl)).unwrap_or(0);
        }
        attributes
    }

    /// Whether the file that is there may become the entry's by setting its metadata.
    ///
    /// A file with other names may have some outside the target, or names that the snapshot has as files of their own. It is kept only
    /// where nothing at all would change and the snapshot knows it as a file with several names, and for one group of names.
    pub(super) fn may_keep(&self, place: &Place, entry: &Entry, stat: &Stat) -> bool {
        if stat.links <= 1 {
            return true;
        }
        let Some(group) = entry.link_group else { return false };
        let claimed = self.state().claimed.get(&(stat.key.device, stat.key.inode)).copied();
        let (uid, gid) = self.wanted_owner(entry);
        let mine = !self.is_root || (stat.uid, stat.gid) == (uid, gid);
        let alike = mine && stat.permissions() == entry.mode && stat.key.modified == entry.modified;
        alike && claimed.is_none_or(|by| by == group) && self.has_attributes(place, entry).unwrap_or(false)
    }

    /// Whether what is there has the entry's extended attributes and flags, as far as we could set them.
    fn has_attributes(&self, place: &Place, entry: &Entry) -> io::Result<bool> {
        let Some(parent) = self.parent(place, false).ok().flatten() else { return Ok(false) };
        let is_ours = |name: &[u8]| is_a_persons(name) || self.is_root;
        let there = os::list_xattrs_at(&*parent, &place.name)?;
        let is_wanted = |name: &Vec<u8>| !is_a_persons(name) || entry.xattrs.iter().any(|(wanted, _)| wanted == name);
        let mut wanted = entry.xattrs.iter().filter(|(name, _)| is_ours(name));
        let has = |name: &[u8], value: &Vec<u8>| {
            os::xattr_at(&*parent, &place.name, name).is_ok_and(|found| found.as_ref() == Some(value))
        };
        if !there.iter().all(is_wanted) || !wanted.all(|(name, value)| has(name, value)) {
            return Ok(false);
        }
        let file = matches!(entry.kind, Kind::File { .. }).then(|| os::open_file_at(Some(&parent), &place.name).ok());
        Ok(file.flatten().and_then(os::flags_of).is_none_or(|flags| flags == entry.flags))
    }

    /// Sets what differs in the metadata of a file whose contents stay.
    pub(super) fn keep(&self, place: &Place, entry: &Entry) -> Result<Vec<RestoreError>, RestoreError> {
        let parent = self.made_parent(place)?;
        let several = os::stat_at(&*parent, &place.name).is_ok_and(|stat| stat.links > 1);
        match os::open_file_at(Some(&parent), &place.name) {
            _ if several => Ok(Vec::new()),
            Ok(file) if os::stat_of(&file).is_ok_and(|stat| stat.is_file() && stat.links <= 1) => {
                let problems = self.metadata(place, &file, entry);
                // What forbids changes forbids these too; it is set again at the end where the entry has it.
                let flags = os::flags_of(&file).filter(|flags| os::is_pinned(*flags)).unwrap_or(0);
                let in_the_way = flags != 0 && !(problems.is_empty() && os::is_pinned_alike(flags, entry.flags));
                if in_the_way && os::clear_flags_pinned(&file) {
                    return Ok(self.metadata(place, &file, entry));
                }
                Ok(problems)
            }
            Ok(_) => Err(RestoreError::NotAFile { path: place.path() }),
            // A file that we may not read may still be ours.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.metadata_at(place, &place.name, entry),
            Err(error) => Err(place.io("open the file that is there", error)),
        }
    }

    /// Makes a folder, or takes the one that is there; its metadata comes at the end.
    pub(super) fn put_folder(
        &self,
        place: &Place,
        entry: &Entry,
        there: Option<&Stat>,
    ) -> Result<Vec<RestoreError>, RestoreError> {
        debug_assert!(matches!(entry.kind, Kind::Directory));
        let parent = self.made_parent(place)?;
        match there {
            Some(stat) if stat.is_folder() => {
                // A folder that is not ours may still let us in; if not, what is in it says so.
                let _ = os::writable_at(&*parent, &place.name);
                // One that forbids changes is opened for them, and closed at the end where the entry has it so.
                if let Ok(folder) = os::folder_at(&*parent, &place.name, true) {
                    if os::flags_of(&folder).is_some_and(os::is_pinned) {
                        os::clear_flags_pinned(&folder);
                    }
                    self.sweep(&folder);
                }
                return Ok(Vec::new());
            }
            Some(_) => self.remove_in_the_way(place, &parent)?,
            None => {}
        }
        match os::make_folder(&*parent, &place.name) {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(place.io("make the folder", error)),
        }
    }

    fn remove_in_the_way(&self, place: &Place, parent: &Handle) -> Result<(), RestoreError> {
        let removed = match os::remove_file(parent, &place.name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.unpin(parent, &place.name) => {
                os::remove_file(parent, &place.name)
            }
            removed => removed,
        };
        removed.map_err(|error| place.io("remove what is in the way", error))
    }

    /// Whether a link, pipe or device is there as the entry has it.
    pub(super) fn is_special_there(&self, place: &Place, entry: &Entry, stat: &Stat) -> bool {
        let same = match &entry.kind {
            Kind::Symlink { target } => {
                let read = |parent: &Handle| os::read_link(parent, &place.name).is_ok_and(|found| found == *target);
                stat.kind == FileKind::Symlink && self.parent(place, false).ok().flatten().is_some_and(|parent| read(&parent))
            }
            Kind::Fifo => stat.kind == FileKind::Fifo,
            Kind::CharDevice { device } => stat.kind == FileKind::CharDevice && stat.device_number == *device,
            Kind::BlockDevice { device } => stat.kind == FileKind::BlockDevice && stat.device_number == *device,
            Kind::Directory | Kind::File { .. } | Kind::Socket => false,
        };
        same && self.may_keep(place, entry, stat)
    }

    /// Makes a link, pipe or device under a temporary name and puts it in its place.
    pub(super) fn put_special(
        &self,
        place: &Place,
        entry: &Entry,
        there: Option<&Stat>,
    ) -> Result<Vec<RestoreError>, RestoreError> {
        let parent = self.made_parent(place)?;
        let make = |name: &[u8]| match &entry.kind {
            Kind::Symlink { target } => os::make_symlink(target, &*parent, name),
            Kind::Fifo => os::make_fifo(&*parent, name),
            Kind::CharDevice { device } => os::make_device(&*parent, name, false, *device),
            Kind::BlockDevice { device } => os::make_device(&*parent, name, true, *device),
            Kind::Directory | Kind::File { .. } | Kind::Socket => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let is_device = matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied if is_device && !self.is_root => RestoreError::NeedsRoot { path: place.path() },
            _ => place.io("make it", error),
        };
        if there.is_none() {
            make(&place.name).map_err(failed)?;
            return self.metadata_at(place, &place.name, entry);
        }
        self.put_named(place, &parent, make, failed, |name| self.metadata_at(place, name, entry))
    }

    /// Makes something that cannot be locked under a temporary name, dresses it, and puts it in its place. Another restore that begins
    /// in the folder may take it for what a killed one left and remove it on its way: then it is made again.
    pub(super) fn put_named<T>(
        &self,
        place: &Place,
        parent: &Handle,
        make: impl Fn(&[u8]) -> io::Result<()>,
        failed: impl Fn(io::Error) -> RestoreError,
        dress: impl Fn(&[u8]) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        let mut tries = 0;
        loop {
            let (temporary, ()) = with_temporary_name(&make).map_err(&failed)?;
            let put = dress(&temporary).and_then(|dressed| self.replace(place, parent, &temporary).map(|()| dressed));
            tries += 1;
            let is_gone = || os::stat_at(parent, &temporary).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if put.is_ok() || tries == PUTS_MAX || !is_gone() {
                return put.inspect_err(|_| {
                    let _ = os::remove_file(parent, &temporary);
                });
            }
        }
    }

    /// Renames what was made to the place's name, over whatever is there.
    pub(super) fn replace(&self, place: &Place, parent: &Handle, temporary: &[u8]) -> Result<(), RestoreError> {
        let doing = "put it in its place";
        match os::rename(parent, temporary, &place.name) {
            Ok(()) => return Ok(()),
            Err(error) if !matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {
                return Err(place.io(doing, error));
            }
            Err(error) => {
                let there = os::stat_at(parent, &place.name).map_err(|error| place.io(doing, error))?;
                if there.is_folder() {
                    self.remove_folder_in_the_way(place, parent)?;
                } else if !self.unpin(parent, &place.name) {
                    return Err(place.io(doing, error));
                }
            }
        }
        os::rename(parent, temporary, &place.name).map_err(|error| place.io(doing, error))
    }

    /// Root may replace a file that forbids changes, when that file gives way to its own older state.
    fn unpin(&self, parent: &Handle, name: &[u8]) -> bool {
        let file = self.is_root.then(|| os::open_file_at(Some(parent), name).ok()).flatten();
        file.is_some_and(|file| {
            let alone = os::stat_of(&file).is_ok_and(|stat| stat.links <= 1);
            alone && os::flags_of(&file).is_some_and(os::is_pinned) && os::clear_flags_pinned(&file)
        })
    }

    fn remove_folder_in_the_way(&self, place: &Place, parent: &Handle) -> Result<(), RestoreError> {
        let removed = if self.removes_whole_folders() {
            extras::remove_all(self, place, parent).into_iter().next().map_or(Ok(()), Err)
        } else {
            os::remove_folder(parent, &place.name).map_err(|_| RestoreError::FolderInTheWay { path: place.path() })
        };
        if let Some(folders) = &self.folders {
            folders.forget(&place.path());
        }
        removed
    }

    /// A folder with contents gives way to something else only where deleting was asked for.
    pub(super) fn refuse_full_folder(&self, place: &Place) -> Result<(), RestoreError> {
        let Some(parent) = self.parent(place, false)? else { return Ok(()) };
        let handle = os::folder_at(&*parent, &place.name, true).map_err(|error| place.io("look into the folder there", error))?;
        let names = os::list_names(&handle, &mut Vec::new()).map_err(|error| place.io("look into the folder there", error))?;
        if names.is_some_and(|names| names.is_empty()) {
            Ok(())
        } else {
            Err(RestoreError::FolderInTheWay { path: place.path() })
        }
    }
}

/// How often something is made again that another restore has swept away: each sweeps a folder once.
const PUTS_MAX: usize = 5;

/// The list of who else may do what, beside the mode.
const ACL: &[u8] = b"system.posix_acl_access";

/// What became of an entry's extended attributes.
#[derive(Debug, Default)]
struct Attributes {
    changed: bool,
    acl_missing: bool,
    /// What the list that is missing gives to the file's group.
    group_bits: u16,
}

impl Attributes {
    /// The mode to set. With an access control list, its bits for the group are the most that anyone on the list may do.
    fn mode(&self, mode: u16) -> u16 {
        if self.acl_missing { mode & !(0o070 & !(self.group_bits << 3)) } else { mode }
    }
}

/// Attributes that a restore removes where the snapshot has none: people's own, and ACLs, which a folder may hand down to new files.
/// Labels of the system's security stay as the system set them.
fn is_a_persons(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

/// Without the owner that a setuid program was given to, the bit would hand out someone else's rights.
fn allowed_mode(mode: u16, owner_set: bool, group_set: bool) -> u16 {
    let setuid = if owner_set { 0 } else { 0o4000 };
    let setgid = if owner_set && group_set { 0 } else { 0o2000 };
    mode & 0o7777 & !(setuid | setgid)
}

#[cfg(test)]
mod tests {
    use super::super::{RestoreOptions, RestoreWriter};
    use super::*;
    use backmesh_format::catalogue::key_of;
    use std::cell::Cell;

    #[test]
    fn what_another_restore_swept_away_is_made_again() {
        let target = tempfile::tempdir().unwrap();
        let writer = RestoreWriter::create(target.path(), RestoreOptions::default()).unwrap();
        let shared = &writer.shared;
        let place = shared.place(&key_of(b"", b"link")).unwrap();
        let parent = shared.made_parent(&place).unwrap();
        let put = |times_swept| {
            let made = Cell::new(0);
            let make = |name: &[u8]| {
                os::make_symlink(b"away", &*parent, name)?;
                made.set(made.get() + 1);
                if made.get() <= times_swept { os::remove_file(&*parent, name) } else { Ok(()) }
            };
            let put = shared.put_named(&place, &parent, make, |error| place.io("make it", error), |_| Ok(()));
            (made.get(), put)
        };
        let (made, swept_twice) = put(2);
        swept_twice.unwrap();
        assert_eq!((made, std::fs::read_link(target.path().join("link")).unwrap()), (3, "away".into()));
        let (made, always) = put(usize::MAX);
        always.unwrap_err();
        assert_eq!(made, PUTS_MAX);
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);
    }
}
