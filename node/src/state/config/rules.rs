//! `[[rules]]` in `config.toml`: what each protected folder leaves out.

use super::{ConfigError, path_of, path_value};
use crate::os;
use backmesh_control::{FileSystems, FolderRules, PathText, ProtectedFolder};
use backmesh_source::{BadPattern, Patterns, Rules};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml_edit::{Array, ArrayOfTables, Document, DocumentMut, Item, Table, TableLike, Value};

const LIST: &str = "rules";
const FOLDER: &str = "folder";
const PATTERNS: &str = "patterns";
const DEFAULTS: &str = "defaults";
const GITIGNORE: &str = "gitignore";
const NODUMP: &str = "nodump";
const FILE_SYSTEMS: &str = "file_systems";

/// What a walk needs to know of a folder's rules.
///
/// # Errors
/// The first pattern that makes no sense.
pub fn compile(rules: &FolderRules) -> Result<Rules, BadPattern> {
    Ok(Rules {
        patterns: Patterns::new(&rules.patterns)?,
        use_defaults: rules.defaults,
        use_ignore_files: true,
        use_gitignore: rules.gitignore,
        skip_nodump: rules.nodump,
        file_systems: match rules.file_systems {
            FileSystems::One => backmesh_source::FileSystems::One,
            FileSystems::Local => backmesh_source::FileSystems::Local,
            FileSystems::All => backmesh_source::FileSystems::All,
        },
    })
}

/// A folder with its rules, for answers.
pub fn protected_folder(path: &Path, rules: FolderRules) -> ProtectedFolder {
    ProtectedFolder { path: PathText::new(os::path_bytes(path)), rules }
}

/// Reads all rules; `protect` are the folders that may have some.
pub(super) fn read(text: &str, protect: &[PathBuf]) -> Result<BTreeMap<PathBuf, FolderRules>, ConfigError> {
    let document = Document::parse(text)?;
    let mut all = BTreeMap::new();
    let Some(item) = document.get(LIST) else { return Ok(all) };
    let wrong = || ConfigError::Kind { setting: LIST, expected: "tables that begin with [[rules]]" };
    for table in item.as_array_of_tables().ok_or_else(wrong)? {
        let line = table.span().map_or(0, |span| line_of(text, span.start));
        let folder = table.get(FOLDER).and_then(Item::as_value).and_then(path_of);
        let folder = folder.ok_or(ConfigError::RulesFolder { line })?;
        if !protect.contains(&folder) {
            return Err(ConfigError::NotProtected { line, folder: backmesh_control::escape(os::path_bytes(&folder)) });
        }
        let rules = one(text, table)?;
        if all.insert(folder.clone(), rules).is_some() {
            return Err(ConfigError::RulesTwice { line, folder: backmesh_control::escape(os::path_bytes(&folder)) });
        }
    }
    Ok(all)
}

fn one(text: &str, table: &dyn TableLike) -> Result<FolderRules, ConfigError> {
    let mut rules = FolderRules::default();
    for (key, item) in table.iter() {
        match key {
            FOLDER => {}
            PATTERNS => rules.patterns = patterns(text, item)?,
            DEFAULTS => rules.defaults = flag(DEFAULTS, item)?,
            GITIGNORE => rules.gitignore = flag(GITIGNORE, item)?,
            NODUMP => rules.nodump = flag(NODUMP, item)?,
            FILE_SYSTEMS => {
                let known = [FileSystems::One, FileSystems::Local, FileSystems::All];
                let found = known.into_iter().find(|known| item.as_str() == Some(known.word()));
                let expected = "\"one\", \"local\" or \"all\"";
                rules.file_systems = found.ok_or(ConfigError::Kind { setting: FILE_SYSTEMS, expected })?;
            }
            other => return Err(ConfigError::UnknownRule(backmesh_control::escape(other.as_bytes()))),
        }
    }
    Ok(rules)
}

fn flag(setting: &'static str, item: &Item) -> Result<bool, ConfigError> {
    item.as_bool().ok_or(ConfigError::Kind { setting, expected: "true or false" })
}

