//! Signed records and other small state, by table and key, in one database.
//!
//! Every value is kept behind the first eight bytes of a BLAKE3 hash over table, key and value, so that a flipped bit is found
//! also in what carries no signature.

use crate::db::{Db, DbError, Syncing};
use crate::disk::{DiskError, SharedDisk};
use crate::durable;
use redb::TableDefinition;
use std::path::Path;
use thiserror::Error;

/// How much of the database is kept in memory, in bytes.
const CACHE_BYTES: usize = 8 << 20;
const CHECK_BYTES: usize = 8;
const DATABASE: &str = "records.redb";
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// The tables. Their numbers are on disk: a number is never used for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The chain of charters.
    Charter = 1,
    /// Members' certificates.
    Certificate = 2,
    /// Admissions of members.
    Admission = 3,
    /// Revocations.
    Revocation = 4,
    /// What members say of themselves.
    MemberState = 5,
    /// Where the heads of each vault are.
    VaultPointer = 6,
    /// Heads that this node holds for others.
    Head = 7,
    /// Plans of copysets.
    Copyset = 8,
    /// What holders say they keep.
    SlotClaim = 9,
    /// Releases and their taking back.
    Release = 10,
    /// Members and addresses seen before.
    Peer = 11,
    /// The node's own vault: its heads, segments, copysets.
    Vault = 12,
    /// Whatever else the node remembers about itself.
    Node = 13,
    /// Requests to join that wait for an admin.
    JoinRequest = 14,
    /// Writers' and readers' certificates.
    WriterCert = 15,
    /// Leases.
    Lease = 16,
}

/// One change of many that happen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Put a value; one that is there is replaced.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Take a value away; that it is there is not needed.
    Delete(Table, Vec<u8>),
}

/// Why records could not be read or written.
#[derive(Debug, Error)]
pub enum RecordsError {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The records of a node.
#[derive(Debug)]
pub struct Records {
    db: Db,
}

impl Records {
    /// Opens the records in `dir`, or begins with none.
    ///
    /// # Errors
    /// The disk's, or that the database is damaged.
    pub fn open(disk: SharedDisk, dir: &Path) -> Result<Self, RecordsError> {
        durable::create_dir(disk.as_ref(), dir).map_err(DbError::from)?;
        let db = Db::open(disk, dir.join(DATABASE), CACHE_BYTES, Syncing::Commits)?;
        db.write(|transaction| transaction.open_table(RECORDS).map(drop))?;
        Ok(Self { db })
    }

    /// Gives the file of damaged records another name in `dir`, so that new ones can be opened in their place.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_aside(disk: &SharedDisk, dir: &Path, name: &str) -> Result<(), RecordsError> {
        let (path, aside) = (dir.join(DATABASE), dir.join(name));
        durable::forget_unconfirmed(disk.as_ref(), &path).map_err(DbError::from)?;
        disk.rename(&path, &aside).map_err(DiskError::io("put aside", &path)).map_err(DbError::from)?;
        Ok(durable::sync_parent(disk.as_ref(), &path).map_err(DbError::from)?)
    }

    /// Makes all changes, in order, or none; durable when it returns.
    ///
    /// # Errors
    /// The disk's, or that the database is damaged. After an error the changes may be found at the next start.
    pub fn apply(&self, changes: &[Change]) -> Result<(), RecordsError> {
        if changes.is_empty() {
            return Ok(());
        }
        Ok(self.db.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            for change in changes {
                match change {
                    Change::Put(table, key, value) => {
                        let key = full_key(*table, key);
                        records.insert(key.as_slice(), guarded(&key, value).as_slice())?;
                    }
                    Change::Delete(table, key) => drop(records.remove(full_key(*table, key).as_slice())?),
                }
            }
            Ok(())
        })?)
    }

    /// Puts values, durably and together.
    ///
    /// # Errors
    /// As [`Records::apply`].
    pub fn put_many(&self, values: &[(Table, Vec<u8>, Vec<u8>)]) -> Result<(), RecordsError> {
        let put = |(table, key, value): &(Table, Vec<u8>, Vec<u8>)| Change::Put(*table, key.clone(), value.clone());
        self.apply(&values.iter().map(put).collect::<Vec<_>>())
    }

    /// Takes a value away, durably.
    ///
    /// # Errors
    /// As [`Records::apply`].
    pub fn delete(&self, table: Table, key: &[u8]) -> Result<(), RecordsError> {
        self.apply(&[Change::Delete(table, key.to_vec())])
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The disk's, or that the database is damaged.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        let key = full_key(table, key);
        Ok(self.db.read(|transaction| {
            let value = transaction.open_table(RECORDS)?.get(key.as_slice())?;
            value.map(|value| checked(&key, value.value())).transpose()
        })?)
    }

    /// All values whose keys begin with `prefix`, in the order of the keys.
    ///
    /// # Errors
    /// The disk's, or that the database is damaged.
    pub fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair>, RecordsError> {
        self.scan_after(table, prefix, None, usize::MAX)
    }

    /// At most `count_max` of the values whose keys begin with `prefix` and come after `after`, in the order of the keys.
    ///
    /// # Errors
    /// The disk's, or that the database is damaged.
    pub fn scan_after(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<Pair>, RecordsError> {
        let prefix = full_key(table, prefix);
        let after = after.map(|after| full_key(table, after));
        let first = after.as_ref().map_or(&prefix, |after| after.max(&prefix));
        Ok(self.db.read(|transaction| {
            let records = transaction.open_table(RECORDS)?;
            let mut found = Vec::new();
            for row in records.range(first.as_slice()..)? {
                let (key, value) = row?;
                if !key.value().starts_with(&prefix) || found.len() >= count_max {
                    break;
                }
                if after.as_deref() != Some(key.value()) {
                    found.push((key.value()[1..].to_vec(), checked(key.value(), value.value())?));
                }
            }
            Ok(found)
        })?)
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

fn guarded(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&check(key, value), value].concat()
}

fn checked(key: &[u8], guarded: &[u8]) -> Result<Vec<u8>, redb::Error> {
    match guarded.split_first_chunk::<CHECK_BYTES>() {
        Some((found, value)) if *found == check(key, value) => Ok(value.to_vec()),
        _ => Err(redb::Error::Corrupted("a record does not match its checksum".to_owned())),
    }
}

fn check(key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}
