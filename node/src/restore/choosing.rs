//! Which entries of a snapshot a restore is about: the wanted paths, what patterns choose of them, and the folders that these need.
//!
//! Folders that are not chosen themselves wait until something in them is: they come before it in the catalogue, and are forgotten
//! once the walk has passed them. What is left out as a whole folder is not fetched from the catalogue either.

use super::{Failure, FetchError, PathText, Problem, Wish, Work, unreadable, weight};
use backmesh_codec::catalogue::{Rest, Walk};
use backmesh_control::ExitCode;
use backmesh_format::catalogue::{Entry, Kind, key_of, split_key};
use backmesh_format::vault::Snapshot;
use backmesh_source::{Choice, Patterns, Selection, Step};
use std::collections::VecDeque;

/// Entries that are looked at before the pages that they are on are let go, for the contents of files.
const PORTION: usize = 2048;
/// What the entries of a portion may take in memory, about, in bytes.
pub(crate) const PORTION_BYTES: usize = 16 << 20;
/// Pages of one portion that cannot be read and are named; more of them are counted.
const ERRORS_MAX: usize = 16;

/// What is to be restored.
pub(super) struct Wanted {
    /// Paths without a leading slash; the empty one is everything.
    pub(super) paths: Vec<Vec<u8>>,
    /// What was protected, in the same way.
    roots: Vec<Vec<u8>>,
    include: Patterns,
    exclude: Patterns,
    /// The target is where everything was: folders that are not protected themselves are left as they are now.
    pub(super) in_place: bool,
}

impl Wanted {
    /// What a person wishes of a snapshot.
    pub(super) fn new(wish: &Wish, snapshot: &Snapshot) -> Result<Self, Failure> {
        let patterns = |option: &str, patterns: &[String]| {
            let usage = |bad| Failure::new(ExitCode::Usage, format!("{option} {bad}"));
            Patterns::new(patterns).map_err(usage)
        };
        let include = patterns("--include", &wish.include)?;
        let exclude = patterns("--exclude", &wish.exclude)?;
        let mut paths = wish.paths.iter().map(trimmed).collect::<Result<Vec<_>, _>>()?;
        if paths.is_empty() {
            paths.push(Vec::new());
        }
        if !include.is_empty() || !exclude.is_empty() {
            // Patterns are read from the outer one of two paths on.
            let all = paths.clone();
            paths.retain(|path| !all.iter().any(|outer| outer != path && is_inside(path, outer)));
        }
        let roots = snapshot.roots.iter().map(|root| root.0.strip_prefix(b"/").unwrap_or(&root.0).to_vec()).collect();
        let in_place = wish.to.bytes().is_some_and(|to| to.iter().all(|byte| *byte == b'/'));
        Ok(Self { paths, roots, include, exclude, in_place })
    }

    /// What is chosen at and below one of the paths.
    pub(super) fn chooser(&self, path: &[u8]) -> Chooser {
        let tops = if path.is_empty() { self.roots.clone() } else { vec![path.to_vec()] };
        Chooser::new(Selection::new(tops, self.include.clone(), self.exclude.clone()))
    }

    /// What is chosen of all the paths; none where that is everything.
    pub(super) fn selection(&self) -> Option<Selection> {
        let tops = self.paths.iter().flat_map(|path| if path.is_empty() { self.roots.clone() } else { vec![path.clone()] });
        let selection = Selection::new(tops.collect(), self.include.clone(), self.exclude.clone());
        (!selection.is_everything()).then_some(selection)
    }

    /// The folders in which the snapshot knows what belongs there, as far as they are wanted.
    pub(super) fn within(&self) -> Vec<Vec<u8>> {
        let both = |root: &Vec<u8>, path: &Vec<u8>| {
            if is_inside(path, root) { Some(path.clone()) } else { is_inside(root, path).then(|| root.clone()) }
        };
        self.roots.iter().flat_map(|root| self.paths.iter().filter_map(move |path| both(root, path))).collect()
    }

