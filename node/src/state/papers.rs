//! How a state comes to be: the keys and signed papers of a node that joins, and of one that takes an existing vault over.

use super::files::{io_error, overwrite};
use super::{CHUNK_ID_KEY, NODE_KEY, State, StateError, UNSEALING_KEY, WRITER_KEY};
use crate::os;
use crate::state::Config;
use backmesh_codec::seal::sealing_key;
use backmesh_format::keys::{KeyPair, VaultSecret};
use backmesh_format::membership::Certificate;
use backmesh_format::token::Token;
use backmesh_format::vault::WriterCert;
use backmesh_format::{MachineId, NodeId, SealingKey, Signed, UnixMillis, VaultId, Wire, keyfile};
use backmesh_store::durable;
use std::io;
use std::path::PathBuf;

/// How many generations a takeover is made ready for. The root key is gone once `join` has ended, so that every certificate that may
/// be needed is signed before; each takes 300 bytes.
pub const TAKEOVER_GENERATIONS: u64 = 64;

/// Everything that a new state is made of.
#[derive(Debug)]
pub struct Founding<'a> {
    /// The token, checked.
    pub token: &'a Token,
    /// What the recovery phrase holds.
    pub secret: &'a VaultSecret,
    /// Whether the vault may exist already: this node becomes its next writer.
    pub takeover: bool,
    /// The node's new key.
    pub node_key: KeyPair,
    /// The writer's new key.
    pub writer_key: KeyPair,
    /// The machine, as the workgroup sees it.
    pub machine: MachineId,
    /// What people call the node.
    pub name: String,
    /// The settings; an existing configuration is kept.
    pub config: Config,
    /// The time.
    pub now: UnixMillis,
}

/// What a join that was interrupted had begun, so that it can be begun again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The vault that was to be.
    pub vault: VaultId,
    /// Where its phrase was to be written; nothing had been there.
    pub phrase_file: PathBuf,
}

/// What is remembered of a join until it has ended: the vault's id, a new line, the path of the phrase's file.
impl State {
    /// Remembers what is about to begin.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn note_joining(&self, joining: &Joining) -> Result<(), StateError> {
        let text = [joining.vault.to_string().as_bytes(), b"\n", os::path_bytes(&joining.phrase_file)].concat();
        self.write(&self.joining_path(), &text)
    }

    /// What had begun and did not end.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn joining(&self) -> Result<Option<Joining>, StateError> {
        let Some(bytes) = self.bytes_if_there(&self.joining_path())? else { return Ok(None) };
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let vault = std::str::from_utf8(&bytes[..end]).ok().and_then(VaultId::from_hex);
        Ok(vault.map(|vault| Joining { vault, phrase_file: os::path_from_bytes(bytes[(end + 1).min(bytes.len())..].to_vec()) }))
    }

    /// It has ended.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn forget_joining(&self) -> Result<(), StateError> {
        self.remove(&self.joining_path())?;
        self.sync(&self.folder)
    }

    fn joining_path(&self) -> PathBuf {
        self.folder.join("joining")
    }
}

impl State {
    /// Writes the state of a node that joins. The certificate comes last: without it nothing of the rest counts.
    ///
    /// # Errors
    /// `AlreadyJoined` where the folder belongs to a workgroup; where the system refuses.
    pub fn found(&self, founding: &Founding<'_>) -> Result<Signed<Certificate>, StateError> {
        self.require_unjoined()?;
        durable::create_dir(self.disk.as_ref(), &self.folder.join("vault"))?;
        let node = NodeId(founding.node_key.public().0);
        self.write(&self.node_key_path(), keyfile::to_text(NODE_KEY, [&*founding.node_key.secret()]).as_bytes())?;
        self.write_vault(founding, node)?;
        self.write(&self.folder.join("machine"), format!("{}\n", founding.machine).as_bytes())?;
        self.write(&self.folder.join("charter.bin"), &founding.token.charter.to_wire())?;
        let config = self.config_path();
        if !self.has(&config)? {
            self.write(&config, founding.config.to_text().as_bytes())?;
        }
        let certificate = founding.certificate(node);
        self.write(&self.certificate_path(), &certificate.to_wire())?;
        Ok(certificate)
    }

