//! `--exclude`, `--include` and `--exclude-file` of `protect`: one list, in the order in which they are given.

use super::usage;
use anyhow::Context as _;
use backmesh_control::escape;
use backmesh_source::{Patterns, ignore_lines};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::path::{Path, PathBuf};

/// The largest list of patterns that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Patterns as they are given.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleArgs(Vec<Given>);

#[derive(Debug, Clone)]
enum Given {
    Exclude(String),
    Include(String),
    File(PathBuf),
}

const EXCLUDE: &str = "exclude";
const INCLUDE: &str = "include";
const EXCLUDE_FILE: &str = "exclude_file";

impl RuleArgs {
    /// Whether none is given.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns, those of files among them; each can be read.
    pub(super) fn patterns(&self) -> anyhow::Result<Vec<String>> {
        let mut patterns = Vec::new();
        for given in &self.0 {
            match given {
                Given::Exclude(pattern) => patterns.extend(checked("--exclude", vec![pattern.clone()])?),
                Given::Include(pattern) if pattern.starts_with('!') => {
                    let plain = escape(pattern.trim_start_matches('!').as_bytes());
                    return Err(usage(format!(
                        "--include takes back what is left out, so it needs no \"!\": --include '{plain}'"
                    )));
                }
                Given::Include(pattern) => {
                    let [pattern] = &checked("--include", vec![pattern.clone()])?[..] else { continue };
                    patterns.push(format!("!{pattern}"));
                }
                Given::File(path) => patterns.extend(from_file(path)?),
            }
        }
        Ok(patterns)
    }
}

/// The patterns of an option, if all of them can be read.
pub(super) fn checked(option: &str, patterns: Vec<String>) -> anyhow::Result<Vec<String>> {
    match Patterns::new(&patterns) {
        Ok(_) => Ok(patterns),
        Err(bad) => Err(usage(format!("{option} '{}': {}", escape(bad.text.as_bytes()), bad.error))),
    }
}

fn from_file(path: &Path) -> anyhow::Result<Vec<String>> {
    let shown = || escape(crate::os::path_bytes(path));
    let length = std::fs::metadata(path).with_context(|| format!("{} cannot be read", shown()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(usage(format!("{} has {length} bytes: that is no list of patterns", shown())));
    }
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", shown()))?;
    let mut patterns = Vec::new();
    for (line, pattern) in ignore_lines(&text) {
        let in_line = |problem: String| usage(format!("{}, line {line}: \"{}\": {problem}", shown(), escape(pattern)));
        let text = std::str::from_utf8(pattern)
            .map_err(|_| in_line("it is not UTF-8: write ? for each byte of such names".to_owned()))?;
        Patterns::new([text]).map_err(|bad| in_line(bad.error.to_string()))?;
        patterns.push(text.to_owned());
    }
    Ok(patterns)
}

impl Args for RuleArgs {
    fn augment_args(command: Command) -> Command {
        let pattern = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name("PATTERN").action(ArgAction::Append).help(help)
        };
        command
            .arg(pattern(
                EXCLUDE,
                "Leave out what this pattern fits, in the gitignore way, from the folder on: *.iso, /big, build/",
            ))
            .arg(pattern(INCLUDE, "Take back what patterns before this one leave out; not from inside a folder that is left out"))
            .arg(
                Arg::new(EXCLUDE_FILE)
                    .long("exclude-file")
                    .value_name("FILE")
                    .action(ArgAction::Append)
                    .value_parser(value_parser!(PathBuf))
                    .help("Patterns from a file, one a line, # for comments; read now, not again"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all: Vec<(usize, Given)> = Vec::new();
        let texts = |name: &str, make: fn(String) -> Given| {
            let values = matches.get_many::<String>(name).into_iter().flatten().cloned().map(make);
            matches.indices_of(name).into_iter().flatten().zip(values).collect::<Vec<_>>()
        };
        all.extend(texts(EXCLUDE, Given::Exclude));
        all.extend(texts(INCLUDE, Given::Include));
        let files = matches.get_many::<PathBuf>(EXCLUDE_FILE).into_iter().flatten().cloned().map(Given::File);
        all.extend(matches.indices_of(EXCLUDE_FILE).into_iter().flatten().zip(files));
        all.sort_by_key(|(place, _)| *place);
        Ok(Self(all.into_iter().map(|(_, given)| given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
