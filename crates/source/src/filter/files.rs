//! The files inside a tree that have a say in what is left out.

use std::io::{self, Read};

use super::scope::{IGNORE_FILE_BYTES_MAX, IgnoreFiles, Scope, is_cache_tag};
use crate::os::{self, Handle, Names};
use crate::problem::SourceError;

/// The ignore files of a folder whose names are known; `None` where it has none. What cannot be read is told, with its name.
pub(crate) fn ignore_files(
    scope: &Scope,
    folder: &Handle,
    names: &Names,
    problems: &mut Vec<(&'static [u8], SourceError)>,
) -> Option<IgnoreFiles> {
    let (own, git) = scope.ignore_file_names();
    let mut read = |name: Option<&'static [u8]>| {
        let name = name.filter(|name| names.has(name))?;
        match read_small(folder, name, IGNORE_FILE_BYTES_MAX + 1) {
            Ok(Some(text)) if text.len() <= IGNORE_FILE_BYTES_MAX => Some(text),
            Ok(Some(_)) => {
                problems.push((name, SourceError::IgnoreFileTooLarge(IGNORE_FILE_BYTES_MAX)));
                None
            }
            // A folder of this name is somebody else's.
            Ok(None) => None,
            Err(error) if os::is_replaced(&error) => {
                problems.push((name, SourceError::IgnoreFileLink));
                None
            }
            Err(error) => {
                problems.push((name, SourceError::Io { doing: "read what it leaves out", error }));
                None
            }
        }
    };
    let files = IgnoreFiles { own: read(own), git: read(git) };
    (files.own.is_some() || files.git.is_some()).then_some(files)
}

/// Whether the folder is marked as a cache.
pub(crate) fn is_cache(scope: &Scope, folder: &Handle, names: &Names) -> bool {
    let Some(name) = scope.cache_tag_name().filter(|name| names.has(name)) else { return false };
    matches!(read_small(folder, name, 64), Ok(Some(head)) if is_cache_tag(&head))
}

/// The first bytes of a regular file; `None` where it is something else.
fn read_small(folder: &Handle, name: &[u8], bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match os::open_file_at(Some(folder), name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !os::stat_of(&file)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
