//! Envelopes and signatures: what every record has around its fields.
//!
//! ```text
//! envelope   magic (4) · version (u16) · required flags (u16) · body length (u32) · body
//! signed     envelope · count of signatures (u8) · { public key (32) · signature (64) } ...
//! ```
//!
//! A signature covers `"backmesh record 1\0"` and the envelope; the magic keeps one kind of record from passing for another.
//! A record's hash is BLAKE3 (`derive_key`, context below) of the envelope alone, so that adding a signature does not change it.

use crate::id::{PublicKey, RecordHash};
use crate::keys::{KeyPair, verify};
use crate::limits;
use crate::wire::{DecodeError, Reader, Wire, Writer};

/// A kind of record.
pub trait Record: Wire {
    /// The first four bytes.
    const MAGIC: [u8; 4];
    /// The highest version that this program writes and reads.
    const VERSION: u16 = 1;
    /// What the record is called in an error.
    const NAME: &'static str;

    /// The version that this value is written in, where a record has several forms in use.
    fn version(&self) -> u16 {
        Self::VERSION
    }

    /// Reads the body as that version wrote it; 1 to [`Record::VERSION`].
    ///
    /// # Errors
    /// Whatever is wrong with the bytes.
    fn take_version(_version: u16, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::take(r)
    }
}

/// Writes a record in its envelope.
pub fn to_envelope<T: Record>(record: &T) -> Vec<u8> {
    let body = record.to_wire();
    let mut w = Writer::default();
    w.bytes(&T::MAGIC);
    record.version().put(&mut w);
    0_u16.put(&mut w);
    (body.len() as u32).put(&mut w);
    w.bytes(&body);
    w.finish()
}

/// Reads a record that fills all of `bytes`.
pub fn from_envelope<T: Record>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut r = Reader::new(bytes);
    let record = take_envelope(&mut r)?;
    r.end()?;
    Ok(record)
}

fn take_envelope<T: Record>(r: &mut Reader<'_>) -> Result<T, DecodeError> {
    if r.array::<4>()? != T::MAGIC {
        return Err(DecodeError::Magic { expected: T::NAME });
    }
    let version = u16::take(r)?;
    if version == 0 || version > T::VERSION {
        return Err(DecodeError::Version { record: T::NAME, version, known: T::VERSION });
    }
    let flags = u16::take(r)?;
    if flags != 0 {
        return Err(DecodeError::Flags { record: T::NAME, flags });
    }
    let length = u32::take(r)?;
    let mut body = Reader::new(r.bytes(length as usize)?);
    let record = T::take_version(version, &mut body)?;
    body.end()?;
    Ok(record)
}

/// The hash that names a record whose envelope is `envelope`.
pub fn hash_envelope(envelope: &[u8]) -> RecordHash {
    RecordHash(blake3::derive_key("backmesh 1 record hash", envelope))
}

/// A record with the signatures over it, exactly as it was received. All signatures were verified when it was read; *who* had
/// to sign is for the reader of the record to ask, with [`Signed::signed_by`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    record: T,
    envelope: Vec<u8>,
    signatures: Vec<(PublicKey, [u8; 64])>,
}

impl<T: Record> Signed<T> {
    /// Signs a record with each of `signers`, once each, at most [`limits::SIGNATURES_MAX`].
    pub fn new(record: T, signers: &[&KeyPair]) -> Self {
        let envelope = to_envelope(&record);
        let input = signing_input(&envelope);
        let mut signatures: Vec<(PublicKey, [u8; 64])> = Vec::new();
        for key in signers.iter().take(limits::SIGNATURES_MAX) {
            if signatures.iter().all(|(signer, _)| *signer != key.public()) {
                signatures.push((key.public(), key.sign(&input)));
            }
        }
        Self { record, envelope, signatures }
    }

    /// The hash that names the record.
    pub fn hash(&self) -> RecordHash {
        hash_envelope(&self.envelope)
    }

    /// Whether `key` signed.
    pub fn signed_by(&self, key: &PublicKey) -> bool {
        self.signatures.iter().any(|(signer, _)| signer == key)
    }

    /// Everyone who signed, in the order of the signatures.
    pub fn signers(&self) -> impl Iterator<Item = &PublicKey> {
        self.signatures.iter().map(|(signer, _)| signer)
    }

    /// Refuses the record unless `key` signed it.
    pub fn require(&self, key: &PublicKey) -> Result<&T, DecodeError> {
        if self.signed_by(key) { Ok(&self.record) } else { Err(DecodeError::Signature(T::NAME)) }
    }

    /// Drops the signatures of everyone whom `counts` does not accept, and sorts the others: anyone can add a signature to a copy
    /// of a record, and copies that mean the same are to have the same bytes.
    pub fn retain_signers(&mut self, counts: impl Fn(&PublicKey) -> bool) {
        self.signatures.retain(|(signer, _)| counts(signer));
        self.signatures.sort_unstable();
    }

    /// Takes over the signatures of another copy of the same record, up to [`limits::SIGNATURES_MAX`]; of two by one key the smaller,
    /// so that the order of combining does not matter. Another record is left alone.
    pub fn combine(&mut self, other: &Self) {
        if self.envelope == other.envelope {
            self.signatures.extend_from_slice(&other.signatures);
            self.signatures.sort_unstable();
            self.signatures.dedup_by(|later, first| later.0 == first.0);
            self.signatures.truncate(limits::SIGNATURES_MAX);
        }
    }

    /// The record itself.
    pub fn into_inner(self) -> T {
        self.record
    }
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.record
    }
}

impl<T: Record> Wire for Signed<T> {
    fn put(&self, w: &mut Writer) {
        w.bytes(&self.envelope);
        (self.signatures.len() as u8).put(w);
        for (key, signature) in &self.signatures {
            key.put(w);
            w.bytes(signature);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = r.clone();
        let record = take_envelope(r)?;
        let envelope = start.clone().bytes(start.remaining() - r.remaining())?.to_vec();
        let count = usize::from(u8::take(r)?);
        if count > limits::SIGNATURES_MAX {
            return Err(DecodeError::Limit {
                what: "count of signatures",
                found: count as u64,
                limit: limits::SIGNATURES_MAX as u64,
            });
        }
        let input = signing_input(&envelope);
        let mut signatures: Vec<(PublicKey, [u8; 64])> = Vec::new();
        for _ in 0..count {
            let (key, signature) = (PublicKey::take(r)?, r.array()?);
            if signatures.iter().any(|(known, _)| *known == key) || !verify(&key, &input, &signature) {
                return Err(DecodeError::Signature(T::NAME));
            }
            signatures.push((key, signature));
        }
        Ok(Self { record, envelope, signatures })
    }
}

fn signing_input(envelope: &[u8]) -> Vec<u8> {
    [b"backmesh record 1\0", envelope].concat()
}

/// Declares a record: a struct whose bytes are its fields in order, with its magic and its name in errors.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $magic:literal $words:literal pub struct $name:ident { $($body:tt)* }) => {
        $crate::wire_struct! {
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $name { $($body)* }
        }
        impl $crate::record::Record for $name {
            const MAGIC: [u8; 4] = *$magic;
            const NAME: &'static str = $words;
        }
    };
}
