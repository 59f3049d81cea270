//! Folders below the target, opened without following a link.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::RestoreError;
use crate::key::join;
use crate::os::{self, Handle};

/// Open folders kept; entries come folder by folder, so few are enough.
const OPEN_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Folders {
    root: Arc<Handle>,
    /// The one used last comes last.
    open: Mutex<Vec<(Vec<u8>, Arc<Handle>)>>,
}

impl Folders {
    pub(super) fn new(root: Handle) -> Self {
        Self { root: Arc::new(root), open: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Arc<Handle> {
        &self.root
    }

    /// The folder at `path`; `None` where it is not there, or is no folder, and is not to be made.
    pub(super) fn open(&self, path: &[u8], make: bool) -> Result<Option<Arc<Handle>>, RestoreError> {
        if path.is_empty() {
            return Ok(Some(Arc::clone(&self.root)));
        }
        if let Some(found) = self.remembered(path) {
            return Ok(Some(found));
        }
        let handle = match os::open_folder(Some(&self.root), path, false) {
            Ok(handle) => handle,
            Err(error) if !make && os::is_no_folder(&error) => return Ok(None),
            Err(error) if os::is_no_folder(&error) => self.make(path)?,
            Err(error) => return Err(RestoreError::Io { path: path.to_vec(), doing: "open the folder", error }),
        };
        let handle = Arc::new(handle);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push((path.to_vec(), Arc::clone(&handle)));
        Ok(Some(handle))
    }

    /// Forgets the folder at `path` and those below it, because something else takes its place.
    pub(super) fn forget(&self, path: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(at, _)| at.strip_prefix(path).is_none_or(|rest| !rest.is_empty() && !rest.starts_with(b"/")));
    }

    fn remembered(&self, path: &[u8]) -> Option<Arc<Handle>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().rposition(|(folder, _)| folder == path)?;
        let found = open.remove(at);
        let handle = Arc::clone(&found.1);
        open.push(found);
        Some(handle)
    }

    /// Folders above a restored path that are no entries themselves.
    fn make(&self, path: &[u8]) -> Result<Handle, RestoreError> {
        let mut done = Vec::new();
        let mut at: Option<Handle> = None;
        for name in path.split(|byte| *byte == b'/') {
            let parent = at.as_ref().unwrap_or(&self.root);
            done = join(&done, name);
            let failed = |doing, error| RestoreError::Io { path: done.clone(), doing, error };
            let opened = match os::folder_at(parent, name, false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match os::make_folder(parent, name) {
                        // Another thread was faster.
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        made => made.map_err(|error| failed("make the folder", error))?,
                    }
                    os::folder_at(parent, name, false)
                }
                opened => opened,
            };
            let next = match opened {
                Ok(next) => next,
                Err(error) if os::is_no_folder(&error) => return Err(RestoreError::NotAFolder { path: done }),
                Err(error) => return Err(failed("open the folder", error)),
            };
            at = Some(next);
        }
        at.ok_or_else(|| RestoreError::NotAFolder { path: path.to_vec() })
    }
}