fn patterns(text: &str, item: &Item) -> Result<Vec<String>, ConfigError> {
    let wrong = || ConfigError::Kind { setting: PATTERNS, expected: "a list of texts, such as [\"*.iso\", \"!/keep.iso\"]" };
    let list = item.as_array().ok_or_else(wrong)?;
    let patterns: Vec<String> =
        list.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()?;
    match Patterns::new(&patterns) {
        Ok(_) => Ok(patterns),
        Err(error) => {
            let span = list.get(error.line - 1).and_then(Value::span).or_else(|| item.span());
            Err(ConfigError::Pattern { line: span.map_or(0, |span| line_of(text, span.start)), error })
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Makes the file say these rules; what it says already stays as a person wrote it.
pub(super) fn write(document: &mut DocumentMut, rules: &BTreeMap<PathBuf, FolderRules>) {
    let mut tables = match document.remove(LIST) {
        Some(Item::ArrayOfTables(tables)) => tables,
        _ => ArrayOfTables::new(),
    };
    let folder_of = |table: &Table| table.get(FOLDER).and_then(Item::as_value).and_then(path_of);
    tables.retain(|table| folder_of(table).is_some_and(|folder| rules.contains_key(&folder)));
    for (folder, rules) in rules {
        if let Some(table) = tables.iter_mut().find(|table| folder_of(table).as_ref() == Some(folder)) {
            update(table, rules);
        } else if *rules != FolderRules::default() {
            let mut table = Table::new();
            table.insert(FOLDER, Item::Value(path_value(folder)));
            update(&mut table, rules);
            tables.push(table);
        }
    }
    if !tables.is_empty() {
        document.insert(LIST, Item::ArrayOfTables(tables));
    }
}

fn update(table: &mut Table, rules: &FolderRules) {
    let usual = FolderRules::default();
    update_patterns(table, &rules.patterns);
    let mut set = |key: &str, value: Value, differs: bool| {
        let old = table.get(key).and_then(Item::as_value);
        if old.is_some_and(|old| old.to_string().trim() == value.to_string()) {
            return;
        }
        if differs {
            table.insert(key, Item::Value(value));
        } else {
            table.remove(key);
        }
    };
    set(DEFAULTS, rules.defaults.into(), rules.defaults != usual.defaults);
    set(GITIGNORE, rules.gitignore.into(), rules.gitignore != usual.gitignore);
    set(NODUMP, rules.nodump.into(), rules.nodump != usual.nodump);
    set(FILE_SYSTEMS, rules.file_systems.word().into(), rules.file_systems != usual.file_systems);
}

/// Patterns that are there already keep their places and comments.
fn update_patterns(table: &mut Table, patterns: &[String]) {
    let old: Option<&mut Array> = table.get_mut(PATTERNS).and_then(Item::as_array_mut);
    let kept = |old: &Array| {
        old.len() <= patterns.len()
            && old.iter().map(Value::as_str).eq(patterns.iter().take(old.len()).map(|new| Some(new.as_str())))
    };
    let list = match old {
        Some(old) if kept(old) => old,
        _ if patterns.is_empty() => return drop(table.remove(PATTERNS)),
        _ => {
            table.insert(PATTERNS, Item::Value(Value::Array(Array::new())));
            let Some(new) = table.get_mut(PATTERNS).and_then(Item::as_array_mut) else { return };
            new
        }
    };
    let added = &patterns[list.len()..];
    if added.is_empty() {
        return;
    }
    for pattern in added {
        let mut value = Value::from(pattern.as_str());
        value.decor_mut().set_prefix("\n    ");
        list.push_formatted(value);
    }
    if !list.trailing().as_str().is_some_and(|rest| rest.contains('\n')) {
        list.set_trailing("\n");
    }
    list.set_trailing_comma(true);
}

#[cfg(test)]
mod tests {
    use super::super::{Config, edited};
    use super::*;

    fn rules(patterns: &[&str]) -> FolderRules {
        FolderRules { patterns: patterns.iter().map(|text| (*text).to_owned()).collect(), ..FolderRules::default() }
    }

    #[test]
    fn what_is_written_is_read_and_what_a_person_wrote_stays() {
        let text = "# mine\nprotect = [\"/a\"] # why\noffer = \"1 GiB\"\n";
        let mut config = Config::parse(text).unwrap();
        config.rules.insert("/a".into(), rules(&["*.iso", "!/a b\\*", "say \"hi\""]));
        let first = edited(text, &config).unwrap();
        assert_eq!(Config::parse(&first).unwrap(), config);
        assert_eq!(
            first,
            "# mine\nprotect = [\"/a\"] # why\noffer = \"1 GiB\"\n\n[[rules]]\nfolder = \"/a\"\npatterns = [\n    \"*.iso\",\n    '!/a b\\*',\n    'say \"hi\"',\n]\n"
        );
        // A person's comments stay where they are.
        let text = first.replace("\"*.iso\",", "\"*.iso\", # too large").replace("[[rules]]", "# about a\n[[rules]]");
        let a = config.rules.get_mut(Path::new("/a")).unwrap();
        a.patterns.push("*.o".into());
        (a.defaults, a.file_systems) = (false, FileSystems::One);
        let second = edited(&text, &config).unwrap();
        assert_eq!(Config::parse(&second).unwrap(), config);
        assert!(second.contains("# about a\n[[rules]]") && second.contains("\"*.iso\", # too large"), "{second}");
        assert!(second.contains("    \"*.o\",\n]\ndefaults = false\nfile_systems = \"one\"\n"), "{second}");
        assert_eq!(edited(&second, &config).unwrap(), second);
        // Back to the defaults, and no longer protected.
        config.rules.insert("/a".into(), FolderRules::default());
        let third = edited(&second, &config).unwrap();
        assert!(!third.contains("patterns") && !third.contains("defaults"), "{third}");
        config.rules.clear();
        assert!(!edited(&third, &config).unwrap().contains("rules"));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        let check = |rules: &str, part: &str| {
            let error = Config::parse(&format!("protect = [\"/a\"]\n[[rules]]\n{rules}")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("folder = \"/a\"\npatterns = [\n  \"ok\",\n  \"a[\",\n]\n", "line 6: \"a[\": a \"[\" has no \"]\"");
        check("folder = \"/b\"", "line 2: \"rules\" are for /b, which is not protected");
        check("patterns = []", "line 2: \"rules\" have no \"folder\"");
        check("folder = \"/a\"\n[[rules]]\nfolder = \"/a\"", "line 4: /a has rules twice");
        check("folder = \"/a\"\ndefaults = 1", "\"defaults\" should be true or false");
        check("folder = \"/a\"\nfile_systems = \"some\"", "\"file_systems\" should be");
        check("folder = \"/a\"\nexclude = []", "\"exclude\"");
        check("folder = \"/a\"\npatterns = \"x\"", "\"patterns\" should be a list");
        let error = Config::parse("protect = [\"/a\"]\nrules = 1").unwrap_err().to_string();
        assert!(error.contains("\"rules\" should be tables"), "{error}");
    }
}
