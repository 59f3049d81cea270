//! What is protected, what is left out and what a backup would keep, as text.

use super::{count, path, text};
use crate::units::display_size;
use backmesh_control::{FileSystems, LeftOut, ProtectPlan, ProtectResult, ProtectedFolder, RuleSource};

/// Rules that are told one by one after a backup.
const ROWS_AFTER_BACKUP: usize = 3;
/// Rules that are told one by one where the person asks for them.
const ROWS_IN_PLAN: usize = 15;

pub(super) fn protect(result: &ProtectResult) -> String {
    if !result.defaults.is_empty() {
        let note = "A pattern that begins with / counts where the whole file system is protected. Besides, the contents of folders with a\n\
                    CACHEDIR.TAG are left out. None of this with --no-defaults; --include takes back some of it.\n";
        let line = |rule: &backmesh_control::DefaultPattern| format!("{:<28} {}\n", text(&rule.pattern), text(&rule.what));
        return result.defaults.iter().map(line).collect::<String>() + note;
    }
    if result.protected.is_empty() {
        return "Nothing is protected.\n".to_owned();
    }
    let folders = result.protected.iter().map(|folder| format!("protected {}\n{}", path(&folder.path), rules(folder)));
    folders.collect::<String>() + &result.plan.as_ref().map(plan).unwrap_or_default()
}

fn rules(folder: &ProtectedFolder) -> String {
    rule_words(folder).iter().map(|words| format!("          {words}\n")).collect()
}

/// What a folder's rules say, one a line; nothing where it has none.
pub(super) fn rule_words(folder: &ProtectedFolder) -> Vec<String> {
    let rules = &folder.rules;
    let pattern = |pattern: &String| match pattern.strip_prefix('!') {
        Some(back) => format!("takes back {}", text(back)),
        None => format!("leaves out {}", text(pattern)),
    };
    let mut words: Vec<String> = rules.patterns.iter().map(pattern).collect();
    let mut say = |is: bool, what: &str| words.extend(is.then(|| what.to_owned()));
    say(!rules.defaults, "keeps caches and trash");
    say(rules.gitignore, "leaves out what .gitignore says");
    say(rules.nodump, "leaves out what has the no-dump flag");
    say(rules.file_systems == FileSystems::One, "leaves out all other file systems");
    say(rules.file_systems == FileSystems::All, "keeps other file systems, those behind a network too");
    words
}

fn plan(plan: &ProtectPlan) -> String {
    let others =
        if plan.others > 0 { format!(" and {}", count(plan.others, "other entry", "other entries")) } else { String::new() };
    let mut lines = format!(
        "a backup would keep {} in {}{others}: {} before deduplication and compression\n",
        count(plan.files, "file", "files"),
        count(plan.folders, "folder", "folders"),
        display_size(plan.bytes),
    );
    if !plan.biggest.is_empty() {
        lines.push_str("the largest folders\n");
    }
    for folder in &plan.biggest {
        lines.push_str(&format!(
            "{:>12}  {}, {}\n",
            display_size(folder.bytes),
            path(&folder.path),
            count(folder.files, "file", "files")
        ));
    }
    if !plan.left_out.is_empty() {
        lines.push_str("left out\n");
    }
    for row in plan.left_out.iter().take(ROWS_IN_PLAN) {
        let example = if row.example.path.is_empty() { String::new() } else { format!(", such as {}", path(&row.example)) };
        lines.push_str(&format!("  {}: {}{}{example}\n", rule(row), amount(row.files, row.folders), size(row)));
    }
    if plan.left_out.len() > ROWS_IN_PLAN {
        lines.push_str(&format!("  and by {} more rules; --json tells all\n", plan.left_out.len() - ROWS_IN_PLAN));
    }
    if plan.problems > 0 {
        lines.push_str(&format!("{} cannot be read.\n", count(plan.problems, "entry", "entries")));
    }
    lines + "nothing was changed\n"
}

