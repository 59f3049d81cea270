//! What is left out without being asked: only what programs make again by themselves, and what was thrown away.

use std::sync::{Arc, OnceLock};

use super::list::{List, Patterns};
use super::tally::Source;

/// A default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRule {
    /// From the protected folder on; those that begin with `/` count only where the whole file system, `/`, is protected.
    pub pattern: &'static str,
    /// What it is.
    pub what: &'static str,
}

const fn rule(pattern: &'static str, what: &'static str) -> DefaultRule {
    DefaultRule { pattern, what }
}

/// The defaults. The folders themselves are kept, so that programs find them after a restore.
pub const DEFAULTS: [DefaultRule; 20] = [
    rule("**/.cache/*", "caches of programs (XDG base directories), browsers and thumbnails among them"),
    rule("**/.thumbnails/*", "thumbnails"),
    rule("**/.local/share/Trash/*", "the trash"),
    rule("**/.Trash-[0-9]*/*", "the trash of another disk"),
    rule("**/.Trash/[0-9]*/*", "the trash of another disk"),
    rule("**/$RECYCLE.BIN/*", "the trash of a Windows disk"),
    rule("**/.var/app/*/cache/*", "caches of Flatpak programs"),
    rule("**/Cache/Cache_Data/*", "the web cache of Chromium and of programs built on it"),
    rule("**/Code Cache/*", "the code cache of Chromium and of programs built on it"),
    rule("**/GPUCache/*", "the graphics cache of Chromium and of programs built on it"),
    rule("**/DawnCache/*", "the graphics cache of Chromium and of programs built on it"),
    rule("**/GrShaderCache/*", "the graphics cache of Chromium and of programs built on it"),
    rule("**/ShaderCache/*", "the graphics cache of Chromium and of programs built on it"),
    rule("**/.npm/_cacache/*", "packages that npm fetched"),
    rule("**/.gradle/caches/*", "packages that Gradle fetched, and what it built"),
    rule("/tmp/*", "files that do not survive a restart"),
    rule("/var/cache/*", "caches of the system, packages that were installed among them"),
    rule("/swapfile", "swap space"),
    rule("/swap.img", "swap space"),
    rule("/var/swap", "swap space"),
];

/// The defaults that count for a folder.
pub(super) fn list(is_whole_system: bool) -> Arc<List> {
    static LISTS: [OnceLock<Arc<List>>; 2] = [const { OnceLock::new() }; 2];
    let list = LISTS[usize::from(is_whole_system)].get_or_init(|| {
        let counts = |default: &&DefaultRule| is_whole_system || !default.pattern.starts_with('/');
        let patterns = DEFAULTS.iter().filter(counts).map(|default| default.pattern);
        // That each of them can be read is tested.
        Patterns::from_source(Source::Default, patterns).unwrap_or_default().0
    });
    Arc::clone(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_be_read_and_keep_the_folder_itself() {
        assert_eq!(list(true).patterns.len(), DEFAULTS.len());
        assert_eq!(list(false).patterns.len(), DEFAULTS.iter().filter(|default| default.pattern.starts_with("**/")).count());
        let left = |path: &str| {
            let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            let (name, folder) = names.split_last().unwrap();
            list(true).patterns.iter().any(|pattern| pattern.matches(folder, name, true))
        };
        for path in
            ["home/a/.cache/x", ".cache/mozilla", "a/.local/share/Trash/files", "a/.Trash-1000/info", "tmp/x", "var/cache/apt"]
        {
            assert!(left(path), "{path}");
        }
        for path in ["home/a/.cache", "a/.local/share", "a/Trash/x", "a/tmp/x", "srv/var/cache/x", "tmp", "a/cache/x"] {
            assert!(!left(path), "{path}");
        }
    }
}
