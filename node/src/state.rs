//! The state folder: one per node, its layout, its lock, the keys and signed papers in it.
//!
//! ```text
//! state.lock                     held by the process that uses the rest
//! node.key                       the node's key (0600)
//! machine                        the machine's id as this workgroup sees it, so that a copied state is noticed
//! joining                        the vault and the phrase file of a join that has begun; gone when it has ended
//! copied                         another process with the same keys was met in the workgroup, and stays; absent in everyday life
//! charter.bin  certificate.bin   signed records; with the certificate the node has joined
//! config.toml                    what is protected and offered; see `config`
//! vault/writer.key               signs heads, stripes and copysets (0600)
//! vault/chunk-id.key             names chunks (0600)
//! vault/unsealing.key            opens what was sealed; line i is that of generation i (0600); absent while locked
//! vault/writer.bin               the writer's certificate, signed by the vault's root key
//! vault/takeover.bin             writer certificates of later generations, until the vault's newest is known (0600)
//! records.redb  index/  statcache  spool/  shelf/  schedule.json  control.sock      the agent's
//! ```

pub mod config;
mod files;
pub mod manners;
mod papers;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use files::read_secret;
pub use papers::{Founding, Joining, TAKEOVER_GENERATIONS};

use crate::os::{self, SocketPath};
use backmesh_control::{ExitCode, Failure};
use backmesh_format::charter::{Charter, check_charter};
use backmesh_format::keyfile::KeyFileError;
use backmesh_format::keys::{ChunkIdKey, KeyPair, machine_id};
use backmesh_format::membership::{Certificate, check_certificate};
use backmesh_format::vault::{WriterCert, check_writer};
use backmesh_format::{DecodeError, MachineId, Signed};
use backmesh_store::{DiskError, Held, RealDisk, SharedDisk, durable};
use files::io_error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why the state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// There is none, or it belongs to no workgroup yet.
    #[error("{} belongs to no workgroup", .0.display())]
    NotJoined(PathBuf),
    /// It has keys of a member and no certificate.
    #[error("{} has keys and no certificate.bin: joining was interrupted, or that file is gone", .0.display())]
    Unfinished(PathBuf),
    /// It belongs to one already.
    #[error("{} belongs to the workgroup \"{workgroup}\" already", .folder.display())]
    AlreadyJoined {
        /// The state folder.
        folder: PathBuf,
        /// The workgroup's name.
        workgroup: String,
    },
    /// Another process uses it.
    #[error("another process uses {}", .0.display())]
    InUse(PathBuf),
    /// It was made on another machine.
    #[error("{} was made on another machine, and running it on two would make them one member", .0.display())]
    OtherMachine(PathBuf),
    /// Another process uses a copy of it.
    #[error("another machine, or another folder of this one, runs with a copy of {}, and was there first: this one has stopped", .0.display())]
    Copied(PathBuf),
    /// A secret that others could have read.
    #[error("{} holds a secret and has mode {mode:04o}, which lets others read it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key that opens the vault was locked away.
    #[error("the key that opens the vault is not on this machine")]
    Locked,
    /// A key file cannot be read.
    #[error("{}: {source}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyFileError,
    },
    /// A signed record is not what it should be.
    #[error("{}: {source}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// The configuration cannot be used.
    #[error("{}: {source}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: config::ConfigError,
    },
    /// The vault's writers have reached a generation for which no certificate was prepared.
    #[error("the vault is at generation {seen}, and this machine was made ready for at most {ready}")]
    Generation {
        /// The highest generation seen at holders.
        seen: u64,
        /// The highest generation this state can become.
        ready: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The system refused.
    #[error("{} {}: {source}", .doing, .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What is done about a file that nothing else has.
const REPLACE: &str = "put it back from a copy of the state folder; without one, what is stored with others is all there: \
                       backmesh --state NEW join TOKEN --phrase-file FILE goes on with this vault";

/// Whether a later program wrote what cannot be read.
fn is_newer(error: &StateError) -> bool {
    matches!(error, StateError::Record { source: DecodeError::Version { .. } | DecodeError::Flags { .. }, .. })
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let code = match &error {
            StateError::NotJoined(_) | StateError::Unfinished(_) => ExitCode::NoAgent,
            StateError::InUse(_) | StateError::OtherMachine(_) | StateError::Copied(_) => ExitCode::InUse,
            StateError::Locked => ExitCode::WrongKey,
            _ => ExitCode::Failed,
        };
        let hint = match &error {
            StateError::NotJoined(_) => Some("ask an admin for a token, then: backmesh join TOKEN".to_owned()),
            StateError::Unfinished(_) => Some(format!("give the same join again; if the node was a member already, {REPLACE}")),
            StateError::AlreadyJoined { .. } => Some(
                "one state belongs to one workgroup; for another one give another folder: backmesh --state DIR join TOKEN"
                    .to_owned(),
            ),
            StateError::InUse(_) => {
                Some("an agent or another command is running on it; stop it, or give another --state".to_owned())
            }
            StateError::OtherMachine(_) | StateError::Copied(_) => Some(
                "to make this machine a member of its own: backmesh --state NEW join TOKEN; to go on with the vault of a machine that is \
                 gone, add --phrase-file FILE; if no other machine or folder uses this state any more: backmesh agent --only-copy"
                    .to_owned(),
            ),
            StateError::Exposed { path, .. } => {
                Some(format!("if nobody else has read it: chmod 600 {}", backmesh_control::escape(os::path_bytes(path))))
            }
            StateError::Locked => Some("backmesh key unlock --phrase-file FILE puts it back".to_owned()),
            StateError::Generation { .. } => {
                Some("join again with an empty state folder, the phrase and a member at hand".to_owned())
            }
            StateError::Key { path, .. } if path.ends_with("unsealing.key") => Some(format!(
                "remove it, then: backmesh key unlock --phrase-file FILE; or {REPLACE}"
            )),
            StateError::Key { .. } | StateError::Record { .. } if !is_newer(&error) => Some(REPLACE.to_owned()),
            StateError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(REPLACE.to_owned()),
            StateError::Config { .. } => Some(
                "correct it in an editor, or move it away: then nothing is protected or offered until `backmesh protect DIR` and its line \
                 offer say so again".to_owned(),
            ),
            error => crate::advice::advice(error),
        };
        Self { code, message: error.to_string(), hint }
    }
}

