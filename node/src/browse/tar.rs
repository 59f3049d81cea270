//! Entries as members of an archive: ustar headers, and pax headers (POSIX.1-2001) for what those have no room for. Extended attributes are
//! written as `SCHILY.xattr.NAME`, which GNU tar (`--xattrs`), bsdtar and star read.

use backmesh_format::catalogue::{Entry, FileTime, Kind};
use std::io;
use tar::{Builder, EntryType, Header};

/// Archives are made of blocks.
const BLOCK_BYTES: u64 = 512;
/// The end of an archive.
pub(super) const END: [u8; 1024] = [0; 1024];

/// What stands before the contents of a member; nothing for a socket, which archives cannot have. `name` is what the archive calls it,
/// `link` the member that has the contents, where it is another name of one.
///
/// # Errors
/// Where the number of a device does not fit.
pub(super) fn head(name: &[u8], entry: &Entry, link: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut member = Member { header: Header::new_ustar(), pax: Vec::new() };
    let (kind, bytes, target) = match (&entry.kind, link) {
        (_, Some(link)) => (EntryType::Link, 0, link),
        (Kind::File { bytes, .. }, None) => (EntryType::Regular, *bytes, &[][..]),
        (Kind::Directory, None) => (EntryType::Directory, 0, &[][..]),
        (Kind::Symlink { target }, None) => (EntryType::Symlink, 0, &target[..]),
        (Kind::Fifo, None) => (EntryType::Fifo, 0, &[][..]),
        (Kind::CharDevice { .. }, None) => (EntryType::Char, 0, &[][..]),
        (Kind::BlockDevice { .. }, None) => (EntryType::Block, 0, &[][..]),
        (Kind::Socket, None) => return Ok(Vec::new()),
    };
    if let Kind::CharDevice { device } | Kind::BlockDevice { device } = entry.kind {
        let (major, minor) = crate::os::device_numbers(device);
        member.header.set_device_major(major)?;
        member.header.set_device_minor(minor)?;
    }
    member.header.set_entry_type(kind);
    member.header.set_mode(entry.mode.into());
    member.name(name, kind);
    member.target(target);
    member.size(bytes);
    member.owner(entry);
    member.modified(&entry.modified);
    for (name, value) in &entry.xattrs {
        if let Ok(name) = std::str::from_utf8(name) {
            member.pax.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
    }
    member.finish()
}

/// How many zeros follow contents of that length.
pub(super) fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK_BYTES) - bytes) as usize
}

struct Member {
    header: Header,
    pax: Vec<(String, Vec<u8>)>,
}

impl Member {
    fn name(&mut self, name: &[u8], kind: EntryType) {
        let slash: &[u8] = if kind == EntryType::Directory { b"/" } else { b"" };
        let name = [name, slash].concat();
        if let Some(ustar) = self.header.as_ustar_mut()
            && !put(&mut ustar.name, &name)
        {
            self.pax.push(("path".to_owned(), name));
        }
    }

    fn target(&mut self, target: &[u8]) {
        if let Some(ustar) = self.header.as_ustar_mut()
            && !put(&mut ustar.linkname, target)
        {
            self.pax.push(("linkpath".to_owned(), target.to_vec()));
        }
    }

    fn size(&mut self, bytes: u64) {
        self.header.set_size(bytes);
        if bytes >= 1 << 33 {
            self.pax.push(("size".to_owned(), bytes.to_string().into_bytes()));
        }
    }

    fn owner(&mut self, entry: &Entry) {
        self.header.set_uid(entry.uid.into());
        self.header.set_gid(entry.gid.into());
        for (name, number) in [("uid", entry.uid), ("gid", entry.gid)] {
            if number >= 1 << 21 {
                self.pax.push((name.to_owned(), number.to_string().into_bytes()));
            }
        }
        if self.header.set_username(&entry.user).is_err() {
            self.pax.push(("uname".to_owned(), entry.user.clone().into_bytes()));
        }
        if self.header.set_groupname(&entry.group).is_err() {
            self.pax.push(("gname".to_owned(), entry.group.clone().into_bytes()));
        }
    }

