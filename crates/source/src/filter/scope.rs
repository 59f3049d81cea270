//! What the rules say of the entries of one folder. Lists are shared by all folders that they reach; for each folder it is worked out
//! once which patterns can match there at all, which for most is a handful.

use std::sync::Arc;

use super::defaults;
use super::list::{BadPattern, List, read_ignore_file};
use super::tally::{Source, Tally};
use super::{FileSystems, Rules};
use crate::os::{self, Handle};
use crate::stat::Stat;

/// The largest ignore file, in bytes.
pub(crate) const IGNORE_FILE_BYTES_MAX: usize = 1 << 20;
/// The first bytes of a `CACHEDIR.TAG`: <https://bford.info/cachedir/>.
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";
pub(crate) const IGNORE_FILE_NAME: &[u8] = b".backmeshignore";
const GIT_IGNORE_NAME: &[u8] = b".gitignore";

/// Whether a file with these first bytes marks a cache.
pub(crate) fn is_cache_tag(head: &[u8]) -> bool {
    head.starts_with(CACHE_TAG)
}

/// The rules that reach a folder, and all below it that has no ignore files of its own.
#[derive(Debug)]
pub(crate) struct Scope {
    rules: Rules,
    /// In the order in which they are asked, each with the depth of its folder.
    lists: Vec<(Arc<List>, usize)>,
    /// Where the `.gitignore`s begin in `lists`.
    git_from: usize,
}

/// What a folder's own ignore files hold.
#[derive(Debug, Default)]
pub(crate) struct IgnoreFiles {
    pub(crate) own: Option<Vec<u8>>,
    pub(crate) git: Option<Vec<u8>>,
}

impl Scope {
    /// The rules of a protected folder, so many names deep.
    pub(crate) fn new(rules: &Rules, depth: usize) -> Self {
        let mut lists = vec![(Arc::clone(&rules.patterns.0), depth)];
        lists.retain(|(list, _)| !list.patterns.is_empty());
        let git_from = lists.len();
        if rules.use_defaults {
            lists.push((defaults::list(depth == 0), depth));
        }
        Self { rules: rules.clone(), lists, git_from }
    }

    /// With the ignore files of a folder so many names deep; what is wrong with lines of the program's own ones is returned too.
    pub(crate) fn with_files(&self, files: &IgnoreFiles, depth: usize) -> (Self, Vec<BadPattern>) {
        let mut scope = Self { rules: self.rules.clone(), lists: self.lists.clone(), git_from: self.git_from };
        let mut wrong = Vec::new();
        if let Some(text) = &files.git {
            // Git passes over what it does not understand, in files that were written for git.
            let (list, _) = read_ignore_file(Source::GitIgnore, text);
            scope.lists.insert(scope.git_from, (Arc::new(list), depth));
        }
        if let Some(text) = &files.own {
            let (list, bad) = read_ignore_file(Source::IgnoreFile, text);
            let first = scope.lists.iter().take_while(|(list, _)| list.source == Source::Rule).count();
            scope.lists.insert(first, (Arc::new(list), depth));
            scope.git_from += 1;
            wrong = bad;
        }
        (scope, wrong)
    }

    /// The ignore files to look for.
    pub(crate) fn ignore_file_names(&self) -> (Option<&'static [u8]>, Option<&'static [u8]>) {
        (self.rules.use_ignore_files.then_some(IGNORE_FILE_NAME), self.rules.use_gitignore.then_some(GIT_IGNORE_NAME))
    }

    /// The name of the file that marks a cache, where those count.
    pub(crate) fn cache_tag_name(&self) -> Option<&'static [u8]> {
        self.rules.use_defaults.then_some(CACHE_TAG_NAME)
    }

    pub(crate) fn file_systems(&self) -> FileSystems {
        self.rules.file_systems
    }

    /// What can match in a folder, given by its path from the root (or the walk's base) on.
    pub(crate) fn reach(self: &Arc<Self>, folder: &[u8], is_cache: bool) -> Reach {
        let names: Vec<&[u8]> = folder.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut active = Vec::new();
        for (at, (list, depth)) in self.lists.iter().enumerate() {
            let below = names.get(*depth..).unwrap_or_default();
            let reaching = list.patterns.iter().enumerate().rev().filter(|(_, pattern)| pattern.reaches(below));
            active.extend(reaching.map(|(number, _)| (at as u32, number as u32)));
        }
        Reach { scope: Arc::clone(self), active, is_cache }
    }
}

/// The patterns that can match entries of one folder, in the order in which they decide.
#[derive(Debug)]
pub(crate) struct Reach {
    scope: Arc<Scope>,
    active: Vec<(u32, u32)>,
    is_cache: bool,
}

impl Reach {
    /// Who leaves the entry out, if anyone does.
    fn leaves_out(&self, name: &[u8], is_folder: bool) -> Option<(Source, &[u8])> {
        for (at, number) in &self.active {
            let (list, _) = self.scope.lists.get(*at as usize)?;
            if self.is_cache && list.source == Source::Default {
                break;
            }
            let pattern = list.patterns.get(*number as usize)?;
            if pattern.fits(name, is_folder) {
                return (!pattern.is_negated).then(|| (list.source, pattern.text()));
            }
        }
        (self.is_cache && name != CACHE_TAG_NAME).then_some((Source::CacheTag, CACHE_TAG_NAME))
    }

    /// Whether the entry is to be passed over; it is counted then.
    pub(crate) fn passes(&self, folder: &Handle, name: &[u8], stat: &Stat, path: &[u8], tally: &mut Tally) -> bool {
        let is_folder = stat.is_folder();
        let by_flag = || self.scope.rules.skip_nodump && os::is_nodump(folder, name);
        let left_out = self.leaves_out(name, is_folder).or_else(|| by_flag().then_some((Source::NoDump, b"nodump")));
        if let Some((source, pattern)) = left_out {
            tally.add(source, pattern, path, is_folder, if stat.is_file() { stat.key.size } else { 0 });
        }
        left_out.is_some()
    }

    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }
}
