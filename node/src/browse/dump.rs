//! Writes a file's bytes, or a folder as an archive, to whoever asked. What comes next is fetched while what came before goes out; memory is
//! bounded by what a restore may fetch ahead. After the first thing that cannot be had, nothing more is written.

use super::{entry_at, pick, tar};
use crate::fetch::{FetchError, Fetcher};
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::restore::choosing::PORTION_BYTES;
use crate::restore::fetching::{Fetched, Op, Prefetch, Weighs};
use crate::restore::holes::Zeros;
use crate::restore::{library, shown, unreadable, weight};
use backmesh_codec::catalogue::{ContentReader, LastContents};
use backmesh_control::{DATA_BYTES_MAX, DumpResult, Event, ExitCode, Failure, PathText, Phase, Progress, escape};
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, Kind, key_of};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Entries that are read from the catalogue at once.
const PORTION: usize = 2048;
/// What folders that wait for their turn may take in memory, about, in bytes. Beyond that a folder comes before its turn, and an archive's
/// reader sets its time too early.
const FOLDERS_BYTES_MAX: usize = 32 << 20;
/// What the names of files with several names may take, in bytes; beyond that each name is a file of its own.
const LINKS_BYTES_MAX: usize = 32 << 20;

/// What to write.
#[derive(Debug, Clone)]
pub struct DumpWish {
    /// The snapshot.
    pub snapshot: String,
    /// An absolute path.
    pub path: PathText,
    /// As an archive.
    pub tar: bool,
}

/// Writes a file, or an archive; every byte is told as data before this returns.
///
/// # Errors
/// Where it is not there, is no file, or cannot be read to its end.
pub async fn dump(node: &Arc<Node>, wish: DumpWish, report: &Report) -> Result<DumpResult, Failure> {
    let mut library = library(node)?;
    let report = report.clone();
    let work = tokio::task::spawn_blocking(move || {
        let snapshot = pick(&mut library, &wish.snapshot)?;
        let path = wish.path.bytes().unwrap_or_default();
        let path = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
        let entry = entry_at(&mut library, &snapshot, &path)?;
        let fetched_before = library.fetcher.bytes_fetched();
        let mut stream = Stream::new(&mut library, &report);
        if wish.tar {
            stream.archive(snapshot.catalogue.as_ref(), &path)?;
        } else {
            stream.file(&path, entry)?;
        }
        let mut result = stream.out.result;
        result.snapshot = snapshot.id().to_string();
        result.bytes_fetched = library.fetcher.bytes_fetched() - fetched_before;
        Ok(result)
    });
    work.await.map_err(crate::serve::failed)?
}

/// Why there are no bytes to write at a path.
fn no_file(path: &[u8], entry: Option<&Entry>) -> Failure {
    let path = escape(&[b"/", path].concat());
    let failure = |what: &str| Failure::new(ExitCode::Failed, format!("{path} is {what}, not a file"));
    match entry.map(|entry| &entry.kind) {
        None | Some(Kind::Directory) => {
            failure("a folder").with_hint("--tar writes a folder as an archive; backmesh ls shows what is in it")
        }
        Some(Kind::Symlink { target }) => {
            failure(&format!("a symbolic link to {}", escape(target))).with_hint("name the file that it points to")
        }
        Some(_) => failure("a named pipe, socket or device"),
    }
}

/// What stands before the contents of a file, and the file's path, for people.
type Begun = (Vec<u8>, Vec<u8>);

impl Weighs for Begun {
    fn weight(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

struct Stream<'a> {
    library: &'a mut Library,
    prefetch: Prefetch<Begun>,
    /// Which member has the contents that several names share.
    links: HashMap<u64, Vec<u8>>,
    links_bytes: usize,
    /// Folders whose turn is still to come, by the least key that may lie in them.
    folders: BTreeMap<Vec<u8>, (Vec<u8>, Entry)>,
    folders_bytes: usize,
    last: LastContents,
    zeros: Zeros,
    out: Out<'a>,
}

/// The least key of what may lie in a folder.
fn first_inside(path: &[u8]) -> Vec<u8> {
    key_of(path.strip_prefix(b"/").unwrap_or(path), b"")
}

impl<'a> Stream<'a> {
    fn new(library: &'a mut Library, report: &'a Report) -> Self {
        let fetcher = Arc::clone(&library.fetcher);
        let prefetch = Prefetch::new(Arc::clone(&fetcher), library.runtime.clone());
        let (links, folders) = (HashMap::new(), BTreeMap::new());
        let (last, zeros, out) = (LastContents::default(), Zeros::default(), Out::new(fetcher, report));
        Self { library, prefetch, links, links_bytes: 0, folders, folders_bytes: 0, last, zeros, out }
    }