    fn modified(&mut self, time: &FileTime) {
        let seconds = u64::try_from(time.seconds).unwrap_or(0);
        self.header.set_mtime(seconds);
        if time.nanoseconds > 0 || time.seconds < 0 || seconds >= 1 << 33 {
            let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
            let (sign, whole, part) =
                (if total < 0 { "-" } else { "" }, total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
            self.pax.push(("mtime".to_owned(), format!("{sign}{whole}.{part:09}").into_bytes()));
        }
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        self.header.set_cksum();
        let mut bytes = Vec::new();
        if !self.pax.is_empty() {
            let mut builder = Builder::new(Vec::new());
            builder.append_pax_extensions(self.pax.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
            bytes.extend_from_slice(builder.get_ref());
        }
        bytes.extend_from_slice(self.header.as_bytes());
        Ok(bytes)
    }
}

/// Fills a field; where the value is too long, with its beginning, and says so.
fn put(field: &mut [u8], value: &[u8]) -> bool {
    let fits = value.len() <= field.len();
    let taken = value.len().min(field.len());
    field[..taken].copy_from_slice(&value[..taken]);
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browse::tests::entry;
    use backmesh_format::catalogue::Content;
    use std::collections::BTreeMap;

    /// What a reader makes of a member: its header and what pax says of it.
    fn read(bytes: &[u8]) -> (Header, BTreeMap<String, Vec<u8>>, Vec<u8>) {
        let mut archive = tar::Archive::new(bytes);
        let mut member = archive.entries().unwrap().next().unwrap().unwrap();
        let pax = member.pax_extensions().unwrap();
        let pax = pax.into_iter().flatten().map(Result::unwrap);
        let pax = pax.map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec())).collect();
        (member.header().clone(), pax, member.path_bytes().into_owned())
    }

    #[test]
    fn what_has_room_needs_no_pax() {
        let file = Entry { user: "anna".into(), ..entry(Kind::File { bytes: 600, content: Content::Chunks(Vec::new()) }) };
        let head = head(b"a/not \xff UTF-8", &file, None).unwrap();
        assert_eq!(head.len(), 512);
        let (header, pax, path) = read(&head);
        assert!(pax.is_empty());
        assert_eq!((header.size().unwrap(), header.mode().unwrap(), header.uid().unwrap()), (600, 0o644, 1000));
        assert_eq!((path, header.username().unwrap()), (b"a/not \xff UTF-8".to_vec(), Some("anna")));
        assert_eq!((padding(600), padding(512), padding(0)), (424, 0, 0));
    }

    #[test]
    fn what_has_no_room_is_in_pax() {
        let long = b"folder/".repeat(40);
        let modified = FileTime { seconds: -2, nanoseconds: 500_000_000 };
        let xattrs = vec![(b"user.note".to_vec(), b"\0\xff=".to_vec())];
        let link =
            Entry { modified, xattrs, uid: u32::MAX, user: "u".repeat(40), ..entry(Kind::Symlink { target: long.clone() }) };
        let name = [&long[..], b"x"].concat();
        let (header, pax, path) = read(&head(&name, &link, None).unwrap());
        assert_eq!((header.entry_type(), path), (EntryType::Symlink, name));
        assert_eq!(pax["linkpath"], long);
        assert_eq!((&pax["mtime"][..], &pax["uid"][..]), (&b"-1.500000000"[..], &b"4294967295"[..]));
        assert_eq!((&pax["SCHILY.xattr.user.note"][..], pax["uname"].len()), (&b"\0\xff="[..], 40));
        let huge = entry(Kind::File { bytes: 1 << 40, content: Content::Chunks(Vec::new()) });
        let (header, pax, _) = read(&head(b"huge", &huge, None).unwrap());
        assert_eq!((header.entry_size().unwrap(), &pax["size"][..]), (1 << 40, &b"1099511627776"[..]));
    }

    #[test]
    fn the_other_kinds() {
        let kind = |kind, link: Option<&[u8]>| read(&head(b"x", &entry(kind), link).unwrap()).0;
        assert_eq!(kind(Kind::Directory, None).entry_type(), EntryType::Directory);
        assert_eq!(kind(Kind::Fifo, None).entry_type(), EntryType::Fifo);
        let device = kind(Kind::CharDevice { device: 0x0103 }, None);
        assert_eq!((device.device_major().unwrap(), device.device_minor().unwrap()), (Some(1), Some(3)));
        let second = kind(Kind::File { bytes: 5, content: Content::Chunks(Vec::new()) }, Some(b"first"));
        assert_eq!((second.entry_type(), second.size().unwrap()), (EntryType::Link, 0));
        assert_eq!(second.link_name_bytes().unwrap().into_owned(), b"first");
        assert!(head(b"x", &entry(Kind::Socket), None).unwrap().is_empty());
    }
}
