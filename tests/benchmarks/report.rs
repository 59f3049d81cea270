//! The rows, their bounds, and the table that comes out.

use crate::{Context, measure, peers};
use anyhow::{Error, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The parts that are measured together, in order.
pub(crate) const SECTIONS: [&str; 10] =
    ["kernel", "mail", "pictures", "wire", "line", "losses", "catalogue", "index", "million", "shards"];

/// What is measured, and the bound.
pub(crate) struct Row {
    /// What `--only` calls it.
    pub(crate) id: &'static str,
    /// What it is measured with.
    pub(crate) section: &'static str,
    /// In words.
    pub(crate) what: &'static str,
    /// The bound, in words.
    pub(crate) must: &'static str,
    /// The bound: what is compared is said in `must`.
    bound: Bound,
    /// The bound is a number of the whole data, so `--quick` cannot judge it.
    full_only: bool,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const fn row(id: &'static str, section: &'static str, what: &'static str, must: &'static str, bound: f64) -> Row {
    Row { id, section, what, must, bound: Bound::AtMost(bound), full_only: false }
}

const fn whole(row: Row) -> Row {
    Row { full_only: true, ..row }
}

const fn least(row: Row) -> Row {
    let (Bound::AtMost(bound) | Bound::AtLeast(bound)) = row.bound;
    Row { bound: Bound::AtLeast(bound), ..row }
}

const MIB: f64 = 1_048_576.0;

/// All rows, in the order of the table.
pub(crate) const ROWS: [Row; 43] = [
    row("first-cpu", "kernel", "first backup, CPU s of the owner", "<= 0.65 x restic's", 0.65),
    row("first-wall", "kernel", "first backup, wall", "<= restic's", 1.0),
    whole(row("stored", "kernel", "stored, before redundancy", "<= 210 MiB", 210.0 * MIB)),
    row("stored-ratio", "kernel", "stored, before redundancy", "<= 0.8 x restic's", 0.8),
    row("sent", "kernel", "bytes sent by a first backup, as n/k x stored", "<= 1.03", 1.03),
    whole(row("unchanged", "kernel", "unchanged again, wall", "<= 0.6 s", 0.6)),
    row("unchanged-restic", "kernel", "unchanged again, wall", "<= 0.15 x restic's", 0.15),
    row("unchanged-rustic", "kernel", "unchanged again, wall", "<= 0.25 x rustic's", 0.25),
    row("unchanged-sent", "kernel", "unchanged again, sent", "< 64 KiB", 65_535.0),
    whole(row("next", "kernel", "a later stable release, added", "<= 13 MB", 13e6)),
    row("next-restic", "kernel", "a later stable release, added", "<= 0.65 x restic's", 0.65),
    whole(row("restore-cp", "kernel", "restore, CPU s", "<= cp -r + 3 s", 3.0)),
    row("restore-cpu", "kernel", "restore, CPU s", "<= 0.95 x restic's", 0.95),
    row("restore-wall", "kernel", "restore, wall", "<= restic's", 1.0),
    row("restore-same", "kernel", "restored files that differ from the original", "0", 0.0),
    row("memory-backup", "kernel", "peak memory of the owner, backup", "<= 150 MB", 150e6),
    row("memory-restore", "kernel", "peak memory of the owner, restore", "<= 150 MB", 150e6),
    row("idle-memory", "kernel", "idle node, memory", "<= 40 MB", 40e6),
    row("idle-cpu", "kernel", "idle node, share of a core over 30 s", "< 0.2 %", 0.002),
    row("mail", "mail", "a day of mail in a 1 GB store, added", "<= 10 MB", 10e6),
    row("mail-restic", "mail", "a day of mail in a 1 GB store, added", "<= 0.25 x restic's", 0.25),
    row("pictures-cpu", "pictures", "4 GB that do not compress, CPU s of the owner", "<= 0.6 x restic's", 0.6),
    row("pictures-added", "pictures", "4 GB that do not compress, added, as part of the input", "<= 1.005", 1.005),
    row("pictures-memory", "pictures", "4 GB that do not compress, peak memory of the owner", "<= 150 MB", 150e6),
    row("wire", "wire", "bytes on the owner's interface, first backup, as n/k x stored", "<= 1.03", 1.03),
    least(row("line", "line", "100 Mbit/s with 40 ms, rate of a backup as part of iperf3's", ">= 0.9", 0.9)),
    row("losses-time", "losses", "two of ten holders killed during a backup, wall as part of the undisturbed", "<= 1.5", 1.5),
    row("losses-kept", "losses", "the same, files lost", "0", 0.0),
    row("catalogue-ls", "catalogue", "500,000 files, ls of a folder, fetched", "<= 4 MB", 4e6),
    row("catalogue-one", "catalogue", "the same, restore of one file, fetched", "<= 4 MB", 4e6),
    row("catalogue-recover", "catalogue", "the same, recovery of one file by a new machine, fetched", "<= 4 MB", 4e6),
    row("catalogue-first", "catalogue", "the same, recovery of all, until the first file is there", "<= 60 s", 60.0),
    row("catalogue-diff", "catalogue", "the same, diff of two snapshots between which 20 files changed, fetched", "<= 4 MB", 4e6),
    whole(row("index-mesh", "index", "index of 500 GB in the mesh, before redundancy, as part of the vault", "< 0.3 %", 0.003)),
    whole(row("index-local", "index", "the same, local, as part of the vault", "< 0.3 %", 0.003)),
    row("index-insert", "index", "the same, entering a chunk, as chunks a second", "no bound", f64::INFINITY),
    row("index-lookup", "index", "the same, finding a chunk, as chunks a second", "no bound", f64::INFINITY),
    whole(row("shards-start", "shards", "a holder with 1,000,000 shards starts, after a clean end", "<= 5 s", 5.0)),
    whole(row("shards-killed", "shards", "a holder with 1,000,000 shards starts, after kill -9", "<= 5 s", 5.0)),
    whole(row("million-memory", "million", "a million files, peak memory of the owner", "<= 300 MB", 300e6)),
    row("million-unchanged", "million", "a million files unchanged again, wall as part of find with stat", "<= 12", 12.0),
    row("million-first", "million", "a million files, first backup, wall as part of find with stat", "no bound", f64::INFINITY),
    row("repair", "repair", "repair, bytes moved as part of the least possible", "<= 1.1", 1.1),
];

/// What was found for a row.
#[derive(Default, Clone)]
pub(crate) struct Found {
    ours: String,
    peers: Vec<(String, String)>,
    ratio: String,
    value: Option<f64>,
    why: Option<String>,
    note: String,
}

impl Found {
    /// What was measured, as people read it, and the number that the bound is about.
    pub(crate) fn new(ours: impl Into<String>, value: impl Into<Option<f64>>) -> Self {
        Self { ours: ours.into(), value: value.into(), ..Self::default() }
    }

    /// A figure of another program.
    pub(crate) fn peer(mut self, name: &str, text: impl Into<String>) -> Self {
        self.peers.push((name.to_owned(), text.into()));
        self
    }

    /// Figures of other programs.
    pub(crate) fn peers(mut self, figures: &[(String, String)]) -> Self {
        self.peers.extend_from_slice(figures);
        self
    }

    /// Shows the number that is judged as the ratio.
    pub(crate) fn ratio(mut self) -> Self {
        self.ratio = self.value.map(|value| format!("{value:.3}")).unwrap_or_default();
        self
    }

    /// Shows the number that is judged as a percentage.
    pub(crate) fn ratio_of_percent(mut self) -> Self {
        self.ratio = self.value.map(|value| format!("{:.3} %", value * 100.0)).unwrap_or_default();
        self
    }

    /// Something to know about the figure.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Not measured, and why.
    pub(crate) fn missing(why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..Self::default() }
    }
}

/// What a run found.
pub(crate) struct Report {
    quick: bool,
    only: Vec<String>,
    about: Vec<(String, String)>,
    found: BTreeMap<&'static str, Found>,
}

impl Report {
    /// Nothing found yet.
    pub(crate) fn new(cx: &Context, only: Vec<String>) -> Result<Self> {
        for name in &only {
            if !ROWS.iter().any(|row| row.id == name || row.section == name) {
                bail!("there is no row or section {name}: --list shows them");
            }
        }
        let mut about = vec![
            ("date".to_owned(), measure::said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
            ("processor".to_owned(), measure::processor()),
            ("system".to_owned(), measure::said("uname", &["-srm"])),
            ("backmesh".to_owned(), measure::said(&cx.programs.join("backmesh").to_string_lossy(), &["--version"])),
        ];
        about.extend(cx.peers.iter().map(|kind| (kind.name().to_owned(), kind.version())));
        for kind in peers::ALL.iter().filter(|kind| !cx.peers.contains(kind)) {
            about.push((kind.name().to_owned(), "not installed".to_owned()));
        }
        let size = if cx.quick { "--quick: small data" } else { "all data" };
        about.push(("data".to_owned(), size.to_owned()));
        Ok(Self { quick: cx.quick, only, about, found: BTreeMap::new() })
    }

    /// Something to know about the run.
    pub(crate) fn about(&mut self, name: &str, text: impl Into<String>) {
        self.about.push((name.to_owned(), text.into()));
    }

    fn wants(&self, row: &Row) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row.id || name == row.section)
    }

    /// Whether one of a section's rows was asked for.
    pub(crate) fn wants_section(&self, section: &str) -> bool {
        ROWS.iter().any(|row| row.section == section && self.wants(row))
    }

    /// Whether one of these rows was asked for.
    pub(crate) fn wants_any(&self, ids: &[&str]) -> bool {
        ROWS.iter().any(|row| ids.contains(&row.id) && self.wants(row))
    }

    /// Notes what was found.
    pub(crate) fn set(&mut self, id: &'static str, found: Found) {
        eprintln!("   {id}: {} {} {}", found.ours, found.ratio, found.why.as_deref().unwrap_or_default());
        self.found.insert(id, found);
    }

    /// What is still missing in a section is missing because of its error.
    pub(crate) fn end_section(&mut self, section: &str, error: Option<Error>) {
        let why = error.map_or_else(|| "not asked for".to_owned(), |error| format!("{error:#}"));
        for row in ROWS.iter().filter(|row| row.section == section) {
            if !self.found.contains_key(row.id) {
                self.set(row.id, Found::missing(why.clone()));
            }
        }
    }

    fn verdict(&self, row: &Row, found: &Found) -> String {
        if let Some(why) = &found.why {
            return format!("not measured: {why}");
        }
        let Some(value) = found.value else { return "not judged: nothing to compare with".to_owned() };
        if self.quick && row.full_only {
            return "not judged: --quick".to_owned();
        }
        let inside = match row.bound {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        };
        if inside { "inside" } else { "outside" }.to_owned()
    }

    fn lines(&self) -> impl Iterator<Item = (&'static Row, Found, String)> {
        ROWS.iter().filter(|row| self.wants(row)).map(|row| {
            let none = || Found::missing("no holder rebuilds a shard by itself yet");
            let found = self.found.get(row.id).cloned().unwrap_or_else(none);
            let verdict = self.verdict(row, &found);
            (row, found, verdict)
        })
    }

    /// Whether no row is outside.
    pub(crate) fn is_all_inside(&self) -> bool {
        self.lines().all(|(_, _, verdict)| verdict != "outside")
    }

    /// Writes it to standard output: a table in Markdown, or lines of JSON.
    pub(crate) fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            let about: serde_json::Map<String, Value> =
                self.about.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
            println!("{}", json!({ "type": "about", "about": about }));
            for (row, found, verdict) in self.lines() {
                let peers: serde_json::Map<String, Value> =
                    found.peers.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
                let line = json!({
                    "type": "row", "id": row.id, "what": row.what, "ours": found.ours, "peers": peers, "value": found.value,
                    "must": row.must, "verdict": verdict, "note": found.note,
                });
                println!("{line}");
            }
            return Ok(());
        }
        self.about.iter().for_each(|(name, text)| println!("- {name}: {text}"));
        println!("\n| what | Backmesh | others | ratio | must | |\n|---|---|---|---|---|---|");
        for (row, found, verdict) in self.lines() {
            let peers: Vec<String> = found.peers.iter().map(|(name, text)| format!("{name} {text}")).collect();
            let note = if found.note.is_empty() { String::new() } else { format!(" ({})", found.note) };
            let Found { ours, ratio, .. } = &found;
            println!("| {} | {ours} | {} | {ratio} | {} | {verdict}{note} |", row.what, peers.join(", "), row.must);
        }
        Ok(())
    }
}

/// Bytes as people read them.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.3} GB", bytes as f64 / 1e9),
    }
}

/// Seconds as people read them.
pub(crate) fn seconds_text(seconds: f64) -> String {
    format!("{seconds:.2} s")
}
