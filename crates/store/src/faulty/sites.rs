//! The places in the program from which syncs come, told by what is synced and what the program is doing, so that a test can leave out
//! the syncs of one place and see whether it is noticed.

use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, Default)]
pub(super) struct Sites {
    pub(super) phase: &'static str,
    pub(super) skipped: Option<String>,
    seen: BTreeMap<String, u64>,
}

impl Sites {
    /// Notes a sync that came; whether it is to be left out.
    pub(super) fn is_skipped(&mut self, kind: &str, path: &Path) -> bool {
        let names = path.components().map(|part| class(&part.as_os_str().to_string_lossy()));
        let site = format!("{}: {kind} {}", self.phase, names.collect::<Vec<_>>().join("/").replace("//", "/"));
        let is_skipped = self.skipped.as_ref() == Some(&site);
        *self.seen.entry(site).or_default() += 1;
        is_skipped
    }

    pub(super) fn seen(&self) -> Vec<(String, u64)> {
        self.seen.iter().map(|(site, count)| (site.clone(), *count)).collect()
    }
}

/// A name without the ids and numbers in it.
fn class(name: &str) -> String {
    let is_id = |word: &&str| word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.split(['-', '.']).find(is_id) {
        Some(_) => match name.split_once('.') {
            Some((_, suffix)) => format!("*.{suffix}"),
            None => "*".to_owned(),
        },
        None => name.to_owned(),
    }
}
