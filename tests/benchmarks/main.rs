//! The benchmark: Backmesh against restic, Borg and rustic on the same data in the same run. What the rows mean is in
//! docs/benchmarks.md.

mod delay;
mod group;
mod inputs;
mod measure;
mod peers;
mod report;
mod sections;

use anyhow::{Context as _, Result, bail};
use report::{ROWS, Report, SECTIONS};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str =
    "usage: benchmark [--quick] [--large] [--only ROW]... [--json] [--work DIR] [--programs DIR] [--keep] [--list]

  --quick          small data, a few minutes; bounds that only hold for the full data are not judged
  --large          a vault of 10 GB instead of 2 GB in the section catalogue
  --only ROW       only this row, or this section; may be repeated
  --json           one object a line instead of the table
  --work DIR       where everything is written (80 GB at most; default target)
  --programs DIR   where backmesh and backmesh-admin are (default: built for release, beside this program)
  --keep           leave what was fetched and unpacked, for the next run
  --list           the names of the rows";

/// What the command line said.
struct Options {
    quick: bool,
    large: bool,
    json: bool,
    keep: bool,
    only: Vec<String>,
    work: PathBuf,
    programs: Option<PathBuf>,
}

/// What every section is given.
pub(crate) struct Context {
    /// Small data.
    pub(crate) quick: bool,
    /// Data of the size that the bounds of the section catalogue were made for.
    pub(crate) large: bool,
    /// Where everything is written.
    pub(crate) work: PathBuf,
    /// Where backmesh and backmesh-admin are.
    pub(crate) programs: PathBuf,
    /// The programs to compare with that are there.
    pub(crate) peers: Vec<peers::Kind>,
}

impl Context {
    /// A new folder below the folder of this run. Folders with many files are not deleted before the end: for minutes after
    /// that, ext4 searches long for inodes for new files, and whoever writes next would pay.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let run = self.run();
        std::fs::create_dir_all(&run)?;
        let folder = (0..).map(|number| run.join(format!("{name}-{number}"))).find(|folder| !folder.exists());
        let folder = folder.context("no name is free")?;
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    fn run(&self) -> PathBuf {
        self.work.join(format!("run-{}", std::process::id()))
    }
}

fn main() -> Result<ExitCode> {
    let Some(options) = options()? else { return Ok(ExitCode::SUCCESS) };
    // A folder of its own, since it is emptied in the end.
    let work = options.work.join("backmesh-benchmark");
    std::fs::create_dir_all(&work)?;
    let work = work.canonicalize()?;
    let programs = match &options.programs {
        Some(folder) => folder.canonicalize().with_context(|| format!("{} cannot be read", folder.display()))?,
        None => build()?,
    };
    let cx = Context { quick: options.quick, large: options.large, work, programs, peers: peers::found() };
    let mut report = Report::new(&cx, options.only)?;
    for section in SECTIONS {
        if report.wants_section(section) {
            eprintln!("== {section}");
            let ended = sections::run(section, &cx, &mut report);
            report.end_section(section, ended.err());
        }
    }
    report.print(options.json)?;
    let unwanted = if options.keep { cx.run() } else { cx.work.clone() };
    std::fs::remove_dir_all(unwanted)?;
    Ok(if report.is_all_inside() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options() -> Result<Option<Options>> {
    let work = PathBuf::from("target");
    let mut options = Options { quick: false, large: false, json: false, keep: false, only: Vec::new(), work, programs: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--quick" => options.quick = true,
            "--large" => options.large = true,
            "--json" => options.json = true,
            "--keep" => options.keep = true,
            "--only" => options.only.push(value()?),
            "--work" => options.work = value()?.into(),
            "--programs" => options.programs = Some(value()?.into()),
            "--list" => {
                ROWS.iter().for_each(|row| println!("{:<20} {:<10} {}", row.id, row.section, row.what));
                return Ok(None);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(None);
            }
            _ => bail!("{word} means nothing here\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

/// Builds both programs for release; they end up beside this one if it was built for release too.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--quiet", "-p", "backmesh", "-p", "backmesh-admin", "--bins"]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stdin(Stdio::null());
    if !build.status().context("cargo could not be started: give --programs DIR")?.success() {
        bail!("the programs could not be built");
    }
    let me = std::env::current_exe()?;
    let target = me.parent().and_then(Path::parent).context("this program runs from target/PROFILE")?;
    Ok(target.join("release"))
}
