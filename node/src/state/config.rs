//! `config.toml`: what a person may set. Read into [`Config`], which holds only what is true; edited without touching the rest.

mod rules;

pub use rules::{compile, protected_folder};

use super::manners;
use crate::throttle::Limits;
use crate::{os, units};
use backmesh_control::{FolderRules, PathText, ProtectedFolder};
use backmesh_policy::Schedule;
use backmesh_source::{BadPattern, Rules};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Value};

/// The settings of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The folders that are backed up: absolute, none below another.
    pub protect: Vec<PathBuf>,
    /// What they leave out; those that are not here, what is left out everywhere.
    pub rules: BTreeMap<PathBuf, FolderRules>,
    /// What is offered to others, in bytes; 0 keeps nothing for anyone.
    pub offer_bytes: u64,
    /// Where the agent listens, as multiaddresses; empty for the default port on all addresses.
    pub listen: Vec<String>,
    /// Whether it neither looks for members on the local network nor lets itself be found there.
    pub no_mdns: bool,
    /// When it backs up by itself.
    pub schedule: Schedule,
    /// How fast it may be.
    pub limits: Limits,
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not TOML.
    #[error("{0}")]
    Syntax(#[from] toml_edit::TomlError),
    /// Not text at all.
    #[error("it holds bytes that are no text: a crash of the machine or its disk has damaged it")]
    Damaged,
    /// A setting that does not exist.
    #[error("\"{0}\" is not a setting; there are protect, rules, offer, listen, mdns, and the tables schedule and limits")]
    Unknown(String),
    /// A setting with a value of the wrong kind.
    #[error("\"{setting}\" should be {expected}")]
    Kind {
        /// The setting.
        setting: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A setting with a value that makes no sense.
    #[error("\"{setting}\": {what}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A folder that is not absolute.
    #[error("\"protect\" has {0}, which is not an absolute path")]
    Relative(String),
    /// A setting of rules that does not exist.
    #[error("\"{0}\" is not a setting of rules; there are folder, patterns, defaults, gitignore, nodump and file_systems")]
    UnknownRule(String),
    /// Rules that do not say for what.
    #[error("line {line}: \"rules\" have no \"folder\" that is an absolute path")]
    RulesFolder {
        /// The line.
        line: usize,
    },
    /// Rules for something else.
    #[error("line {line}: \"rules\" are for {folder}, which is not protected: write them for one of the folders in \"protect\"")]
    NotProtected {
        /// The line.
        line: usize,
        /// The folder.
        folder: String,
    },
    /// Rules in two places.
    #[error("line {line}: {folder} has rules twice: write them in one place")]
    RulesTwice {
        /// The line.
        line: usize,
        /// The folder.
        folder: String,
    },
    /// A pattern that makes no sense.
    #[error("line {line}: {error}")]
    Pattern {
        /// The line.
        line: usize,
        /// The pattern, and what is wrong with it.
        error: BadPattern,
    },
    /// Not a size.
    #[error("\"offer\": {0}")]
    Size(#[from] units::SizeError),
}

/// What a new state's file says beside the values.
const HEADER: &str = "\
# What this node protects and offers. A running agent reads this again after each command that changes it.
#   protect = [\"/home/anna\"]    folders that are backed up
#   offer = \"200 GiB\"           disk space for other members' shards
#   listen = []                  multiaddresses; empty for port 47770 on all addresses
#   mdns = false                 do not look for members on the local network, nor be found there
# What a folder leaves out, beside caches and trash (`backmesh protect --show-defaults`), in the gitignore way, at the end of the file:
#   [[rules]]
#   folder = \"/home/anna\"
#   patterns = [\"*.iso\", \"!/important.iso\"]
# `backmesh schedule` and `backmesh limits` keep their settings here too, in tables of their own.

";

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// What is wrong, naming the setting or the line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.contains('\0') {
            return Err(ConfigError::Damaged);
        }
        let document: DocumentMut = text.parse()?;
        let mut config = Self::default();
        for (key, item) in document.iter() {
            match key {
                "protect" => config.protect = paths(item)?,
                "offer" => config.offer_bytes = offer(item)?,
                "listen" => config.listen = texts(item)?,
                "mdns" => {
                    let wanted = item.as_bool().ok_or(ConfigError::Kind { setting: "mdns", expected: "true or false" })?;
                    config.no_mdns = !wanted;
                }
                "rules" => {}
                "schedule" => config.schedule = manners::schedule(item)?,
                "limits" => config.limits = manners::limits(item)?,
                other => return Err(ConfigError::Unknown(backmesh_control::escape(other.as_bytes()))),
            }
        }
        config.rules = rules::read(text, &config.protect)?;
        Ok(config)
    }

    /// The protected folders, with what they leave out.
    pub fn protected(&self) -> Vec<ProtectedFolder> {
        self.protect.iter().map(|path| protected_folder(path, self.rules_of(path))).collect()
    }

    /// What a protected folder leaves out.
    pub fn rules_of(&self, folder: &Path) -> FolderRules {
        self.rules.get(folder).cloned().unwrap_or_default()
    }

    /// The rules of all protected folders, for a walk.
    ///
    /// # Errors
    /// The first pattern that makes no sense.
    pub fn walk_rules(&self) -> Result<BTreeMap<PathBuf, Rules>, BadPattern> {
        self.protect.iter().map(|path| Ok((path.clone(), self.walk_rules_of(path)?))).collect()
    }

    /// The rules of a folder, those of a newly protected one where it is not protected.
    ///
    /// # Errors
    /// A pattern in the file that is none.
    pub fn walk_rules_of(&self, path: &Path) -> Result<Rules, BadPattern> {
        compile(&self.rules_of(path))
    }

    /// The text of a new file with these settings.
    pub fn to_text(&self) -> String {
        let mut document = DocumentMut::new();
        document["protect"] = Item::Value(path_array(&self.protect));
        document["offer"] = toml_edit::value(units::exact_size(self.offer_bytes));
        document["listen"] = Item::Value(Value::Array(self.listen.iter().collect()));
        if self.no_mdns {
            document["mdns"] = toml_edit::value(false);
        }
        rules::write(&mut document, &self.rules);
        format!("{HEADER}{document}")
    }
}

