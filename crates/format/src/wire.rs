//! How values become bytes: little-endian, in the order of the fields, every length checked before anything is allocated for it.
//! The tables of docs/format.md say what each record's fields are; this module says how each kind of field looks.

use thiserror::Error;

/// Why bytes were refused. Nothing that a peer or a disk sends may lead to anything worse than one of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the record ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{0} bytes follow the end of the record")]
    Trailing(usize),
    /// The first four bytes are another record's or none's.
    #[error("not a {expected}")]
    Magic {
        /// The record that was asked for, in words.
        expected: &'static str,
    },
    /// Written by a later version of Backmesh.
    #[error("{record} version {version} is newer than this program understands (up to {known}): update Backmesh")]
    Version {
        /// The record, in words.
        record: &'static str,
        /// The version found.
        version: u16,
        /// The highest version this program reads.
        known: u16,
    },
    /// The record needs a feature that this program does not have.
    #[error("{record} needs features {flags:#06x} that this program does not know: update Backmesh")]
    Flags {
        /// The record, in words.
        record: &'static str,
        /// The unknown flags.
        flags: u16,
    },
    /// A length or count is above its limit.
    #[error("{what} of {found} is above the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The highest number allowed.
        limit: u64,
    },
    /// A value that has no meaning.
    #[error("{0} has a value without meaning")]
    Invalid(&'static str),
    /// A signature does not verify, or the signer is not the one that may sign.
    #[error("the signature of the {0} is not valid")]
    Signature(&'static str),
}

/// A value with one defined sequence of bytes.
pub trait Wire: Sized {
    /// Appends the value's bytes.
    fn put(&self, w: &mut Writer);
    /// Reads the value back. Never panics, never allocates more than a small multiple of the bytes given.
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The value's bytes alone.
    fn to_wire(&self) -> Vec<u8> {
        let mut w = Writer::default();
        self.put(&mut w);
        w.finish()
    }

    /// Reads a value that fills all of `bytes`.
    fn from_wire(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::take(&mut r)?;
        r.end()?;
        Ok(value)
    }
}

/// Collects bytes.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends raw bytes, without a length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a number as LEB128: seven bits a byte, low bits first.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends a varint length and then the bytes.
    pub fn var_bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }

    /// How many bytes have been collected.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been collected.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes bytes from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A number written by [`Writer::varint`]; only its shortest form is accepted, so that equal values have equal bytes.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(DecodeError::Invalid("variable-length number")) } else { Ok(value) };
            }
        }
        Err(DecodeError::Invalid("variable-length number"))
    }

    /// A varint that must not be above `limit`.
    pub fn varint_max(&mut self, what: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let found = self.varint()?;
        if found > limit { Err(DecodeError::Limit { what, found, limit }) } else { Ok(found) }
    }

    /// Bytes written by [`Writer::var_bytes`], at most `limit` of them.
    pub fn var_bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let count = self.varint_max(what, limit as u64)?;
        self.bytes(count as usize)
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes that are left over.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            fn put(&self, w: &mut Writer) {
                w.bytes(&self.to_le_bytes());
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.array().map(Self::from_le_bytes)
            }
        }
    )*};
}
number!(u8 u16 u32 u64 i64);

impl Wire for bool {
    fn put(&self, w: &mut Writer) {
        u8::from(*self).put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("a yes or no")),
        }
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, w: &mut Writer) {
        w.bytes(self);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, w: &mut Writer) {
        self.is_some().put(w);
        if let Some(value) = self {
            value.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if bool::take(r)? { T::take(r).map(Some) } else { Ok(None) }
    }
}

/// A list: its count (u32), then its items. Memory grows with the bytes really there, not with the count claimed.
impl<T: Wire> Wire for Vec<T> {
    fn put(&self, w: &mut Writer) {
        (self.len() as u32).put(w);
        self.iter().for_each(|item| item.put(w));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::take(r)?;
        if count as usize > r.remaining() {
            return Err(DecodeError::Truncated);
        }
        let mut items = Self::new();
        for _ in 0..count {
            items.push(T::take(r)?);
        }
        Ok(items)
    }
}

/// A byte string of any length: a u32, then the bytes. Used where a list of single bytes would be meant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Wire for Bytes {
    fn put(&self, w: &mut Writer) {
        (self.0.len() as u32).put(w);
        w.bytes(&self.0);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::take(r)?;
        r.bytes(count as usize).map(|bytes| Self(bytes.to_vec()))
    }
}

/// A text of at most 1,024 bytes of UTF-8: a u16 length, then the bytes.
impl Wire for String {
    fn put(&self, w: &mut Writer) {
        let text = cut(self);
        (text.len() as u16).put(w);
        w.bytes(text.as_bytes());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = usize::from(u16::take(r)?);
        if count > TEXT_BYTES_MAX {
            return Err(DecodeError::Limit { what: "text", found: count as u64, limit: TEXT_BYTES_MAX as u64 });
        }
        let bytes = r.bytes(count)?;
        std::str::from_utf8(bytes).map(Self::from).map_err(|_| DecodeError::Invalid("a text"))
    }
}

/// The beginning of a text that fits into a record, cut between two characters.
fn cut(text: &str) -> &str {
    let fits = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find_map(|end| text.get(..end));
    fits.unwrap_or_default()
}

/// The longest text in a record, in bytes of UTF-8; what is longer is cut when it is written.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Declares a struct whose bytes are its fields in order.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::wire::Wire for $name {
            fn put(&self, w: &mut $crate::wire::Writer) {
                $($crate::wire::Wire::put(&self.$field, w);)*
            }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::DecodeError> {
                Ok(Self { $($field: $crate::wire::Wire::take(r)?,)* })
            }
        }
    };
}

/// Declares a fieldless enum whose byte is the number given.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant = $number,)* }

        impl $crate::wire::Wire for $name {
            fn put(&self, w: &mut $crate::wire::Writer) {
                $crate::wire::Wire::put(&(*self as u8), w);
            }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::DecodeError> {
                match <u8 as $crate::wire::Wire>::take(r)? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err($crate::wire::DecodeError::Invalid(stringify!($name))),
                }
            }
        }
    };
}
