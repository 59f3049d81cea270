//! Results as text for people. Names come from other machines and old disks: all of them are escaped.

mod check;
mod manners;
mod peers;
mod rules;

use super::output::{local_file_time, local_time};
use crate::units::{count, display_size};
use backmesh_control::{
    Answer, BackupResult, DemoReport, EntryInfo, EntryKind, JoinResult, KeyResult, PathText, PlanItem, PlannedAction,
    ProtectedFolder, RestoreResult, SnapshotInfo, StatusResult, escape,
};
use std::io::IsTerminal;

/// The text of a result. `heading` where it is the first of its list, `more` where another part follows.
pub fn answer(answer: &Answer, heading: bool, more: bool) -> String {
    match answer {
        Answer::Backup(result) => backup(result),
        Answer::Snapshots(result) if result.snapshots.is_empty() && heading && !more => {
            "There are no snapshots yet.\n".to_owned()
        }
        Answer::Snapshots(result) => list(heading, SNAPSHOT_HEADING, result.snapshots.iter().map(snapshot)),
        Answer::Ls(result) => result.entries.iter().map(entry).collect(),
        Answer::Diff(result) => super::diff::text(result),
        Answer::Find(result) => super::find::text(result, heading),
        Answer::Restore(result) => restore(result, more),
        Answer::Stats(result) => super::stats::text(result, std::io::stdout().is_terminal()),
        Answer::Status(result) => status(result),
        Answer::Peers(result) => peers::text(result, heading),
        Answer::Join(result) => join(result),
        Answer::Protect(result) => rules::protect(result),
        Answer::Check(result) => check::text(result),
        Answer::Key(result) => key(result),
        Answer::Schedule(result) => manners::schedule(result),
        Answer::Limits(result) => manners::limits(result),
        Answer::Demo(result) => demo(result),
        // The admin's command line has words of its own, and these two need none.
        Answer::Create(_) | Answer::Invite(_) | Answer::Charter(_) | Answer::Dump(_) | Answer::Reload | Answer::Shutdown => {
            String::new()
        }
    }
}

fn list(heading: bool, title: &str, lines: impl Iterator<Item = String>) -> String {
    let title = if heading { title } else { "" };
    std::iter::once(title.to_owned()).chain(lines).collect()
}

pub(super) fn path(path: &PathText) -> String {
    path.bytes().map_or_else(|| escape(path.path.as_bytes()), |bytes| escape(&bytes))
}

fn text(text: &str) -> String {
    escape(text.as_bytes())
}

pub(super) fn short(id: &str) -> String {
    escape(id.get(..8).unwrap_or(id).as_bytes())
}

fn backup(result: &BackupResult) -> String {
    let mut lines = format!(
        "snapshot {}: {}, {} read, {} added, {} sent in {:.1} s\n",
        short(&result.snapshot),
        count(result.files, "file", "files"),
        display_size(result.bytes_read),
        display_size(result.bytes_added),
        display_size(result.bytes_sent),
        result.seconds,
    );
    if !result.complete {
        lines.push_str("It is safe; the agent delivers the remaining shards as their holders appear.\n");
    }
    lines.push_str(&notes(&result.notes));
    lines.push_str(&rules::left_out(&result.left_out));
    lines.push_str(&problems(result.problems, "could not be backed up"));
    lines
}

fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("{}.\n", text(note))).collect()
}

fn problems(number: u64, what: &str) -> String {
    if number == 0 { String::new() } else { format!("{} {what}.\n", count(number, "entry", "entries")) }
}

const SNAPSHOT_HEADING: &str = "snapshot  begun             files       size       added       host\n";

fn snapshot(info: &SnapshotInfo) -> String {
    format!(
        "{:<9} {:<17} {:<11} {:<10} {:<11} {}\n",
        short(&info.snapshot),
        local_time(info.started_at.0),
        info.files,
        display_size(info.bytes),
        display_size(info.bytes_added),
        text(&info.host),
    )
}

