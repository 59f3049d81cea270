//! The mesh stream: who each side is, and the records of the directory.

use super::{BUCKETS_PER_KIND, HELLO_ADMISSIONS_MAX, HELLO_BYTES_MAX, IDS_MAX, KINDS, RECORDS_BYTES_MAX, frame_type};
use backmesh_format::charter::Charter;
use backmesh_format::membership::{Admission, Certificate};
use backmesh_format::{Bytes, DecodeError, Signed, Wire, WorkgroupId, wire_enum, wire_struct};

wire_enum! {
    /// What a member thinks of another node. The numbers travel in [`Message::Welcome`].
    pub enum Standing {
        /// A member: may store, read its own, and exchange records.
        Accepted = 1,
        /// Its certificate is genuine, but no accepted member has countersigned it and it cannot be judged here yet.
        Waiting = 2,
        /// More nodes joined with its invitation than it allows, and this one was seen last: its uploads are refused.
        Spent = 3,
        /// Its invitation had expired when it was first seen, and no member had countersigned before.
        Expired = 4,
        /// An admin revoked it.
        Revoked = 5,
        /// No certificate is known: it may read what it proves a vault's key for.
        Guest = 6,
    }
}

wire_enum! {
    /// Why a mesh stream is closed, told to the other side so that its person learns it.
    pub enum RefusedReason {
        /// The certificate is another workgroup's.
        OtherWorkgroup = 1,
        /// The invitation had expired by the clock of the member that was asked.
        Expired = 2,
        /// The invitation's uses were all taken.
        Spent = 3,
        /// An admin revoked the node.
        Revoked = 4,
        /// No admin known here signed the certificate's invitation; the charter that names the admin may not have arrived yet.
        UnknownAdmin = 5,
        /// The certificate is not the connected node's, or its parts contradict each other.
        Certificate = 6,
        /// A record or message is of a version that the other side does not know: one of the two programs must be updated.
        Version = 7,
        /// The other side broke the protocol.
        Protocol = 8,
        /// Enough connections are open; try another member.
        Busy = 9,
        /// The refusing node has just joined, nobody's word counts for it yet, and its own invitation does not name the other.
        Unvouched = 10,
    }
}

impl RefusedReason {
    /// Whether trying again later, or elsewhere, can help.
    pub const fn passes(self) -> bool {
        matches!(self, Self::UnknownAdmin | Self::Busy | Self::Protocol | Self::Unvouched)
    }

    /// What happened and what to do about it, for the person at the refused node.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::OtherWorkgroup => "this member belongs to another workgroup: check the address and the token",
            Self::Expired => "the invitation has expired: ask an admin for a new token",
            Self::Spent => "the invitation has been used as often as it allows: ask an admin for a new token",
            Self::Revoked => {
                "an admin removed this node from the workgroup: ask an admin for a new token and join with fresh state"
            }
            Self::UnknownAdmin => {
                "the member does not know the admin who signed the invitation yet: try another member, or later"
            }
            Self::Certificate => "the certificate does not belong to this node: was its state copied from another machine?",
            Self::Version => "the two programs do not understand each other's version: update Backmesh",
            Self::Protocol => "the two programs misunderstood each other: update Backmesh, and report it if it happens again",
            Self::Busy => "the member has no connection free: another one will be tried",
            Self::Unvouched => {
                "a node that has just joined cannot tell whether the other is a member: \
                 ask an admin for a token made with --seed and a whole address, ending in /p2p/ and the member's id"
            }
        }
    }
}

wire_struct! {
    /// The first message of each side.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Hello {
        /// The program and its version, for people.
        pub program: String,
        /// The workgroup that the sender is in or wants to read from.
        pub workgroup: WorkgroupId,
        /// Why the sender is a member, or thinks that it may become one; absent for one that only reads.
        pub certificate: Option<Signed<Certificate>>,
        /// Who countersigned it: some of the admissions that the sender knows, at most [`super::HELLO_ADMISSIONS_MAX`].
        pub admissions: Vec<Signed<Admission>>,
        /// The newest charter that the sender knows, so that a joiner brings along the one that names its admin.
        pub charter: Option<Signed<Charter>>,
        /// Where the sender sees the receiver; empty where it does not know. A node behind a router learns its address so.
        pub observed: String,
    }
}

wire_struct! {
    /// A record of the directory as it travels: the kind and the signed record's bytes. It is checked only where it is new.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct RawRecord {
        /// A [`crate::directory::Kind`] as its number; a receiver leaves out kinds that it does not know.
        pub kind: u8,
        /// The signed record.
        pub bytes: Bytes,
    }
}