    fn is_protected(&self, path: &[u8]) -> bool {
        self.roots.iter().any(|root| is_inside(path, root))
    }
}

fn trimmed(path: &PathText) -> Result<Vec<u8>, Failure> {
    let bytes = path.bytes().filter(|bytes| bytes.starts_with(b"/"));
    let bytes = bytes.ok_or_else(|| Failure::new(ExitCode::Usage, format!("{} is not an absolute path", path.path)))?;
    Ok(bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/'))
}

fn is_inside(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Folders that wait for something in them to be chosen: for each folder on the way to where the walk is, those in it that are
/// still to come.
struct Waiting {
    folders: Vec<(Vec<u8>, VecDeque<Found>)>,
    bytes: usize,
    bytes_max: usize,
    /// Folders in which some could not wait, each with the name of the first.
    turned_away: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder on the way to which these were named last.
    named: Vec<u8>,
}

/// What folders that wait may take in memory, about, in bytes.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// An entry, its key and its name.
struct Found {
    name: Vec<u8>,
    key: Vec<u8>,
    entry: Entry,
}

impl Waiting {
    fn new(bytes_max: usize) -> Self {
        Self { folders: Vec::new(), bytes: 0, bytes_max, turned_away: Vec::new(), named: Vec::new() }
    }

    fn push(&mut self, folder: Vec<u8>, found: Found) {
        self.pass(&folder);
        let bytes = found.weight();
        if self.bytes + bytes > self.bytes_max {
            if self.turned_away.last().is_none_or(|(known, _)| *known != folder) {
                self.turned_away.push((folder, found.name));
            }
            return;
        }
        self.bytes += bytes;
        match self.folders.last_mut() {
            Some((known, waiting)) if *known == folder => waiting.push_back(found),
            _ => self.folders.push((folder, VecDeque::from([found]))),
        }
    }

    /// Forgets what the walk has passed, now that it is in `folder`.
    fn pass(&mut self, folder: &[u8]) {
        let bytes = &mut self.bytes;
        self.folders.retain(|(known, waiting)| {
            let stays = is_inside(folder, known);
            *bytes -= if stays { 0 } else { waiting.iter().map(Found::weight).sum() };
            stays
        });
        self.turned_away.retain(|(known, _)| is_inside(folder, known));
    }

    /// The paths of those on the way to `folder` that could not wait, as far as they were not named before. Some of them may have been
    /// chosen themselves.
    fn missed(&mut self, folder: &[u8]) -> Vec<Vec<u8>> {
        let way = self.turned_away.iter().filter_map(|(known, first)| {
            let next = next_name(folder, known);
            let path = || if known.is_empty() { next.to_vec() } else { [known, &b"/"[..], next].concat() };
            (!next.is_empty() && next >= first.as_slice()).then(path)
        });
        let missed = way.filter(|path| !is_inside(&self.named, path)).collect();
        self.named = folder.to_vec();
        missed
    }

    /// Those on the way to `folder`, outermost first; what the walk has passed is forgotten.
    fn take(&mut self, folder: &[u8]) -> Vec<Found> {
        self.pass(folder);
        let mut needed = Vec::new();
        for (known, waiting) in &mut self.folders {
            let next = next_name(folder, known);
            if next.is_empty() {
                continue;
            }
            while waiting.front().is_some_and(|found| found.name.as_slice() < next) {
                self.bytes -= waiting.pop_front().as_ref().map_or(0, Found::weight);
            }
            if waiting.front().is_some_and(|found| found.name == next) {
                self.bytes -= waiting.front().map_or(0, Found::weight);
                needed.extend(waiting.pop_front());
            }
        }
        needed
    }
}

/// The first name on the way from `known` to `folder`, which is inside it; empty where they are the same.
fn next_name<'a>(folder: &'a [u8], known: &[u8]) -> &'a [u8] {
    let rest = &folder[known.len()..];
    rest.strip_prefix(b"/").unwrap_or(rest).split(|byte| *byte == b'/').next().unwrap_or_default()
}

