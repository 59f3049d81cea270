//! The node's own vault: its keys, its newest head, and what that head names.

mod heads;
mod merge;

pub use heads::{HeadIs, KnownHead};
pub use merge::{Older, Pages, is_within, pages_to_read};

use crate::fetch::{Prover, Unsealing};
use crate::state::{State, StateError};
use backmesh_codec::history;
use backmesh_codec::seal::{self, SealHeadError};
use backmesh_format::index::SegmentRef;
use backmesh_format::keys::{ChunkIdKey, KeyPair};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{Head, HeadBody, SNAPSHOTS_INLINE_MAX, WriterCert};
use backmesh_format::{DecodeError, RecordHash, Signed, VaultId, Wire, wire_struct};
use backmesh_store::{Change, Records, RecordsError, Table};
use heads::KnownHeads;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use zeroize::Zeroizing;

const HEAD: &[u8] = b"head";
const BODY: &[u8] = b"body";
const LISTED: &[u8] = b"segments";
const SEQUENCE: &[u8] = b"sequence";
const KNOWN_HEADS: &[u8] = b"known heads";
const CHECK_RUN: &[u8] = b"check run";

/// Why the vault cannot be opened.
#[derive(Debug, Error)]
pub enum VaultError {
    /// A key or certificate cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// What was remembered makes no sense.
    #[error("what the state folder remembers of the vault is damaged: {0}")]
    Decode(#[from] DecodeError),
    /// A list of snapshots that lies open in the records cannot be sealed.
    #[error("the list of snapshots cannot be sealed: {0}")]
    Seal(#[from] SealHeadError),
}

/// Why a head was not signed.
#[derive(Debug, Error)]
pub enum SignHeadError {
    /// Its body cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealHeadError),
    /// Its number cannot be remembered.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The number that was remembered makes no sense.
    #[error("the number of the last head is damaged: {0}")]
    Decode(#[from] DecodeError),
}

/// Who writes to the vault on this machine.
pub struct Writer {
    /// The key that signs.
    pub key: KeyPair,
    /// That it may.
    pub certificate: Signed<WriterCert>,
}

wire_struct! {
    /// A segment of the index, and which packs of the local index it covers.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Listed {
        /// The segment.
        pub reference: SegmentRef,
        /// The number of the first pack.
        pub first_pack: u32,
        /// The number behind the last pack.
        pub end_pack: u32,
        /// Whether its rows are in the local index; those of an earlier machine are not.
        pub local: bool,
    }
}

#[derive(Default)]
struct Newest {
    head: Option<Signed<Head>>,
    body: HeadBody,
    listed: Vec<Listed>,
    known: KnownHeads,
}

/// The vault.
pub struct Vault {
    /// Its name.
    pub id: VaultId,
    /// The key of its chunk ids.
    pub id_key: ChunkIdKey,
    /// The keys that open it; none where it is locked.
    pub unsealing: Unsealing,
    /// Who writes.
    pub writer: Arc<Writer>,
    records: Arc<Records>,
    newest: Mutex<Newest>,
}

impl Vault {
    /// Reads the keys and what is remembered.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(state: &State, records: Arc<Records>) -> Result<Self, VaultError> {
        state.finish_locking()?;
        let certificate = state.writer()?;
        let writer = Arc::new(Writer { key: state.writer_key()?, certificate });
        seal_what_is_open(&records, &writer.certificate)?;
        let unsealing = Unsealing::new(secrets(state)?);
        let read = |key: &[u8]| records.get(Table::Vault, key);
        let id = writer.certificate.vault;
        let head: Option<Signed<Head>> = read(HEAD)?.map(|bytes| Signed::from_wire(&bytes)).transpose()?;
        let reserved = read(SEQUENCE)?.map(|bytes| u64::from_wire(&bytes)).transpose()?.unwrap_or(0);
        let given_to = head.as_ref().map_or(0, |head| head.sequence).max(reserved);
        let newest = Newest {
            known: KnownHeads::open(read(KNOWN_HEADS)?, given_to)?,
            head,
            body: unsealing.open_body(&id, stored_body(&records)?),
            listed: read(LISTED)?.map(|bytes| Vec::from_wire(&bytes)).transpose()?.unwrap_or_default(),
        };
        Ok(Self { id, id_key: state.chunk_id_key()?, unsealing, writer, records, newest: Mutex::new(newest) })
    }

    /// Forgets the keys that open it; the file that had them is gone already.
    ///
    /// # Errors
    /// Where what is remembered cannot be read again.
    pub fn lock(&self) -> Result<(), VaultError> {
        let mut newest = self.newest();
        self.unsealing.set([]);
        newest.body = stored_body(&self.records)?;
        Ok(())
    }

    /// Takes the keys that open it from the state folder.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn unlock(&self, state: &State) -> Result<(), VaultError> {
        let mut newest = self.newest();
        self.unsealing.set(secrets(state)?);
        newest.body = self.unsealing.open_body(&self.id, std::mem::take(&mut newest.body));
        Ok(())
    }