/// A message of the mesh stream, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who I am. Both sides send it first, without waiting.
    Hello(Box<Hello>),
    /// Your certificate counts here. Records may follow. A guest gets this too, and then nothing else.
    Welcome {
        /// What the sender thinks of the receiver: accepted, spent or guest.
        standing: Standing,
    },
    /// I close this stream. Nothing follows.
    Refused {
        /// Why.
        reason: RefusedReason,
        /// Details for people, at most 1,024 bytes.
        text: String,
    },
    /// What I know, in one hash. No answer where it equals the receiver's; else [`Message::Buckets`].
    Digest {
        /// The hash over all bucket sums.
        root: [u8; 32],
    },
    /// What I know, by bucket. The receiver answers with a [`Message::Have`] for some of those that differ.
    Buckets {
        /// [`KINDS`] times [`BUCKETS_PER_KIND`] sums, kind by kind.
        sums: Vec<[u8; 16]>,
    },
    /// The ids of all that I know in one bucket. The receiver sends what is missing, and wants what it lacks.
    Have {
        /// The kind of record.
        kind: u8,
        /// The bucket: the upper six bits of an id's first byte.
        bucket: u8,
        /// The ids, at most [`IDS_MAX`].
        ids: Vec<[u8; 32]>,
    },
    /// Send me these, where you have them.
    Want {
        /// The ids, at most [`IDS_MAX`].
        ids: Vec<[u8; 32]>,
    },
    /// Records, asked for or new.
    Records {
        /// At most [`RECORDS_BYTES_MAX`] bytes of them.
        records: Vec<RawRecord>,
    },
}

frame_type! {
    HELLO = 1,
    WELCOME = 2,
    REFUSED = 3,
    DIGEST = 4,
    BUCKETS = 5,
    HAVE = 6,
    WANT = 7,
    RECORDS = 8,
}

impl Message {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// What is wrong with it. The stream it came from is no longer of use then.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        Self::from_wire(frame)
    }
}

impl Wire for Message {
    fn put(&self, w: &mut backmesh_format::Writer) {
        match self {
            Self::Hello(hello) => {
                HELLO.put(w);
                hello.put(w);
            }
            Self::Welcome { standing } => {
                WELCOME.put(w);
                standing.put(w);
            }
            Self::Refused { reason, text } => {
                REFUSED.put(w);
                reason.put(w);
                text.put(w);
            }
            Self::Digest { root } => {
                DIGEST.put(w);
                root.put(w);
            }
            Self::Buckets { sums } => {
                BUCKETS.put(w);
                sums.put(w);
            }
            Self::Have { kind, bucket, ids } => {
                HAVE.put(w);
                kind.put(w);
                bucket.put(w);
                ids.put(w);
            }
            Self::Want { ids } => {
                WANT.put(w);
                ids.put(w);
            }
            Self::Records { records } => {
                RECORDS.put(w);
                records.put(w);
            }
        }
    }

    fn take(r: &mut backmesh_format::Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(r)? {
            HELLO => {
                limit("bytes of a hello", r.remaining(), HELLO_BYTES_MAX)?;
                let hello = Box::new(Hello::take(r)?);
                limit("count of admissions", hello.admissions.len(), HELLO_ADMISSIONS_MAX)?;
                Ok(Self::Hello(hello))
            }
            WELCOME => Ok(Self::Welcome { standing: Standing::take(r)? }),
            REFUSED => Ok(Self::Refused { reason: RefusedReason::take(r)?, text: String::take(r)? }),
            DIGEST => Ok(Self::Digest { root: r.array()? }),
            BUCKETS => {
                let sums = Vec::take(r)?;
                if sums.len() != KINDS * BUCKETS_PER_KIND {
                    return Err(DecodeError::Invalid("the count of buckets"));
                }
                Ok(Self::Buckets { sums })
            }
            HAVE => Ok(Self::Have { kind: u8::take(r)?, bucket: u8::take(r)?, ids: take_ids(r)? }),
            WANT => Ok(Self::Want { ids: take_ids(r)? }),
            RECORDS => {
                limit("bytes of records", r.remaining(), RECORDS_BYTES_MAX + RECORDS_BYTES_MAX / 4)?;
                Ok(Self::Records { records: Vec::take(r)? })
            }
            _ => Err(DecodeError::Invalid("the mesh message's type")),
        }
    }
}

fn take_ids(r: &mut backmesh_format::Reader<'_>) -> Result<Vec<[u8; 32]>, DecodeError> {
    limit("bytes of ids", r.remaining(), 4 + 32 * IDS_MAX)?;
    Vec::take(r)
}

pub(super) fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit { Err(DecodeError::Limit { what, found: found as u64, limit: limit as u64 }) } else { Ok(()) }
}