impl Found {
    fn weight(&self) -> usize {
        weight(&self.key, &self.entry)
    }
}

impl Work<'_> {
    /// The folders on the way to a path, so that they get their own modes and times.
    pub(super) fn ancestors(&mut self, snapshot: &Snapshot, path: &[u8]) -> Result<(), Failure> {
        for slash in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
            // Without it the folder is made as it is needed, and what was asked for comes first.
            let _ = self.looked_up(snapshot, &path[..slash])?;
        }
        Ok(())
    }

    /// A folder, by its path; what kept it from being found.
    fn looked_up(&mut self, snapshot: &Snapshot, folder: &[u8]) -> Result<Result<(), FetchError>, Failure> {
        let entry = match self.library.catalogue(snapshot.catalogue.clone()).lookup(folder) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        let (parent, name) =
            folder.iter().rposition(|byte| *byte == b'/').map_or((&[][..], folder), |at| (&folder[..at], &folder[at + 1..]));
        let key = key_of(parent, name);
        if !(self.wanted.in_place && self.is_there(&key, &entry)) {
            self.apply(&key, &entry)?;
        }
        Ok(Ok(()))
    }

    fn is_there(&self, key: &[u8], entry: &Entry) -> bool {
        matches!(entry.kind, Kind::Directory) && matches!(self.writer.plan(key, entry), Ok(Step::Keep))
    }

    /// Everything that is chosen at and below a path.
    pub(super) fn subtree(&mut self, snapshot: &Snapshot, path: &[u8]) -> Result<(), Failure> {
        let root = snapshot.catalogue.clone();
        let mut chooser = self.wanted.chooser(path);
        let mut waiting = Waiting::new(WAITING_BYTES_MAX);
        let mut seen = 0_u64;
        // The walk borrows the pages while files are planned from the same pages, so it hands over what it found in portions.
        let mut from: Option<(Rest, Vec<u8>)> = None;
        loop {
            let mut catalogue = self.library.catalogue(root.clone());
            let walk = match from.take() {
                None => catalogue.walk(path),
                Some((rest, after)) => {
                    let mut walk = catalogue.resume(rest);
                    walk.seek(&[&after[..], &[0]].concat());
                    walk
                }
            };
            let portion = portion(walk, &mut chooser, || self.report.is_stopped());
            self.go_on()?;
            seen += portion.seen;
            for (key, entry, choice) in portion.entries {
                self.go_on()?;
                self.chosen(snapshot, (key, entry), choice, &mut waiting)?;
            }
            // Nothing at all is no restore with problems.
            if let Some(error) = portion.errors.first().filter(|_| seen == 0 && self.result.entries == 0) {
                return Err(unreadable(error));
            }
            for error in portion.errors {
                let message = format!("a part of the catalogue cannot be read, and what it lists is missing: {error}");
                self.report.problem(Problem::at(&[b"/", path].concat(), message));
            }
            if portion.errors_untold > 0 {
                let message = format!("{} more parts of the catalogue cannot be read", portion.errors_untold);
                self.report.problem(Problem::at(&[b"/", path].concat(), message));
            }
            match portion.more {
                Some(more) => from = Some(more),
                None => break,
            }
        }
        if seen == 0 && !path.is_empty() {
            self.report.problem(Problem::at(&[b"/", path].concat(), "it is not in the snapshot"));
        }
        Ok(())
    }

    fn chosen(
        &mut self,
        snapshot: &Snapshot,
        (key, entry): (Vec<u8>, Entry),
        choice: Choice,
        waiting: &mut Waiting,
    ) -> Result<(), Failure> {
        let Ok((folder, name)) = split_key(&key) else { return Ok(()) };
        if choice == Choice::Pass {
            waiting.push(folder, Found { name, key, entry });
            return Ok(());
        }
        for needed in waiting.take(&folder) {
            if !(self.wanted.in_place && self.is_there(&needed.key, &needed.entry)) {
                self.entry(needed.key, needed.entry)?;
            }
        }
        for missed in waiting.missed(&folder) {
            if let Err(error) = self.looked_up(snapshot, &missed)? {
                let message = format!("its mode and times cannot be restored: {error}");
                self.report.problem(Problem::at(&[b"/", &missed[..]].concat(), message));
            }
        }
        let path = if folder.is_empty() { name } else { [&folder[..], b"/", &name].concat() };
        if self.wanted.in_place && !self.wanted.is_protected(&path) && self.is_there(&key, &entry) {
            return Ok(());
        }
        self.entry(key, entry)
    }

    /// Deletes what lies in the restored folders, is chosen and is not in the snapshot.
    pub(super) fn delete_extras(&mut self, snapshot: &Snapshot) -> Result<u64, Failure> {
        if self.wanted.in_place && snapshot.problems > 0 {
            let count = snapshot.problems;
            let what =
                format!("the backup had {count} problems: what could not be read then is not in it, so nothing is deleted");
            self.report.problem(Problem::new(what));
            return Ok(0);
        }
        let mut within = self.wanted.within();
        // Of what the snapshot does not know it cannot say what belongs there.
        let mut known = self.library.catalogue(snapshot.catalogue.clone());
        within.retain(|path| path.is_empty() || matches!(known.lookup(path), Ok(Some(Entry { kind: Kind::Directory, .. }))));
        let chooser = self.wanted.selection().map(Chooser::new);
        let mut catalogue = self.library.catalogue(snapshot.catalogue.clone());
        let keys = Keys { walk: catalogue.walk(&[]), chooser };
        let (removed, problems) = self.writer.delete_extras(&within, keys).map_err(|error| unreadable(&error))?;
        problems.iter().for_each(|error| self.report.problem(Problem::new(error.to_string())));
        if self.dry_run {
            self.planned_deletions(&removed);
        }
        Ok(removed.len() as u64)
    }
}