    /// Proves to holders that this machine may read.
    pub fn prover(&self) -> Prover {
        Prover::writer(&self.writer.certificate, self.writer.key.clone())
    }

    /// The newest head, once there is one.
    pub fn head(&self) -> Option<Signed<Head>> {
        self.newest().head.clone()
    }

    /// What the next head will name, without its next snapshot.
    pub fn body(&self) -> HeadBody {
        let newest = self.newest();
        let mut body = newest.body.clone();
        body.segments = newest.listed.iter().map(|segment| segment.reference.clone()).collect();
        body
    }

    /// The segments of one kind, oldest first.
    pub fn segments(&self, purpose: Purpose) -> Vec<Listed> {
        self.newest().listed.iter().filter(|segment| segment.reference.purpose == purpose).cloned().collect()
    }

    /// Replaces the segments of one kind. They are durable; the next head names them.
    pub fn set_segments(&self, purpose: Purpose, segments: Vec<Listed>) {
        let mut newest = self.newest();
        newest.listed.retain(|segment| segment.reference.purpose != purpose);
        newest.listed.extend(segments);
    }

    /// The local index has packs with numbers below `next_pack`: where a segment is said to cover others, that was another index, which
    /// is gone. No segment then covers any pack of this one, so that each of them comes into a segment with the next backup.
    ///
    /// # Errors
    /// Where it cannot be remembered.
    pub fn disown_segments(&self, next_pack: u32) -> Result<(), RecordsError> {
        let mut newest = self.newest();
        if newest.listed.iter().all(|segment| segment.end_pack <= next_pack) {
            return Ok(());
        }
        let foreign = |segment: &Listed| Listed { first_pack: 0, end_pack: 0, local: false, ..segment.clone() };
        let listed: Vec<Listed> = newest.listed.iter().map(foreign).collect();
        self.records.apply(&[Change::Put(Table::Vault, LISTED.to_vec(), listed.to_wire())])?;
        newest.listed = listed;
        Ok(())
    }

    /// Replaces what names snapshots, some of which have moved to pages of their own.
    pub fn set_snapshots(&self, body: HeadBody) {
        let mut newest = self.newest();
        (newest.body.sealed, newest.body.snapshots, newest.body.older) = (body.sealed, body.snapshots, body.older);
    }

    /// What a head of this writer, or of one before it, is to this state.
    pub fn judge(&self, head: &Signed<Head>) -> HeadIs {
        let (newest, hash) = (self.newest(), head.hash());
        match &newest.head {
            Some(own) if own.hash() == hash => HeadIs::Named,
            own => newest.known.judge(head.sequence, &hash, own.as_ref().map(|own| own.sequence)),
        }
    }