pub(super) fn entry(info: &EntryInfo) -> String {
    let kind = match info.kind {
        EntryKind::Directory => 'd',
        EntryKind::File => '-',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    };
    let name = |name: &str, number: u32| if name.is_empty() { number.to_string() } else { text(name) };
    let target = info.target.as_ref().map(|target| format!(" -> {}", path(target))).unwrap_or_default();
    format!(
        "{kind}{} {:<8} {:<8} {:>10} {} {}{target}{}\n",
        permissions(info.mode),
        name(&info.user, info.uid),
        name(&info.group, info.gid),
        display_size(info.bytes),
        local_file_time(info.modified.0),
        path(&info.path),
        if info.torn { "  (changed while it was read)" } else { "" },
    )
}

/// `rwxr-xr-x`, with the letters that `ls` uses for the upper three bits.
fn permissions(mode: u16) -> String {
    let mut letters: Vec<char> =
        "rwxrwxrwx".chars().enumerate().map(|(at, c)| if mode >> (8 - at) & 1 == 1 { c } else { '-' }).collect();
    for (bit, at, small, large) in [(0o4000, 2, 's', 'S'), (0o2000, 5, 's', 'S'), (0o1000, 8, 't', 'T')] {
        if mode & bit != 0 {
            letters[at] = if letters[at] == 'x' { small } else { large };
        }
    }
    letters.into_iter().collect()
}

fn restore(result: &RestoreResult, more: bool) -> String {
    let mut lines: String = result.plan.iter().map(plan_item).collect();
    if more {
        return lines;
    }
    if result.dry_run {
        let summary = format!(
            "nothing was changed; the plan for snapshot {}: {}, {} to write, {} to delete\n",
            short(&result.snapshot),
            count(result.files, "file", "files"),
            display_size(result.bytes_written),
            result.deleted
        );
        return lines + &summary;
    }
    lines.push_str(&format!(
        "snapshot {}: {} ({} unchanged), {} written, {} fetched, {} deleted in {:.1} s\n",
        short(&result.snapshot),
        count(result.files, "file", "files"),
        result.files_unchanged,
        display_size(result.bytes_written),
        display_size(result.bytes_fetched),
        result.deleted,
        result.seconds,
    ));
    lines + &notes(&result.notes) + &problems(result.problems, "could not be restored")
}

fn plan_item(item: &PlanItem) -> String {
    let action = match item.action {
        PlannedAction::Create => "create",
        PlannedAction::Replace => "replace",
        PlannedAction::Attributes => "attributes",
        PlannedAction::Delete => "delete",
    };
    format!("{action:<10} {:>10} {}\n", display_size(item.bytes), path(&item.path))
}

fn status(result: &StatusResult) -> String {
    let mut lines = Vec::new();
    let mut line = |title: &str, value: String| lines.push(format!("{title:<11} {value}\n"));
    match &result.node {
        None => line("node", "belongs to no workgroup".to_owned()),
        Some(node) => {
            line("node", format!("{} {}", text(&node.name), text(&node.id)));
            node.addresses.iter().for_each(|address| line("", text(address)));
        }
    }
    line("agent", if result.agent { "running" } else { "not running" }.to_owned());
    if let Some(group) = &result.workgroup {
        line("workgroup", format!("{} {}", text(&group.name), text(&group.id)));
        if result.agent {
            line("members", format!("{}, {} connected", group.members, group.connected));
        }
        if let Some(notice) = &group.notice {
            line("attention", text(notice));
        }
        line("level", format!("{} {}", text(&group.level), text(&group.promise)).trim_end().to_owned());
    }
    if let Some(vault) = &result.vault {
        line("vault", text(&vault.id));
        line("health", vault.health.word().to_owned());
        if result.agent {
            let newest = vault.newest.map(|time| format!(", the newest of {}", local_time(time.0))).unwrap_or_default();
            line("snapshots", format!("{}{newest}", vault.snapshots));
            line("stored", format!("{} before redundancy", display_size(vault.bytes_stored)));
        }
        if vault.shards_pending > 0 {
            line("pending", count(vault.shards_pending, "shard waits for its holder", "shards wait for their holders"));
        }
        if vault.locked {
            line("key", "not on this machine: only the recovery phrase opens the vault".to_owned());
        }
        let folder = |folder: &ProtectedFolder| {
            let rules: String = rules::rule_words(folder).iter().map(|words| format!("\n              {words}")).collect();
            path(&folder.path) + &rules
        };
        let protected: Vec<String> = vault.protected.iter().map(folder).collect();
        line("protected", if protected.is_empty() { "nothing".to_owned() } else { protected.join("\n            ") });
    }
    if let Some(backups) = &result.backups {
        lines.push(manners::backups(backups));
    }
    let mut line = |title: &str, value: String| lines.push(format!("{title:<11} {value}\n"));
    if let Some(shelf) = &result.shelf {
        line(
            "for others",
            format!(
                "{} in {} of {} offered",
                display_size(shelf.bytes_held),
                count(shelf.shards, "shard", "shards"),
                display_size(shelf.bytes_offered)
            ),
        );
        if shelf.damaged > 0 {
            line(
                "attention",
                format!("{} for others found damaged, and served no more", count(shelf.damaged, "shard", "shards")),
            );
        }
        if shelf.broken {
            line(
                "attention",
                "the disk did not confirm a write: check it, then start the machine again; until then nothing more is kept"
                    .to_owned(),
            );
        }
    }
    lines.concat()
}

