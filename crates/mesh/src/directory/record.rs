//! The six kinds of record that every member keeps, how they travel, and how they are named.

use crate::message::RawRecord;
use backmesh_format::charter::Charter;
use backmesh_format::membership::{Admission, Certificate, MemberState, Revocation};
use backmesh_format::vault::VaultPointer;
use backmesh_format::{Bytes, DecodeError, NodeId, RecordHash, Signed, VaultId, Wire, wire_enum};

wire_enum! {
    /// A kind of record in the directory. Their order is the order in which they are exchanged: what others rest on comes first.
    pub enum Kind {
        /// [`Charter`].
        Charter = 1,
        /// [`Revocation`].
        Revocation = 2,
        /// [`Certificate`].
        Certificate = 3,
        /// [`Admission`].
        Admission = 4,
        /// [`MemberState`].
        State = 5,
        /// [`VaultPointer`].
        Pointer = 6,
    }
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Self; crate::message::KINDS] =
        [Self::Charter, Self::Revocation, Self::Certificate, Self::Admission, Self::State, Self::Pointer];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The longest record of this kind that a directory takes, in bytes. A record that is larger is refused by everyone, so that
    /// one member's records cannot fill the others' memory.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Charter | Self::Certificate | Self::Pointer => 8 << 10,
            Self::State => 6 << 10,
            Self::Revocation => 3 << 10,
            Self::Admission => 1 << 10,
        }
    }
}

/// The name of a record in the digest: a hash over all its bytes, signatures included, and its kind.
pub type ItemId = [u8; 32];

/// The id of a record whose bytes are `bytes`.
pub fn item_id(kind: u8, bytes: &[u8]) -> ItemId {
    let mut hasher = blake3::Hasher::new_derive_key("backmesh 1 directory item");
    hasher.update(&[kind]);
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// A record of the directory. Its signatures are genuine; whether it counts is for the directory to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryRecord {
    /// A version of the workgroup's settings.
    Charter(Box<Signed<Charter>>),
    /// That a node is no longer a member.
    Revocation(Box<Signed<Revocation>>),
    /// Why a node may be a member.
    Certificate(Box<Signed<Certificate>>),
    /// A member's word for another's certificate.
    Admission(Box<Signed<Admission>>),
    /// What a member says of itself.
    State(Box<Signed<MemberState>>),
    /// Where a vault lies.
    Pointer(Box<Signed<VaultPointer>>),
}

impl DirectoryRecord {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Charter(_) => Kind::Charter,
            Self::Revocation(_) => Kind::Revocation,
            Self::Certificate(_) => Kind::Certificate,
            Self::Admission(_) => Kind::Admission,
            Self::State(_) => Kind::State,
            Self::Pointer(_) => Kind::Pointer,
        }
    }

    /// The signed record's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Charter(record) => record.to_wire(),
            Self::Revocation(record) => record.to_wire(),
            Self::Certificate(record) => record.to_wire(),
            Self::Admission(record) => record.to_wire(),
            Self::State(record) => record.to_wire(),
            Self::Pointer(record) => record.to_wire(),
        }
    }

    /// Reads the signed record's bytes.
    ///
    /// # Errors
    /// What is wrong with them, and `Limit` for a record longer than its kind may be.
    pub fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > kind.bytes_max() {
            let (found, limit) = (bytes.len() as u64, kind.bytes_max() as u64);
            return Err(DecodeError::Limit { what: "length of a directory record", found, limit });
        }
        Ok(match kind {
            Kind::Charter => Self::Charter(Box::new(Signed::from_wire(bytes)?)),
            Kind::Revocation => Self::Revocation(Box::new(Signed::from_wire(bytes)?)),
            Kind::Certificate => Self::Certificate(Box::new(Signed::from_wire(bytes)?)),
            Kind::Admission => Self::Admission(Box::new(Signed::from_wire(bytes)?)),
            Kind::State => Self::State(Box::new(Signed::from_wire(bytes)?)),
            Kind::Pointer => Self::Pointer(Box::new(Signed::from_wire(bytes)?)),
        })
    }

    /// As it travels.
    pub fn to_raw(&self) -> RawRecord {
        RawRecord { kind: self.kind() as u8, bytes: Bytes(self.to_bytes()) }
    }
}

/// Where a record has its place in the directory; also the key under which it is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemKey {
    Charter(RecordHash),
    Revocation(NodeId),
    Certificate(NodeId, RecordHash),
    Admission(RecordHash, NodeId),
    State(NodeId),
    Pointer(VaultId, u16),
}

impl ItemKey {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Charter(_) => Kind::Charter,
            Self::Revocation(_) => Kind::Revocation,
            Self::Certificate(..) => Kind::Certificate,
            Self::Admission(..) => Kind::Admission,
            Self::State(_) => Kind::State,
            Self::Pointer(..) => Kind::Pointer,
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.kind() as u8];
        match self {
            Self::Charter(hash) => bytes.extend(hash.0),
            Self::Revocation(node) | Self::State(node) => bytes.extend(node.0),
            Self::Certificate(node, hash) => bytes.extend(node.0.into_iter().chain(hash.0)),
            Self::Admission(hash, node) => bytes.extend(hash.0.into_iter().chain(node.0)),
            Self::Pointer(vault, seat) => bytes.extend(vault.0.into_iter().chain(seat.to_le_bytes())),
        }
        bytes
    }
}

/// A record that counts, with its id.
#[derive(Debug, Clone)]
pub(super) struct Held<T> {
    pub(super) id: ItemId,
    pub(super) record: Signed<T>,
}

impl<T: backmesh_format::Record> Held<T> {
    pub(super) fn new(kind: Kind, record: Signed<T>) -> Self {
        Self { id: item_id(kind as u8, &record.to_wire()), record }
    }
}