    /// Refuses a state that has joined.
    ///
    /// # Errors
    /// `AlreadyJoined`, with the workgroup's name.
    pub fn require_unjoined(&self) -> Result<(), StateError> {
        if !self.is_joined()? {
            return Ok(());
        }
        let workgroup = self.charter().map_or_else(|_| "?".to_owned(), |charter| charter.name.clone());
        Err(StateError::AlreadyJoined { folder: self.folder.clone(), workgroup })
    }

    /// Takes back what [`State::found`] wrote, for a node that the workgroup does not take.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn unfound(&self) -> Result<(), StateError> {
        // The certificate first, durably: without it the folder belongs to no workgroup.
        self.remove(&self.certificate_path())?;
        self.sync(&self.folder)?;
        for name in ["charter.bin", "node.key", "machine", "copied"] {
            self.remove(&self.folder.join(name))?;
        }
        self.remove_folder(&self.records_path())?;
        self.remove_folder(&self.folder.join("vault"))?;
        self.sync(&self.folder)
    }

    fn write_vault(&self, founding: &Founding<'_>, node: NodeId) -> Result<(), StateError> {
        let generations = if founding.takeover { TAKEOVER_GENERATIONS } else { 1 };
        let secrets: Vec<_> = (1..=generations).map(|generation| founding.secret.unsealing_secret(generation)).collect();
        let writers: Vec<_> =
            (1..).zip(&secrets).map(|(generation, secret)| founding.writer(generation, sealing_key(secret), node)).collect();
        let key = |name, kind, text: &[u8; 32]| self.write(&self.vault_path(name), keyfile::to_text(kind, [text]).as_bytes());
        key("writer.key", WRITER_KEY, &founding.writer_key.secret())?;
        key("chunk-id.key", CHUNK_ID_KEY, founding.secret.chunk_id_key().as_bytes())?;
        let unsealing = keyfile::to_text(UNSEALING_KEY, secrets.iter().map(|secret| &**secret));
        self.write(&self.vault_path("unsealing.key"), unsealing.as_bytes())?;
        self.write(&self.vault_path("writer.bin"), &writers[0].to_wire())?;
        if founding.takeover {
            self.write(&self.vault_path("takeover.bin"), &writers.to_wire())?;
        }
        Ok(())
    }

    /// Whether this node took a vault over and does not know yet which generation it is: it must not write to the vault before
    /// [`State::raise_generation`].
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn takeover_pending(&self) -> Result<bool, StateError> {
        let pending = self.has(&self.vault_path("takeover.bin"))?;
        if !pending {
            // Whoever removed it may have been killed before the sync of the folder, and with the power it must not come back.
            self.sync_vault()?;
        }
        Ok(pending)
    }

    /// The certificates that were made ready, those of generation 1, 2 and so on; only while a takeover is pending.
    ///
    /// # Errors
    /// Where they are missing or damaged.
    pub fn takeover_writers(&self) -> Result<Vec<Signed<WriterCert>>, StateError> {
        self.record(&self.vault_path("takeover.bin"))
    }

    /// Makes this node the writer of the generation after `seen`, the highest that any holder knows (0 for none), and forgets what
    /// was made ready for other generations. Safe to repeat after a crash.
    ///
    /// # Errors
    /// `Generation` where `seen` is too high for what was made ready.
    pub fn raise_generation(&self, seen: u64) -> Result<Signed<WriterCert>, StateError> {
        let writers = self.takeover_writers()?;
        let ready = writers.len() as u64;
        let index = usize::try_from(seen).unwrap_or(usize::MAX);
        let writer = writers.into_iter().nth(index).ok_or(StateError::Generation { seen, ready })?;
        self.write(&self.vault_path("writer.bin"), &writer.to_wire())?;
        let mut secrets = self.unsealing_secrets()?;
        secrets.reverse();
        let kept = secrets.iter().filter(|(generation, _)| *generation <= writer.generation).map(|(_, secret)| &**secret);
        self.replace_unsealing_key(kept)?;
        self.remove(&self.vault_path("takeover.bin"))?;
        self.sync_vault()?;
        Ok(writer)
    }
}