    fn file(&mut self, path: &[u8], entry: Option<Entry>) -> Result<(), Failure> {
        let (bytes, content, holes) = match entry {
            Some(Entry { kind: Kind::File { bytes, content }, holes, .. }) => (bytes, content, holes),
            other => return Err(no_file(path, other.as_ref())),
        };
        self.out.bytes_total = Some(bytes);
        self.out.result.files = 1;
        self.step(Op::Begin((Vec::new(), [b"/", path].concat())))?;
        self.contents(path, content, bytes, &holes)?;
        self.drain()
    }

    /// Everything at and below a path; members are named from its last part on.
    fn archive(&mut self, root: Option<&CatalogueRoot>, path: &[u8]) -> Result<(), Failure> {
        let above = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let mut after: Option<Vec<u8>> = None;
        loop {
            // The walk borrows the pages from which the contents of long files are read, so it hands entries over in portions.
            let mut catalogue = self.library.catalogue(root.cloned());
            let mut walk = catalogue.walk(path);
            if let Some(after) = &after {
                walk.seek(&[&after[..], &[0]].concat());
            }
            let (mut portion, mut bytes) = (Vec::new(), 0);
            while portion.len() < PORTION && bytes < PORTION_BYTES {
                let Some(found) = walk.next() else { break };
                let (key, entry) = found.map_err(|error| unreadable(&error))?;
                bytes += weight(&key, &entry);
                portion.push((key, entry));
            }
            let Some((last, _)) = portion.last() else { break };
            after = Some(last.clone());
            for (key, entry) in portion {
                self.folders_until(Some(&key), above)?;
                let path = shown(&key);
                let folder_bytes = 2 * weight(&path, &entry);
                if matches!(entry.kind, Kind::Directory) && self.folders_bytes + folder_bytes <= FOLDERS_BYTES_MAX {
                    self.folders_bytes += folder_bytes;
                    self.folders.insert(first_inside(&path), (path, entry));
                } else {
                    self.member(&path, path.get(1 + above..).unwrap_or_default(), entry)?;
                }
            }
        }
        self.folders_until(None, above)?;
        self.drain()?;
        self.out.put(&tar::END);
        self.out.flush();
        Ok(())
    }

    /// The catalogue names all entries of a folder before it descends. An archive wants each folder right before what is in it: else tar
    /// sets its times too early.
    fn folders_until(&mut self, key: Option<&[u8]>, above: usize) -> Result<(), Failure> {
        while let Some(folder) = self.folders.first_entry().filter(|folder| key.is_none_or(|key| folder.key().as_slice() <= key))
        {
            let (path, entry) = folder.remove();
            self.folders_bytes -= 2 * weight(&path, &entry);
            self.member(&path, path.get(1 + above..).unwrap_or_default(), entry)?;
        }
        Ok(())
    }

    fn member(&mut self, path: &[u8], name: &[u8], entry: Entry) -> Result<(), Failure> {
        let link = entry.link_group.and_then(|group| self.links.get(&group).cloned());
        let head = tar::head(name, &entry, link.as_deref());
        let head = head
            .map_err(|error| Failure::new(ExitCode::Failed, format!("{} does not fit into an archive: {error}", escape(path))))?;
        self.step(Op::Begin((head, path.to_vec())))?;
        if link.is_none() {
            if let Some(group) = entry.link_group
                && self.links_bytes <= LINKS_BYTES_MAX
            {
                self.links_bytes += 100 + name.len();
                self.links.insert(group, name.to_vec());
            }
            if let Kind::File { bytes, content } = entry.kind {
                self.out.result.files += 1;
                self.contents(path, content, bytes, &entry.holes)?;
            }
        }
        self.step(Op::End)
    }