/// The same file with what differs between two configurations; everything else stays as it is.
///
/// # Errors
/// Where the file is not TOML.
pub fn with_changes(text: &str, before: &Config, after: &Config) -> Result<String, ConfigError> {
    let mut text = text.to_owned();
    if before.protect != after.protect || before.rules != after.rules {
        text = edited(&text, after)?;
    }
    if before.schedule != after.schedule {
        text = manners::with_schedule(&text, &after.schedule)?;
    }
    if before.limits != after.limits {
        text = manners::with_limits(&text, &after.limits)?;
    }
    Ok(text)
}

/// The same file with other protected folders and rules; everything else stays as it is.
///
/// # Errors
/// Where the file is not TOML.
fn edited(text: &str, config: &Config) -> Result<String, ConfigError> {
    let mut document: DocumentMut = text.parse()?;
    let old = document.get("protect");
    if old.is_none_or(|old| paths(old).ok().as_ref() != Some(&config.protect)) {
        let mut list = path_array(&config.protect);
        if let Some(old) = old.and_then(Item::as_value) {
            *list.decor_mut() = old.decor().clone();
        }
        document["protect"] = Item::Value(list);
    }
    rules::write(&mut document, &config.rules);
    Ok(document.to_string())
}

fn path_array(paths: &[PathBuf]) -> Value {
    let mut list: Array = paths.iter().map(|path| path_value(path)).collect();
    if paths.len() > 1 {
        list.iter_mut().for_each(|value| value.decor_mut().set_prefix("\n    "));
        list.set_trailing("\n");
        list.set_trailing_comma(true);
    }
    Value::Array(list)
}