/// What a backup left out, in a line.
pub(super) fn left_out(rows: &[LeftOut]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let (files, folders) = rows.iter().fold((0, 0), |(files, folders), row| (files + row.files, folders + row.folders));
    let mut told: Vec<String> =
        rows.iter().take(ROWS_AFTER_BACKUP).map(|row| format!("{} {}", amount(row.files, row.folders), rule(row))).collect();
    if rows.len() > ROWS_AFTER_BACKUP {
        told.push(format!("the rest by {}", count((rows.len() - ROWS_AFTER_BACKUP) as u64, "more rule", "more rules")));
    }
    format!("left out: {}; {}\n", amount(files, folders), told.join(", "))
}

fn amount(files: u64, folders: u64) -> String {
    match (files, folders) {
        (files, 0) => count(files, "file", "files"),
        (0, folders) => count(folders, "folder", "folders"),
        (files, folders) => format!("{} and {}", count(files, "file", "files"), count(folders, "folder", "folders")),
    }
}

fn size(row: &LeftOut) -> String {
    if row.bytes == 0 { String::new() } else { format!(" ({})", display_size(row.bytes)) }
}

fn rule(row: &LeftOut) -> String {
    let pattern = text(&row.pattern);
    match row.source {
        RuleSource::Rule => format!("by the rule {pattern}"),
        RuleSource::IgnoreFile => format!("by {pattern} in a .backmeshignore"),
        RuleSource::Gitignore => format!("by {pattern} in a .gitignore"),
        RuleSource::Default => format!("by the default {pattern}"),
        RuleSource::CacheTag => "by a CACHEDIR.TAG".to_owned(),
        RuleSource::Nodump => "by the no-dump flag".to_owned(),
        RuleSource::FileSystem => format!("as {pattern}"),
        RuleSource::Others => "by other rules".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_control::{FolderRules, FolderSize, PathText};

    #[test]
    fn folders_with_their_rules() {
        let folder = |rules| ProtectedFolder { path: PathText::new(b"/home/anna"), rules };
        let result = |rules| ProtectResult { protected: vec![folder(rules)], ..ProtectResult::default() };
        assert_eq!(protect(&result(FolderRules::default())), "protected /home/anna\n");
        let rules = FolderRules {
            patterns: vec!["*.iso".into(), "!/keep\n.iso".into()],
            defaults: false,
            file_systems: FileSystems::One,
            ..FolderRules::default()
        };
        assert_eq!(
            protect(&result(rules)),
            "protected /home/anna\n          leaves out *.iso\n          takes back /keep\\n.iso\n          keeps caches and trash\n          leaves out all other file systems\n"
        );
    }

    #[test]
    fn plans_and_what_is_left_out() {
        let row = |source, pattern: &str, files, folders| LeftOut {
            source,
            pattern: pattern.into(),
            files,
            folders,
            bytes: files * 1024,
            example: PathText::new(b"/a/x"),
        };
        let rows = vec![
            row(RuleSource::Default, "**/.cache/*", 0, 4),
            row(RuleSource::Rule, "*.iso", 2, 0),
            row(RuleSource::CacheTag, "CACHEDIR.TAG", 1, 1),
            row(RuleSource::IgnoreFile, "*.o", 1, 0),
        ];
        assert_eq!(
            left_out(&rows),
            "left out: 4 files and 5 folders; 4 folders by the default **/.cache/*, 2 files by the rule *.iso, 1 file and 1 folder by a CACHEDIR.TAG, the rest by 1 more rule\n"
        );
        let biggest = vec![FolderSize { path: PathText::new(b"/a/b"), files: 2, bytes: 2048 }];
        let told = plan(&ProtectPlan { files: 3, folders: 1, others: 0, bytes: 4096, biggest, left_out: rows, problems: 1 });
        for part in [
            "3 files in 1 folder: 4.00 KiB",
            "2.00 KiB  /a/b, 2 files",
            "by the rule *.iso: 2 files (2.00 KiB), such as /a/x",
            "1 entry cannot",
            "nothing was changed",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