    /// Each chunk is on its way before the next page of the list is read; what lies in a hole is not fetched.
    fn contents(&mut self, path: &[u8], content: Content, bytes: u64, holes: &[(u64, u64)]) -> Result<(), Failure> {
        let content = self.last.beside_the_entry(&mut self.library.pages, content).map_err(|error| broken(path, &error))?;
        let mut offset = 0;
        for chunk in ContentReader::new(&mut self.library.pages, content, bytes) {
            let chunk = chunk.map_err(|error| broken(path, &error))?;
            let is_hole = self.zeros.within(holes, offset, &[chunk], self.library.fetcher.id_key()) == [true];
            offset += u64::from(chunk.bytes);
            let op = if is_hole { Op::Hole(chunk) } else { Op::Fetch(chunk) };
            if let Some(ready) = self.prefetch.push(op, &mut self.library.data)? {
                self.out.carry_out(ready)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, op: Op<Begun>) -> Result<(), Failure> {
        match self.prefetch.push(op, &mut self.library.data)? {
            Some(ready) => self.out.carry_out(ready),
            None => Ok(()),
        }
    }

    fn drain(&mut self) -> Result<(), Failure> {
        while let Some(ready) = self.prefetch.finish(&mut self.library.data)? {
            self.out.carry_out(ready)?;
        }
        self.out.flush();
        Ok(())
    }
}

/// What goes out.
struct Out<'a> {
    report: &'a Report,
    fetcher: Arc<Fetcher>,
    buffer: Vec<u8>,
    /// Path and length so far of the file at hand.
    path: Vec<u8>,
    bytes: u64,
    result: DumpResult,
    bytes_total: Option<u64>,
    told: Instant,
}

impl<'a> Out<'a> {
    fn new(fetcher: Arc<Fetcher>, report: &'a Report) -> Self {
        let (buffer, path, result) = (Vec::new(), Vec::new(), DumpResult::default());
        Self { report, fetcher, buffer, path, bytes: 0, result, bytes_total: None, told: Instant::now() }
    }

    fn carry_out(&mut self, ready: Fetched<Begun>) -> Result<(), Failure> {
        let Fetched { ops, frames } = ready;
        for (op, place) in ops {
            if self.report.is_stopped() {
                return Err(Failure::new(ExitCode::Interrupted, "the dump was interrupted"));
            }
            match op {
                Op::Begin((head, path)) => {
                    self.put(&head);
                    (self.path, self.bytes) = (path, 0);
                }
                Op::Fetch(chunk) | Op::Here(chunk) => {
                    let unknown = FetchError::UnknownChunk(chunk.id);
                    let place = place.unwrap_or_else(|| Err(unknown.clone())).map_err(|error| broken(&self.path, &error))?;
                    let frame = frames.get(&(place.pack.pack, place.at.frame)).ok_or_else(|| broken(&self.path, &unknown))?;
                    let frame = frame.as_ref().map_err(|error| broken(&self.path, error))?;
                    let fetcher = Arc::clone(&self.fetcher);
                    let bytes = fetcher.chunk_in(frame, &place, &chunk.id).map_err(|error| broken(&self.path, &error))?;
                    self.bytes += bytes.len() as u64;
                    self.put(bytes);
                }
                Op::Hole(chunk) => {
                    self.bytes += u64::from(chunk.bytes);
                    self.put(&vec![0; chunk.bytes as usize]);
                }
                Op::Broken(error) => return Err(broken(&self.path, &error)),
                Op::End => self.put(&vec![0; tar::padding(self.bytes)]),
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.result.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= DATA_BYTES_MAX as usize {
            let rest = self.buffer.split_off(DATA_BYTES_MAX as usize);
            self.report.tell(Event::data(std::mem::replace(&mut self.buffer, rest)));
        }
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let mut progress = Progress::new(Phase::Fetching);
            (progress.files, progress.bytes, progress.bytes_total) = (self.result.files, self.result.bytes, self.bytes_total);
            self.report.progress(progress);
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.report.tell(Event::data(std::mem::take(&mut self.buffer)));
        }
    }
}

/// Why the bytes end here.
fn broken(path: &[u8], error: &FetchError) -> Failure {
    let failure = unreadable(error);
    Failure { message: format!("{} cannot be read to its end: {}", escape(path), failure.message), ..failure }
}