/// The key that opens the vault, which may be locked away and come back.
impl State {
    /// Whether it is in the state folder.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn has_unsealing_key(&self) -> Result<bool, StateError> {
        self.has(&self.vault_path("unsealing.key"))
    }

    /// Overwrites and removes it; whether it was there. Wherever that is interrupted, the machine is either not locked at all, or it is
    /// and the next start finishes it.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn remove_unsealing_key(&self) -> Result<bool, StateError> {
        let (path, doomed) = (self.vault_path("unsealing.key"), self.vault_path(DOOMED));
        let left = self.wipe(&doomed)?;
        let removed = match self.disk.rename(&path, &doomed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            renamed => renamed.map(|()| true).map_err(io_error("remove", &path))?,
        };
        self.sync_vault()?;
        let wiped = self.wipe(&doomed)? | self.wipe_unfinished()?;
        self.sync_vault()?;
        Ok(left || removed || wiped)
    }

    /// Finishes what an interrupted [`State::remove_unsealing_key`] or [`State::write_unsealing_key`] left. The state's lock is held.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn finish_locking(&self) -> Result<(), StateError> {
        let path = self.vault_path("unsealing.key");
        // Version 0.1 wrote zeros into the file before it removed it.
        let is_blank = || self.bytes(&path).is_ok_and(|bytes| !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0));
        let mut wiped = self.wipe(&self.vault_path(DOOMED))?;
        if is_blank() {
            wiped |= self.wipe(&path)?;
        }
        if !self.has_unsealing_key()? {
            wiped |= self.wipe_unfinished()?;
        }
        if wiped { self.sync_vault() } else { Ok(()) }
    }

    /// What the key's file is called before it is written to its end, by this version and by earlier ones.
    fn wipe_unfinished(&self) -> Result<bool, StateError> {
        let now = self.wipe(&durable::unfinished(&self.vault_path("unsealing.key")))?;
        Ok(self.wipe(&self.vault_path("unsealing.key.new"))? || now)
    }

    fn sync_vault(&self) -> Result<(), StateError> {
        self.sync(&self.folder.join("vault"))
    }

    /// Writes it anew from what the recovery phrase holds, which is that of this vault; whether it was missing.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write_unsealing_key(&self, secret: &VaultSecret) -> Result<bool, StateError> {
        if self.has_unsealing_key()? {
            return Ok(false);
        }
        let writer = self.writer()?;
        let secrets: Vec<_> =
            (1..=writer.generation).map(|generation| secret.unsealing_secret_of(writer.seat, generation)).collect();
        self.replace_unsealing_key(secrets.iter().map(|secret| &**secret))?;
        Ok(true)
    }

    /// Writes the file anew, and overwrites the bytes of the one that was there.
    fn replace_unsealing_key<'a>(&self, secrets: impl IntoIterator<Item = &'a [u8; 32]>) -> Result<(), StateError> {
        let path = self.vault_path("unsealing.key");
        let before = self.open_to_overwrite(&path);
        self.write(&path, keyfile::to_text(UNSEALING_KEY, secrets).as_bytes())?;
        match before {
            Ok(before) => overwrite(before.as_ref()).map_err(io_error("overwrite", &path)),
            Err(_) => Ok(()),
        }
    }
}

/// What the file of the key is called while it is overwritten.
const DOOMED: &str = "unsealing.key.gone";

impl Founding<'_> {
    fn certificate(&self, node: NodeId) -> Signed<Certificate> {
        let invitation = &self.token.invitation;
        let certificate = Certificate {
            workgroup: self.token.workgroup(),
            node,
            machine: self.machine,
            name: self.name.clone(),
            site: invitation.site.clone(),
            role: invitation.role,
            invitation: Some(invitation.clone()),
            written_at: self.now,
        };
        Signed::new(certificate, &[&self.token.key(), &self.node_key])
    }

    fn writer(&self, generation: u64, sealing: SealingKey, node: NodeId) -> Signed<WriterCert> {
        let writer = WriterCert {
            vault: self.secret.vault(),
            seat: 0,
            generation,
            writer: self.writer_key.public(),
            sealing,
            node,
            machine: self.machine,
            written_at: self.now,
        };
        Signed::new(writer, &[&self.secret.root()])
    }
}
