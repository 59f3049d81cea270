//! What a backup would keep, told by a walk of this machine's disk alone: nothing is read, nothing is asked of anyone.

use crate::os;
use backmesh_control::{FolderSize, LeftOut, PathText, ProtectPlan, RuleSource};
use backmesh_source::{Problem, Rules, Source, WalkItem, WalkOptions, walk};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How many of the largest folders are told.
const BIGGEST: usize = 10;
/// A folder is not told where one folder in it holds more than this share of it, in percent: that one says more.
const DOMINANT_PERCENT: u64 = 90;

/// Walks folders with their rules; `exclude` are paths that are never kept. `on_progress` is told files and bytes from time to time.
pub fn preview(
    folders: &BTreeMap<PathBuf, Rules>,
    exclude: Vec<PathBuf>,
    on_progress: &mut dyn FnMut(u64, u64),
    on_problem: &mut dyn FnMut(&Problem),
) -> ProtectPlan {
    let roots: Vec<PathBuf> = folders.keys().cloned().collect();
    let mut walking = walk(&roots, &WalkOptions { exclude, rules: folders.clone() });
    let mut plan = ProtectPlan::default();
    let mut sizes = Sizes::default();
    for found in &mut walking {
        match found {
            Ok(item) if item.above_roots => {}
            Ok(item) => {
                count(&mut plan, &item);
                sizes.add(&item);
                if (plan.files + plan.folders).is_multiple_of(4096) {
                    on_progress(plan.files, plan.bytes);
                }
            }
            Err(problem) => {
                plan.problems += 1;
                on_problem(&problem);
            }
        }
    }
    let roots: Vec<&[u8]> = roots.iter().map(|root| os::path_bytes(root)).collect();
    plan.biggest = sizes.finish(&roots);
    plan.left_out = left_out(&walking.left_out());
    plan
}

fn count(plan: &mut ProtectPlan, item: &WalkItem) {
    if item.stat.is_file() {
        plan.files += 1;
        plan.bytes += item.stat_key().size;
    } else if item.stat.is_folder() {
        plan.folders += 1;
    } else {
        plan.others += 1;
    }
}

/// What a walk left out, for answers.
pub(crate) fn left_out(rows: &[backmesh_source::LeftOut]) -> Vec<LeftOut> {
    let row = |row: &backmesh_source::LeftOut| LeftOut {
        source: match row.source {
            Source::Rule => RuleSource::Rule,
            Source::IgnoreFile => RuleSource::IgnoreFile,
            Source::GitIgnore => RuleSource::Gitignore,
            Source::Default => RuleSource::Default,
            Source::CacheTag => RuleSource::CacheTag,
            Source::NoDump => RuleSource::Nodump,
            Source::FileSystem => RuleSource::FileSystem,
            Source::Others => RuleSource::Others,
        },
        pattern: String::from_utf8_lossy(&row.pattern).into_owned(),
        files: row.files,
        folders: row.folders,
        bytes: row.bytes,
        example: PathText::new(&row.example),
    };
    rows.iter().map(row).collect()
}

/// Sums up folders as the walk leaves them: only those on the way to the one at hand are kept, and the largest of the others.
#[derive(Default)]
struct Sizes {
    open: Vec<Open>,
    biggest: Vec<(u64, u64, Vec<u8>)>,
}

struct Open {
    path: Vec<u8>,
    files: u64,
    bytes: u64,
    largest_inside: u64,
}

impl Sizes {
    fn add(&mut self, item: &WalkItem) {
        if !item.stat.is_file() {
            return;
        }
        let end = item.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let folder = &item.path[..end];
        while self.open.last().is_some_and(|open| !is_inside(folder, &open.path)) {
            self.close();
        }
        // The folders between, which had no files of their own so far.
        let known = self.open.last().map_or(0, |open| open.path.len());
        let is_open = self.open.last().is_some_and(|open| open.path == folder);
        let slashes = folder.iter().enumerate().skip(known + 1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain((!is_open).then_some(folder.len())) {
            self.open.push(Open { path: folder[..end].to_vec(), files: 0, bytes: 0, largest_inside: 0 });
        }
        if let Some(open) = self.open.last_mut() {
            open.files += 1;
            open.bytes += item.stat_key().size;
        }
    }

    fn close(&mut self) {
        let Some(Open { path, files, bytes, largest_inside }) = self.open.pop() else { return };
        if let Some(above) = self.open.last_mut() {
            above.files += files;
            above.bytes += bytes;
            above.largest_inside = above.largest_inside.max(bytes);
        }
        let is_dominated = largest_inside.saturating_mul(100) > bytes.saturating_mul(DOMINANT_PERCENT);
        if bytes == 0 || is_dominated {
            return;
        }
        self.biggest.push((bytes, files, path));
        if self.biggest.len() > 16 * BIGGEST {
            self.trim(2 * BIGGEST);
        }
    }

    fn trim(&mut self, count: usize) {
        self.biggest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
        self.biggest.truncate(count);
    }

    /// The largest folders; the protected ones themselves and those above them say nothing new.
    fn finish(mut self, roots: &[&[u8]]) -> Vec<FolderSize> {
        while !self.open.is_empty() {
            self.close();
        }
        let says_nothing = |path: &[u8]| roots.iter().any(|root| is_inside(root, path));
        self.biggest.retain(|(_, _, path)| !says_nothing(path));
        self.trim(BIGGEST);
        let size = |(bytes, files, path): (u64, u64, Vec<u8>)| FolderSize { path: PathText::new(&path), files, bytes };
        self.biggest.into_iter().map(size).collect()
    }
}

fn is_inside(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || folder == b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(root: &std::path::Path) -> ProtectPlan {
        let folders = BTreeMap::from([(root.to_path_buf(), Rules::default())]);
        preview(&folders, Vec::new(), &mut |_, _| (), &mut |problem| panic!("{problem}"))
    }

    #[test]
    fn the_largest_folders_are_told_once() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().canonicalize().unwrap();
        let write = |path: &str, bytes: usize| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![0; bytes]).unwrap();
        };
        write("a/b/c/large", 5000);
        write("a/b/c/more", 4000);
        write("a/small", 100);
        write("d/e", 3000);
        write("d/f/g", 2000);
        write("top", 50);
        write("empty/none", 0);
        let plan = plan(&root);
        assert_eq!((plan.files, plan.folders, plan.others, plan.bytes), (7, 7, 0, 14_150));
        let told: Vec<(String, u64, u64)> = plan
            .biggest
            .iter()
            .map(|size| (size.path.path.strip_prefix(root.to_str().unwrap()).unwrap().to_owned(), size.files, size.bytes))
            .collect();
        let expected = [("/a/b/c", 2, 9000), ("/d", 2, 5000), ("/d/f", 1, 2000)];
        assert_eq!(told, expected.map(|(path, files, bytes)| (path.to_owned(), files, bytes)));
    }

    #[test]
    fn of_many_folders_the_largest_ones_are_found() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().canonicalize().unwrap();
        for number in 0..500 {
            std::fs::create_dir(root.join(format!("{number:03}"))).unwrap();
            std::fs::write(root.join(format!("{number:03}/x")), vec![0; (number * 37) % 500 + 1]).unwrap();
        }
        let plan = plan(&root);
        assert_eq!(plan.biggest.iter().map(|size| size.bytes).collect::<Vec<_>>(), (491..=500).rev().collect::<Vec<_>>());
    }
}