/// A part of a walk through the catalogue.
struct Portion {
    entries: Vec<(Vec<u8>, Entry, Choice)>,
    /// How many there were, those that were left out too.
    seen: u64,
    /// The first of what could not be read.
    errors: Vec<FetchError>,
    /// How many more there were.
    errors_untold: u64,
    /// Where to go on, behind the last key.
    more: Option<(Rest, Vec<u8>)>,
}

/// As many entries as are looked at in one go.
fn portion<P: backmesh_codec::catalogue::Pages<Error = FetchError>>(
    mut walk: Walk<P>,
    chooser: &mut Chooser,
    is_stopped: impl Fn() -> bool,
) -> Portion {
    let mut portion = Portion { entries: Vec::new(), seen: 0, errors: Vec::new(), errors_untold: 0, more: None };
    let mut bytes = 0;
    while let Some(found) = walk.next() {
        let (key, entry) = match found {
            Ok(found) => found,
            Err(_) if is_stopped() => break,
            Err(error) if portion.errors.len() < ERRORS_MAX => {
                portion.errors.push(error);
                continue;
            }
            Err(_) => {
                portion.errors_untold += 1;
                continue;
            }
        };
        portion.seen += 1;
        let choice = choice_of(&key, &entry, chooser, &mut walk);
        bytes += if choice == Choice::Leave { 0 } else { weight(&key, &entry) };
        let is_last = portion.seen as usize == PORTION || bytes >= PORTION_BYTES;
        let last = is_last.then(|| key.clone());
        if choice != Choice::Leave {
            portion.entries.push((key, entry, choice));
        }
        if let Some(last) = last {
            portion.more = Some((walk.into_rest(), last));
            break;
        }
    }
    portion
}

