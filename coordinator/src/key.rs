//! The admin's two files: the key (a key file as `backmesh_format::keyfile` writes it, of the kind `admin key`) and, beside it, the
//! newest charter that the admin knows (a signed record, the same name with `.charter` at its end).

use crate::{os, shown};
use backmesh_control::{ExitCode, Failure};
use backmesh_format::charter::{Charter, check_charter};
use backmesh_format::keyfile::{self, KeyFileError};
use backmesh_format::keys::KeyPair;
use backmesh_format::{DecodeError, Signed, Wire, limits};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

const ADMIN_KEY: &str = "admin key";

/// Why an admin's files cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// There is no home folder.
    #[error("there is no home folder to keep keys in")]
    NoHome,
    /// No key in the default folder.
    #[error("there is no admin key in {}", shown(.0))]
    None(PathBuf),
    /// Several keys in the default folder.
    #[error("there are several admin keys in {}", shown(.0))]
    Several(PathBuf),
    /// Something is there already.
    #[error("{} exists already", shown(.0))]
    Exists(PathBuf),
    /// A key that others could have read.
    #[error("{} holds a secret and has mode {mode:04o}, which lets others read it", shown(.path))]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key file.
    #[error("{}: {source}", shown(.path))]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyFileError,
    },
    /// Not a valid charter.
    #[error("{}: {source}", shown(.path))]
    Charter {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// The charter names other admins.
    #[error("{} is not the key of an admin of \"{workgroup}\"", shown(.path))]
    NotAdmin {
        /// The key's file.
        path: PathBuf,
        /// The workgroup's name.
        workgroup: String,
    },
    /// The system refused.
    #[error("{doing} {}: {source}", shown(.path))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let hint = match &error {
            KeyError::None(_) => Some("found a workgroup with: backmesh-admin create NAME".to_owned()),
            KeyError::NoHome | KeyError::Several(_) => Some("say which with --key FILE".to_owned()),
            KeyError::Exists(_) => Some("nothing is overwritten: give another --key FILE, or another name".to_owned()),
            KeyError::Exposed { path, .. } => Some(format!("if nobody else has read it: chmod 600 {}", shown(path))),
            _ => None,
        };
        let code = if matches!(error, KeyError::NotAdmin { .. }) { ExitCode::WrongKey } else { ExitCode::Failed };
        Self { code, message: error.to_string(), hint }
    }
}

/// An admin's two files.
#[derive(Debug, Clone)]
pub(crate) struct AdminFiles {
    /// The key's.
    pub(crate) key: PathBuf,
    /// The charter's.
    pub(crate) charter: PathBuf,
}

impl AdminFiles {
    /// Where the files of a new workgroup go: as given, else named after it in the default folder.
    pub(crate) fn of_new(given: Option<&Path>, name: &str) -> Result<Self, KeyError> {
        match given {
            Some(key) => Ok(Self::beside(key)),
            None => Ok(Self::beside(&default_folder()?.join(format!("{}.key", file_name(name))))),
        }
    }

    /// Where the files are: as given, else the only ones in the default folder.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, KeyError> {
        if let Some(key) = given {
            return Ok(Self::beside(key));
        }
        let folder = default_folder()?;
        let listed = match std::fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let entries = listed.map_err(io_error("list", &folder))?;
        let keys: Vec<PathBuf> =
            entries.iter().map(std::fs::DirEntry::path).filter(|path| path.extension().is_some_and(|end| end == "key")).collect();
        match &keys[..] {
            [] => Err(KeyError::None(folder)),
            [key] => Ok(Self::beside(key)),
            _ => Err(KeyError::Several(folder)),
        }
    }

    fn beside(key: &Path) -> Self {
        Self { key: key.to_owned(), charter: key.with_extension("charter") }
    }

    /// Writes both as new files; the key is taken back where the charter cannot be written.
    pub(crate) fn create(&self, key: &KeyPair, charter: &Signed<Charter>) -> Result<(), KeyError> {
        for path in [&self.key, &self.charter] {
            if path.symlink_metadata().is_ok() {
                return Err(KeyError::Exists(path.clone()));
            }
        }
        if let Some(folder) = self.key.parent() {
            os::create_private_dir(folder).map_err(io_error("create", folder))?;
        }
        let secret = key.secret();
        write_new(&self.key, keyfile::to_text(ADMIN_KEY, [&*secret]).as_bytes())?;
        write_new(&self.charter, &charter.to_wire()).inspect_err(|_| {
            // Where that fails too, the next attempt says that the key exists.
            let _ = std::fs::remove_file(&self.key);
        })
    }

    /// The charter.
    pub(crate) fn read_charter(&self) -> Result<Signed<Charter>, KeyError> {
        let bytes = File::open(&self.charter).and_then(|file| read_bounded(file, limits::RECORD_BYTES_MAX));
        let bytes = bytes.map_err(io_error("read", &self.charter))?;
        let in_charter = |source| KeyError::Charter { path: self.charter.clone(), source };
        let charter = Signed::from_wire(&bytes).map_err(in_charter)?;
        check_charter(&charter).map_err(in_charter)?;
        Ok(charter)
    }

    /// The key, if it is that of an admin of the charter.
    pub(crate) fn read_key(&self, charter: &Charter) -> Result<KeyPair, KeyError> {
        let file = File::open(&self.key).map_err(io_error("read", &self.key))?;
        if let Some(mode) = os::exposed_mode(&file).map_err(io_error("read", &self.key))? {
            return Err(KeyError::Exposed { path: self.key.clone(), mode });
        }
        let bytes = Zeroizing::new(read_bounded(file, keyfile::BYTES_MAX).map_err(io_error("read", &self.key))?);
        let in_key = |source| KeyError::Key { path: self.key.clone(), source };
        let text = std::str::from_utf8(&bytes).map_err(|_| in_key(KeyFileError::Kind(ADMIN_KEY.to_owned())))?;
        let secrets = keyfile::parse(ADMIN_KEY, text).map_err(in_key)?;
        let mut keys = secrets.iter().map(|secret| KeyPair::from_secret(secret));
        keys.find(|key| charter.admins.contains(&key.public()))
            .ok_or_else(|| KeyError::NotAdmin { path: self.key.clone(), workgroup: charter.name.clone() })
    }
}

fn default_folder() -> Result<PathBuf, KeyError> {
    use etcetera::BaseStrategy;
    let folders = etcetera::choose_base_strategy().map_err(|_| KeyError::NoHome)?;
    Ok(folders.config_dir().join("backmesh-admin"))
}

/// A workgroup's name as the name of a file: what could mean something else in a path becomes `_`.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_ ".contains(c) { c } else { '_' };
    name.chars().map(safe).collect()
}

fn read_bounded(file: File, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    os::write_new_private(path, bytes).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
        _ => KeyError::Io { doing: "write", path: path.to_owned(), source },
    })
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError + use<> {
    let path = path.to_owned();
    move |source| KeyError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_folder() {
        assert_eq!(file_name("Büro Nord-2"), "Büro Nord-2");
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name(".hidden\n"), "_hidden_");
    }
}