    /// Remembers that all that these heads name is named here too.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note_named(&self, heads: &[(u64, RecordHash)]) -> Result<(), RecordsError> {
        let mut newest = self.newest();
        let known = heads.iter().fold(newest.known.clone(), |known, (sequence, hash)| known.with(*sequence, *hash, true));
        if known == newest.known {
            return Ok(());
        }
        self.records.apply(&[Change::Put(Table::Vault, KNOWN_HEADS.to_vec(), known.stored())])?;
        newest.known = known;
        Ok(())
    }

    /// Signs the head that follows the newest. It is remembered first: a holder that has a head refuses another with the same
    /// number, so one that may have reached somebody is never used again. Holders do not mind gaps.
    ///
    /// # Errors
    /// Where the body cannot be sealed or the number not be remembered.
    pub fn sign_head(&self, body: &HeadBody) -> Result<Signed<Head>, SignHeadError> {
        let before = self.head();
        let reserved = self.reserved()?;
        let sequence = before.as_ref().map_or(0, |head| head.sequence).max(reserved) + 1;
        let certificate = &self.writer.certificate;
        let (keys, sealed) = seal::seal_head(body, certificate, sequence, &[certificate.sealing], &mut rand::rng())?;
        let head = Head {
            writer: certificate.clone(),
            sequence,
            previous: before.map(|head| head.hash()),
            written_at: crate::os::now(),
            keys,
            sealed,
        };
        let head = Signed::new(head, &[&self.writer.key]);
        let mut newest = self.newest();
        let known = newest.known.with(sequence, head.hash(), false);
        self.records.apply(&[
            Change::Put(Table::Vault, SEQUENCE.to_vec(), sequence.to_wire()),
            Change::Put(Table::Vault, KNOWN_HEADS.to_vec(), known.stored()),
        ])?;
        newest.known = known;
        Ok(head)
    }

    /// The number of the next run of a check that reads a part of the packs, from 0 on.
    ///
    /// # Errors
    /// Where it cannot be remembered.
    pub fn next_check_run(&self) -> Result<u64, VaultError> {
        let run = self.records.get(Table::Vault, CHECK_RUN)?.map(|bytes| u64::from_wire(&bytes)).transpose()?.unwrap_or(0);
        self.records.apply(&[Change::Put(Table::Vault, CHECK_RUN.to_vec(), (run + 1).to_wire())])?;
        Ok(run)
    }

    /// Remembers a head that enough holders have. On the disk its snapshots are sealed, so that a machine whose key is locked away does
    /// not tell of them; in memory too, once it is.
    ///
    /// # Errors
    /// Where they cannot be sealed, or nothing can be written.
    pub fn accept_head(&self, head: &Signed<Head>, body: HeadBody) -> Result<(), SignHeadError> {
        let mut newest = self.newest();
        let listed = newest.listed.clone();
        self.keep(&mut newest, head, head, body, listed)
    }

    /// Goes on from the head of the machine before: its snapshots and segments stay, nothing of it is in the local index.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn adopt_head(&self, head: &Signed<Head>, body: HeadBody) -> Result<(), SignHeadError> {
        let listed = |reference: &SegmentRef| Listed { reference: reference.clone(), first_pack: 0, end_pack: 0, local: false };
        let listed = body.segments.iter().map(listed).collect();
        self.keep(&mut self.newest(), head, head, body, listed)
    }

    /// Remembers `head` as the newest, and that all that `named` names is named from now on.
    fn keep(
        &self,
        newest: &mut Newest,
        head: &Signed<Head>,
        named: &Signed<Head>,
        body: HeadBody,
        listed: Vec<Listed>,
    ) -> Result<(), SignHeadError> {
        let stored = sealed(&body, &self.writer.certificate)?;
        let known = newest.known.with(named.sequence, named.hash(), true);
        self.records.apply(&[
            Change::Put(Table::Vault, HEAD.to_vec(), head.to_wire()),
            Change::Put(Table::Vault, BODY.to_vec(), to_envelope(&stored)),
            Change::Put(Table::Vault, LISTED.to_vec(), listed.to_wire()),
            Change::Put(Table::Vault, KNOWN_HEADS.to_vec(), known.stored()),
        ])?;
        newest.head = Some(head.clone());
        newest.body = if self.unsealing.is_empty() { stored } else { body };
        (newest.listed, newest.known) = (listed, known);
        Ok(())
    }

    fn reserved(&self) -> Result<u64, SignHeadError> {
        Ok(self.records.get(Table::Vault, SEQUENCE)?.map(|bytes| u64::from_wire(&bytes)).transpose()?.unwrap_or(0))
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body with all snapshots sealed: parts of which pages of older ones can be made, and the newest apart.
fn sealed(body: &HeadBody, writer: &WriterCert) -> Result<HeadBody, SealHeadError> {
    let mut sealed = body.sealed.clone();
    for some in body.snapshots.chunks(SNAPSHOTS_INLINE_MAX / 2) {
        sealed.push(history::seal_snapshots(some, &writer.vault, &[writer.sealing], &mut rand::rng())?);
    }
    Ok(HeadBody { sealed, snapshots: Vec::new(), ..body.clone() })
}

/// Seals the list of snapshots where an early version of this program wrote it open.
fn seal_what_is_open(records: &Records, writer: &WriterCert) -> Result<(), VaultError> {
    let body = stored_body(records)?;
    if !body.snapshots.is_empty() {
        records.apply(&[Change::Put(Table::Vault, BODY.to_vec(), to_envelope(&sealed(&body, writer)?))])?;
    }
    Ok(())
}

fn stored_body(records: &Records) -> Result<HeadBody, VaultError> {
    Ok(records.get(Table::Vault, BODY)?.map(|bytes| from_envelope(&bytes)).transpose()?.unwrap_or_default())
}

/// The keys that open it; none where they were locked away.
fn secrets(state: &State) -> Result<Vec<Zeroizing<[u8; 32]>>, StateError> {
    match state.unsealing_secrets() {
        Ok(secrets) => Ok(secrets.into_iter().map(|(_, secret)| secret).collect()),
        Err(StateError::Locked) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::keys::VaultSecret;
    use backmesh_format::vault::Snapshot;
    use backmesh_format::wire::Bytes;
    use backmesh_format::{MachineId, NodeId};
    use backmesh_store::RealDisk;

    #[test]
    fn a_list_of_snapshots_that_lies_open_is_sealed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(Arc::new(RealDisk), &folder.path().join("records.redb")).unwrap();
        let secret = VaultSecret::new([7; 32]);
        let key = KeyPair::from_secret(&[8; 32]).public();
        let writer = WriterCert {
            vault: secret.vault(),
            seat: 0,
            generation: 1,
            writer: key,
            sealing: seal::sealing_key(&secret.unsealing_secret(1)),
            node: NodeId(key.0),
            machine: MachineId([6; 32]),
            written_at: 7,
        };
        let snapshot = |number| Snapshot { roots: vec![Bytes(b"/home/ada".to_vec())], ..Snapshot::empty(number) };
        let open = HeadBody { snapshots: (0..100).map(snapshot).collect(), ..HeadBody::default() };
        records.apply(&[Change::Put(Table::Vault, BODY.to_vec(), to_envelope(&open))]).unwrap();
        seal_what_is_open(&records, &writer).unwrap();
        let stored = records.get(Table::Vault, BODY).unwrap().unwrap();
        assert!(!stored.windows(9).any(|bytes| bytes == b"/home/ada"));
        let body = stored_body(&records).unwrap();
        assert!(body.snapshots.is_empty() && body.inline_count() == 100);
        assert_eq!(Unsealing::new([secret.unsealing_secret(1)]).open_body(&writer.vault, body).snapshots, open.snapshots);
        seal_what_is_open(&records, &writer).unwrap();
        assert_eq!(records.get(Table::Vault, BODY).unwrap().unwrap(), stored, "once is enough");
    }
}