/// What to do with an entry; the walk passes over all below a folder that is left out.
pub(super) fn choice_of<P>(key: &[u8], entry: &Entry, chooser: &mut Chooser, walk: &mut Walk<P>) -> Choice {
    let Ok((folder, name)) = split_key(key) else { return Choice::Leave };
    let is_folder = matches!(entry.kind, Kind::Directory);
    let choice = chooser.selection.choose(&folder, &name, is_folder);
    if !is_folder {
        return choice;
    }
    if choice != Choice::Leave {
        chooser.left = None;
        return choice;
    }
    let path = [&folder[..], b"/", &name].concat();
    let first = chooser.left.take().filter(|(known, _)| *known == folder).map_or_else(|| path.clone(), |(_, first)| first);
    walk.leave_out(&first, &path);
    chooser.left = Some((folder, first));
    choice
}

/// A selection on its way through a catalogue.
pub(super) struct Chooser {
    selection: Selection,
    /// The first of the folders that were left out one after the other, behind the one that they are in.
    left: Option<(Vec<u8>, Vec<u8>)>,
}

impl Chooser {
    fn new(selection: Selection) -> Self {
        Self { selection, left: None }
    }
}

/// The keys of what is chosen, for comparing with what is in the target.
struct Keys<P> {
    walk: Walk<P>,
    chooser: Option<Chooser>,
}

impl<P: backmesh_codec::catalogue::Pages<Error = FetchError>> Iterator for Keys<P> {
    type Item = Result<Vec<u8>, FetchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.walk.next()?;
        Some(found.map(|(key, entry)| {
            if let Some(chooser) = &mut self.chooser {
                choice_of(&key, &entry, chooser, &mut self.walk);
            }
            key
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::catalogue::FileTime;

    fn found(name: &str) -> Found {
        let entry = Entry {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            modified: FileTime { seconds: 0, nanoseconds: 0 },
            link_group: None,
            xattrs: Vec::new(),
            holes: Vec::new(),
            flags: 0,
            torn: false,
            windows: None,
        };
        Found { name: name.into(), key: name.into(), entry }
    }

    #[test]
    fn folders_wait_for_what_is_in_them_and_are_forgotten_behind_them() {
        let mut waiting = Waiting::new(WAITING_BYTES_MAX);
        let take = |waiting: &mut Waiting, folder: &str| -> Vec<String> {
            waiting.take(folder.as_bytes()).into_iter().map(|found| String::from_utf8(found.name).unwrap()).collect()
        };
        ["a", "b", "c"].iter().for_each(|name| waiting.push(Vec::new(), found(name)));
        ["x", "y"].iter().for_each(|name| waiting.push(b"b".to_vec(), found(name)));
        waiting.push(b"b/y".to_vec(), found("z"));
        assert_eq!(take(&mut waiting, "b/y"), ["b", "y"]);
        assert_eq!(take(&mut waiting, "b/y/z"), ["z"]);
        assert!(take(&mut waiting, "b/y/z").is_empty());
        assert_eq!(take(&mut waiting, "c"), ["c"]);
        assert!(waiting.folders.iter().all(|(_, waiting)| waiting.is_empty()));
    }

    #[test]
    fn folders_that_cannot_wait_are_named_where_they_are_needed() {
        let mut waiting = Waiting::new(2 * found("a").weight());
        ["a", "b", "c", "d"].iter().for_each(|name| waiting.push(Vec::new(), found(name)));
        let missed = |waiting: &mut Waiting, folder: &str| -> Vec<String> {
            waiting.take(folder.as_bytes());
            waiting.missed(folder.as_bytes()).into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
        };
        // Nothing in them is chosen, so nothing is missed.
        assert!(missed(&mut waiting, "").is_empty());
        assert!(missed(&mut waiting, "b/x").is_empty());
        ["y", "z"].iter().for_each(|name| waiting.push(b"c".to_vec(), found(name)));
        waiting.push(b"c".to_vec(), found("zz"));
        assert_eq!(missed(&mut waiting, "c/zz/1"), ["c", "c/zz"]);
        assert!(missed(&mut waiting, "c/zz/1").is_empty());
        assert!(missed(&mut waiting, "c/zz/2").is_empty());
        assert_eq!(missed(&mut waiting, "d"), ["d"]);
    }
}