/// A state folder. Cheap: it holds the path and the disk only, and reads when asked.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
    disk: SharedDisk,
}

/// A generation, and what opens that which was sealed in it.
pub type GenerationSecret = (u64, Zeroizing<[u8; 32]>);

/// Held while a process uses the state; let go when dropped or when the process ends.
#[derive(Debug)]
pub struct StateLock {
    _held: Box<dyn Held>,
}

impl State {
    /// The state of a node that has joined.
    ///
    /// # Errors
    /// `NotJoined` where there is none.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        Self::open_on(Arc::new(RealDisk), folder)
    }

    /// [`State::open`] on another disk.
    ///
    /// # Errors
    /// `NotJoined` where there is none.
    pub fn open_on(disk: SharedDisk, folder: &Path) -> Result<Self, StateError> {
        let state = Self { folder: folder.to_owned(), disk };
        match state.is_joined()? {
            true => Ok(state),
            false if state.has(&state.node_key_path())? => Err(StateError::Unfinished(state.folder)),
            false => Err(StateError::NotJoined(state.folder)),
        }
    }

    /// The folder of a state that may not exist yet; made where it is missing.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(folder: &Path) -> Result<Self, StateError> {
        Self::create_on(Arc::new(RealDisk), folder)
    }

    /// [`State::create`] on another disk.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create_on(disk: SharedDisk, folder: &Path) -> Result<Self, StateError> {
        durable::create_dir(disk.as_ref(), folder)?;
        Ok(Self { folder: folder.to_owned(), disk })
    }

    /// Whether the node has joined.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn is_joined(&self) -> Result<bool, StateError> {
        self.has(&self.certificate_path())
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// `InUse` where another process has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let held = self.try_lock(&self.folder.join("state.lock"))?;
        held.map(|held| StateLock { _held: held }).ok_or_else(|| StateError::InUse(self.folder.clone()))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The database of signed records.
    pub fn records_path(&self) -> PathBuf {
        self.folder.join("records.redb")
    }

    /// The folder of the chunk index.
    pub fn index_path(&self) -> PathBuf {
        self.folder.join("index")
    }

    /// The stat cache.
    pub fn stat_cache_path(&self) -> PathBuf {
        self.folder.join("statcache")
    }

    /// The folder of packs on their way to holders.
    pub fn spool_path(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// The folder of others' shards.
    pub fn shelf_path(&self) -> PathBuf {
        self.folder.join("shelf")
    }

    /// The configuration.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// What the schedule remembers.
    pub fn schedule_path(&self) -> PathBuf {
        self.folder.join("schedule.json")
    }

    /// The control socket, to bind or to connect; a stale one is removed under [`State::socket_file`].
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn socket_path(&self) -> Result<SocketPath, StateError> {
        SocketPath::new(&self.folder, "control.sock").map_err(io_error("open", &self.folder))
    }

    /// Where the control socket's file is, however long the path.
    pub fn socket_file(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn certificate_path(&self) -> PathBuf {
        self.folder.join("certificate.bin")
    }

    fn node_key_path(&self) -> PathBuf {
        self.folder.join("node.key")
    }

    fn vault_path(&self, name: &str) -> PathBuf {
        self.folder.join("vault").join(name)
    }

    /// The node's key, which is its identity.
    ///
    /// # Errors
    /// Where it is missing, damaged or readable by others.
    pub fn node_key(&self) -> Result<KeyPair, StateError> {
        self.key(&self.node_key_path(), NODE_KEY).map(|secret| KeyPair::from_secret(&secret))
    }

    /// The machine on which the node joined, or on which it was said to be the only copy, as the workgroup sees it. Where that was lost,
    /// its certificate tells.
    ///
    /// # Errors
    /// Where neither can be read.
    pub fn machine(&self) -> Result<MachineId, StateError> {
        let bytes = self.bytes_if_there(&self.folder.join("machine"))?.unwrap_or_default();
        match std::str::from_utf8(&bytes).ok().and_then(|text| MachineId::from_hex(text.trim())) {
            Some(machine) => Ok(machine),
            None => Ok(self.certificate()?.machine),
        }
    }

    /// Refuses a state that another machine made, or that another process uses a copy of: two processes with one key would be one
    /// member, and undo each other's work. A machine that has no name of its own cannot tell.
    ///
    /// # Errors
    /// `OtherMachine` and `Copied`.
    pub fn require_only_copy(&self) -> Result<(), StateError> {
        if self.has(&self.copied_path())? {
            return Err(StateError::Copied(self.folder.clone()));
        }
        match self.this_machine()? {
            Some(here) if here != self.machine()? => Err(StateError::OtherMachine(self.folder.clone())),
            _ => Ok(()),
        }
    }

    /// Remembers that another process with the same keys stays and this one does not.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn note_copied(&self) -> Result<(), StateError> {
        self.write(&self.copied_path(), b"")
    }

    /// A person says that nobody else uses this state: it belongs to this machine from now on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn claim(&self) -> Result<(), StateError> {
        if let Some(here) = self.this_machine()? {
            self.write(&self.folder.join("machine"), format!("{here}\n").as_bytes())?;
        }
        self.remove(&self.copied_path())?;
        self.sync(&self.folder)
    }

    fn this_machine(&self) -> Result<Option<MachineId>, StateError> {
        let Some(name) = os::system_machine_id() else { return Ok(None) };
        Ok(Some(machine_id(&self.charter()?.workgroup_id(), &name)))
    }

    fn copied_path(&self) -> PathBuf {
        self.folder.join("copied")
    }

    /// The charter that the node joined with; the agent may know a newer one.
    ///
    /// # Errors
    /// Where it is missing, damaged or not validly signed.
    pub fn charter(&self) -> Result<Signed<Charter>, StateError> {
        let path = self.folder.join("charter.bin");
        let charter: Signed<Charter> = self.record(&path)?;
        check_charter(&charter).map_err(|source| StateError::Record { path, source })?;
        Ok(charter)
    }

    /// The node's certificate.
    ///
    /// # Errors
    /// Where it is missing, damaged or not validly signed.
    pub fn certificate(&self) -> Result<Signed<Certificate>, StateError> {
        let path = self.certificate_path();
        let charter = self.charter()?;
        let certificate: Signed<Certificate> = self.record(&path)?;
        check_certificate(&certificate, &charter.workgroup_id(), &charter.admins)
            .map_err(|source| StateError::Record { path, source })?;
        Ok(certificate)
    }

    /// The key that signs heads, stripes and copysets.
    ///
    /// # Errors
    /// Where it is missing, damaged or readable by others.
    pub fn writer_key(&self) -> Result<KeyPair, StateError> {
        self.key(&self.vault_path("writer.key"), WRITER_KEY).map(|secret| KeyPair::from_secret(&secret))
    }

    /// The key that names chunks.
    ///
    /// # Errors
    /// Where it is missing, damaged or readable by others.
    pub fn chunk_id_key(&self) -> Result<ChunkIdKey, StateError> {
        self.key(&self.vault_path("chunk-id.key"), CHUNK_ID_KEY).map(|secret| ChunkIdKey::new(*secret))
    }

    /// The secrets that open what was sealed, each with its generation, the newest first.
    ///
    /// # Errors
    /// `Locked` where they were taken away.
    pub fn unsealing_secrets(&self) -> Result<Vec<GenerationSecret>, StateError> {
        let path = self.vault_path("unsealing.key");
        match self.keys(&path, UNSEALING_KEY) {
            Ok(secrets) => {
                let mut secrets: Vec<_> = (1..).zip(secrets).collect();
                secrets.reverse();
                Ok(secrets)
            }
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(StateError::Locked),
            Err(error) => Err(error),
        }
    }

    /// The certificate of this machine's writer.
    ///
    /// # Errors
    /// Where it is missing, damaged or not validly signed.
    pub fn writer(&self) -> Result<Signed<WriterCert>, StateError> {
        let path = self.vault_path("writer.bin");
        let writer: Signed<WriterCert> = self.record(&path)?;
        check_writer(&writer).map_err(|source| StateError::Record { path, source })?;
        Ok(writer)
    }

    /// What is protected and offered.
    ///
    /// # Errors
    /// What is wrong with it, naming the line.
    pub fn config(&self) -> Result<Config, StateError> {
        let text = self.config_text()?.unwrap_or_default();
        Config::parse(&text).map_err(|source| StateError::Config { path: self.config_path(), source })
    }

    fn config_text(&self) -> Result<Option<String>, StateError> {
        let path = self.config_path();
        let text = self.bytes_if_there(&path)?.map(String::from_utf8).transpose();
        text.map_err(|_| StateError::Config { path, source: config::ConfigError::Damaged })
    }

    /// Changes the configuration; one process at a time, everything else in the file stays as a person wrote it. `change` gets what
    /// is set and may refuse.
    ///
    /// # Errors
    /// What is wrong with the file, or what `change` says.
    pub fn edit_config<E: From<StateError>>(&self, change: impl FnOnce(&mut Config) -> Result<(), E>) -> Result<Config, E> {
        let _lock = self.wait_for_lock(&self.folder.join("config.lock"))?;
        let path = self.config_path();
        let text = self.config_text()?.unwrap_or_default();
        let in_config = |source| StateError::Config { path: path.clone(), source };
        let before = Config::parse(&text).map_err(in_config)?;
        let mut config = before.clone();
        change(&mut config)?;
        // Rules of a folder that is no longer protected go with it.
        config.rules.retain(|folder, _| config.protect.contains(folder));
        let text = config::with_changes(&text, &before, &config).map_err(in_config)?;
        self.write(&path, text.as_bytes())?;
        Ok(config)
    }
}

const NODE_KEY: &str = "node key";
const WRITER_KEY: &str = "writer key";
const CHUNK_ID_KEY: &str = "chunk id key";
const UNSEALING_KEY: &str = "unsealing key";