fn join(result: &JoinResult) -> String {
    let mut lines = format!(
        "joined {} as {}\nnode   {}\nvault  {}\noffer  {}\n",
        text(&result.workgroup_name),
        text(&result.name),
        text(&result.node),
        text(&result.vault),
        display_size(result.offer_bytes),
    );
    if let Some(file) = &result.phrase_file {
        lines.push_str(&format!("phrase {}: keep it apart from this machine\n", path(file)));
    }
    if result.takeover {
        lines.push_str("The agent becomes the vault's next writer as soon as it meets its holders.\n");
    }
    lines
}

fn key(result: &KeyResult) -> String {
    let vault = short(&result.vault);
    match (result.locked, result.changed) {
        (true, true) => format!(
            "The key that opens vault {vault} is gone from this machine. Backups go on; only the recovery phrase opens what they store:\n\
             backmesh key unlock puts the key back.\n"
        ),
        (true, false) => format!("The key that opens vault {vault} is locked away: it is not on this machine.\n"),
        (false, true) => format!("The key that opens vault {vault} is on this machine again.\n"),
        (false, false) => format!("The key that opens vault {vault} is on this machine. backmesh key lock removes it.\n"),
    }
}

fn demo(report: &DemoReport) -> String {
    let mut lines = format!(
        "{} nodes, level {} ({} of {} shards rebuild a pack)\n{}: {} read, {} sealed, {} sent, {} kept by holders\n",
        report.nodes,
        text(&report.level),
        report.k,
        report.n,
        count(report.files, "file", "files"),
        display_size(report.bytes_read),
        display_size(report.bytes_added),
        display_size(report.bytes_sent),
        display_size(report.bytes_stored),
    );
    for holder in &report.holders {
        let fate = if holder.lost { "  lost" } else { "" };
        lines.push_str(&format!(
            "  {:<12} {:>6} shards {:>10}{fate}\n",
            text(&holder.name),
            holder.shards,
            display_size(holder.bytes)
        ));
    }
    for step in &report.steps {
        lines.push_str(&format!("  {:<24} {:>8.2} s\n", text(&step.name), step.seconds));
    }
    report.differences.iter().for_each(|difference| lines.push_str(&format!("  {}\n", text(difference))));
    lines.push_str(if report.identical { "Everything came back identical.\n" } else { "NOT everything came back.\n" });
    if let Some(folder) = &report.kept {
        lines.push_str(&format!("kept in {}\n", path(folder)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_control::ProtectResult;

    #[test]
    fn modes_as_ls_shows_them() {
        for (mode, letters) in
            [(0o644, "rw-r--r--"), (0o4755, "rwsr-xr-x"), (0o2644, "rw-r-Sr--"), (0o1777, "rwxrwxrwt"), (0, "---------")]
        {
            assert_eq!(permissions(mode), letters);
        }
    }

    #[test]
    fn hostile_names_cannot_draw_on_the_terminal() {
        let folder = ProtectedFolder { path: PathText::new(b"/a\x1b[2J\n/b\xff"), ..ProtectedFolder::default() };
        let result = ProtectResult { protected: vec![folder], ..ProtectResult::default() };
        assert_eq!(answer(&Answer::Protect(result), true, false), "protected /a\\u{1b}[2J\\n/b\\xff\n");
    }
}