/// A text, or `{ base64 = ".." }` for what is not UTF-8.
fn path_value(path: &Path) -> Value {
    let text = PathText::new(os::path_bytes(path));
    match text.path_base64 {
        None => Value::from(text.path),
        Some(coded) => Value::InlineTable(InlineTable::from_iter([("base64", coded)])),
    }
}

fn paths(item: &Item) -> Result<Vec<PathBuf>, ConfigError> {
    let wrong = || ConfigError::Kind { setting: "protect", expected: "a list of absolute paths, such as [\"/home/anna\"]" };
    let mut paths = Vec::new();
    for value in item.as_array().ok_or_else(wrong)? {
        let path = bytes_of(value).map(os::path_from_bytes).ok_or_else(wrong)?;
        if !path.is_absolute() {
            return Err(ConfigError::Relative(backmesh_control::escape(os::path_bytes(&path))));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// The absolute path that a value is; none where it is something else.
fn path_of(value: &Value) -> Option<PathBuf> {
    bytes_of(value).map(os::path_from_bytes).filter(|path| path.is_absolute())
}

fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    let coded = value.as_inline_table().and_then(|table| table.get("base64")?.as_str());
    let text = match (value.as_str(), coded) {
        (Some(text), _) => PathText { path: text.to_owned(), path_base64: None },
        (None, coded) => PathText { path: String::new(), path_base64: Some(coded?.to_owned()) },
    };
    text.bytes()
}

fn offer(item: &Item) -> Result<u64, ConfigError> {
    if let Some(bytes) = item.as_integer().and_then(|bytes| u64::try_from(bytes).ok()) {
        return Ok(bytes);
    }
    let text = item.as_str().ok_or(ConfigError::Kind { setting: "offer", expected: "a size such as \"200 GiB\"" })?;
    Ok(units::parse_size(text)?)
}

fn texts(item: &Item) -> Result<Vec<String>, ConfigError> {
    let wrong =
        || ConfigError::Kind { setting: "listen", expected: "a list of multiaddresses, such as [\"/ip4/0.0.0.0/tcp/47770\"]" };
    item.as_array().ok_or_else(wrong)?.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let odd = os::path_from_bytes(b"/srv/\xff".to_vec());
        let config = Config {
            protect: vec!["/home/ä b\"c".into(), odd.clone()],
            rules: [(odd, FolderRules { patterns: vec!["*.o".into()], ..FolderRules::default() })].into(),
            offer_bytes: 200 << 30,
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            ..Config::default()
        };
        let text = config.to_text();
        assert!(text.contains("offer = \"200 GiB\""), "{text}");
        assert_eq!(Config::parse(&text).unwrap(), config);
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::parse(&Config::default().to_text()).unwrap(), Config::default());
        assert_eq!(Config::parse("offer = 5").unwrap().offer_bytes, 5);
    }

    #[test]
    fn editing_keeps_what_a_person_wrote() {
        let text = "# mine\noffer = \"1 GiB\" # little\nprotect = [\"/a\"] # why\n# end\n";
        let with = |text: &str, protect: Vec<PathBuf>| edited(text, &Config { protect, ..Config::default() }).unwrap();
        let edited = with(text, vec!["/a".into(), "/b".into()]);
        assert_eq!(edited, "# mine\noffer = \"1 GiB\" # little\nprotect = [\n    \"/a\",\n    \"/b\",\n] # why\n# end\n");
        assert_eq!(with(&edited, vec!["/a".into()]), text);
        assert_eq!(with("", Vec::new()), "protect = []\n");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str, part: &str| {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("offer = ", "line 1");
        check("offr = 1", "\"offr\"");
        check("offer = \"much\"", "\"much\"");
        check("offer = -1", "\"offer\"");
        check("protect = \"/a\"", "\"protect\"");
        check("protect = [\"a/b\"]", "a/b");
        check("protect = [{ base64 = \"*\" }]", "\"protect\"");
        check("listen = [1]", "\"listen\"");
        check("mdns = \"no\"", "\"mdns\"");
        assert!(Config::parse("mdns = false").unwrap().no_mdns && !Config::parse("mdns = true").unwrap().no_mdns);
    }
}
