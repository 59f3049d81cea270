//! What of a snapshot to bring back: the same patterns, asked of a catalogue and of the target.

use super::list::{List, Patterns};

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// It is chosen.
    Take,
    /// A folder that is not chosen itself; something below it may be, and then needs it.
    Pass,
    /// It is not chosen, nor is anything below it.
    Leave,
}

/// Chooses entries below some paths. Patterns are read from each of these paths on.
///
/// With `include`, only what fits one of these patterns is chosen, a folder with all that is in it; of that, or of everything where
/// there are none, `exclude` leaves out. Entries are best asked for folder by folder: what is known of the last folder is kept.
#[derive(Debug, Clone)]
pub struct Selection {
    tops: Vec<Vec<u8>>,
    include: Patterns,
    exclude: Patterns,
    folder: Option<(Vec<u8>, Inside)>,
}

/// What is known of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// It is none of the tops, nor below one.
    Not,
    /// So many bytes of its path are a top's; it is chosen as a whole, or only what fits.
    Top { bytes: usize, whole: bool },
    /// Nothing in it is chosen.
    Left,
}

impl Selection {
    /// Chooses below `tops`: paths without a leading slash, none below another; the empty one is the root.
    pub fn new(tops: Vec<Vec<u8>>, include: Patterns, exclude: Patterns) -> Self {
        Self { tops, include, exclude, folder: None }
    }

    /// Whether everything is chosen.
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// What to do with an entry of a folder, whose path has no leading slash.
    pub fn choose(&mut self, folder: &[u8], name: &[u8], is_folder: bool) -> Choice {
        let inside = match &self.folder {
            Some((known, inside)) if known == folder => *inside,
            _ => {
                let inside = self.enter(folder);
                self.folder = Some((folder.to_vec(), inside));
                inside
            }
        };
        self.step(inside, folder, name, is_folder)
    }

    fn enter(&self, folder: &[u8]) -> Inside {
        let is_above = |top: &&Vec<u8>| {
            let rest = folder.strip_prefix(top.as_slice());
            rest.is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
        };
        let Some(top) = self.tops.iter().find(is_above) else { return Inside::Not };
        let mut inside = Inside::Top { bytes: top.len(), whole: self.include.is_empty() };
        let mut start = top.len() + usize::from(!top.is_empty());
        while start < folder.len() {
            let end = folder[start..].iter().position(|byte| *byte == b'/').map_or(folder.len(), |length| start + length);
            let above = &folder[..start.saturating_sub(1)];
            inside = match self.step(inside, above, &folder[start..end], true) {
                Choice::Take => Inside::Top { bytes: top.len(), whole: true },
                Choice::Pass => Inside::Top { bytes: top.len(), whole: false },
                Choice::Leave => return Inside::Left,
            };
            start = end + 1;
        }
        inside
    }

    fn step(&self, inside: Inside, folder: &[u8], name: &[u8], is_folder: bool) -> Choice {
        let (bytes, whole) = match inside {
            Inside::Left => return Choice::Leave,
            Inside::Top { bytes, whole } => (bytes, whole),
            Inside::Not => return self.outside(folder, name, is_folder),
        };
        let mut names: Vec<&[u8]> = folder[bytes..].split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        if decides(&self.exclude.0, &names, name, is_folder) == Some(true) {
            return Choice::Leave;
        }
        if decides(&self.include.0, &names, name, is_folder).unwrap_or(whole) {
            return Choice::Take;
        }
        names.push(name);
        let below = |list: &List| list.patterns.iter().any(|pattern| !pattern.is_negated && pattern.reaches_below(&names));
        if is_folder && below(&self.include.0) { Choice::Pass } else { Choice::Leave }
    }

    /// A top itself was asked for by its name; what else lies outside is only on the way.
    fn outside(&self, folder: &[u8], name: &[u8], is_folder: bool) -> Choice {
        let is_top = |top: &Vec<u8>| {
            let rest =
                if folder.is_empty() { Some(&top[..]) } else { top.strip_prefix(folder).and_then(|top| top.strip_prefix(b"/")) };
            rest == Some(name)
        };
        match (is_folder, self.include.is_empty()) {
            (true, true) if self.tops.iter().any(is_top) => Choice::Take,
            (true, _) => Choice::Pass,
            (false, only_excludes) if only_excludes || self.tops.iter().any(is_top) => Choice::Take,
            (false, _) => Choice::Leave,
        }
    }
}

/// What the last pattern that fits says; none where none does.
fn decides(list: &List, folder: &[&[u8]], name: &[u8], is_folder: bool) -> Option<bool> {
    list.patterns.iter().rev().find(|pattern| pattern.matches(folder, name, is_folder)).map(|pattern| !pattern.is_negated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tops: &[&str], include: &[&str], exclude: &[&str], path: &str, expected: Choice) {
        let tops = tops.iter().map(|top| top.as_bytes().to_vec()).collect();
        let mut selection = Selection::new(tops, Patterns::new(include).unwrap(), Patterns::new(exclude).unwrap());
        let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        assert_eq!(selection.choose(folder.as_bytes(), name.as_bytes(), is_folder), expected, "{path} {include:?} {exclude:?}");
    }

    #[test]
    fn excluded_folders_are_left_with_all_in_them() {
        let check = |path, expected| check(&["home/a"], &[], &["/big", "*.o", "!keep.o"], path, expected);
        check("home/", Choice::Pass);
        check("home/a/", Choice::Take);
        check("home/a/big/", Choice::Leave);
        check("home/a/big/x/y", Choice::Leave);
        check("home/a/x/big", Choice::Take);
        check("home/a/x/a.o", Choice::Leave);
        check("home/a/x/keep.o", Choice::Take);
        check("link", Choice::Take);
    }

    #[test]
    fn only_what_is_included_is_taken_and_folders_only_on_the_way() {
        let check = |path, expected| check(&["home/a", "srv"], &["/pics/*.jpg", "/docs", "!*.tmp"], &["secret"], path, expected);
        check("home/", Choice::Pass);
        check("home/a/", Choice::Pass);
        check("home/a/pics/", Choice::Pass);
        check("home/a/pics/x.jpg", Choice::Take);
        check("home/a/pics/x.png", Choice::Leave);
        check("home/a/pics/deep/", Choice::Leave);
        check("home/a/docs/", Choice::Take);
        check("home/a/docs/b/c", Choice::Take);
        check("home/a/docs/b/c.tmp", Choice::Leave);
        check("home/a/docs/b/secret/c", Choice::Leave);
        check("home/a/other/", Choice::Leave);
        check("srv/docs/x", Choice::Take);
        check("link", Choice::Leave);
    }

    #[test]
    fn a_pattern_without_a_slash_may_match_anywhere() {
        check(&[""], &["*.jpg"], &[], "a/b/", Choice::Pass);
        check(&[""], &["*.jpg"], &[], "a/b/c.jpg", Choice::Take);
        check(&[""], &["*.jpg"], &[], "a/b.jpg/", Choice::Take);
        check(&[""], &["*.jpg"], &[], "a/b.jpg/c", Choice::Take);
        check(&["a/f.txt"], &["*.jpg"], &[], "a/f.txt", Choice::Take);
    }
}
