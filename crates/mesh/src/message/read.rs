//! The read stream: whoever proves a vault's key reads its heads, plans and shards, member or not. The server sends a challenge
//! first; nothing but the proof is answered before it. One stream reads one vault.

use super::mesh::limit;
use super::{READ_LIST_BYTES_MAX, READ_PACKS_MAX, READ_WHERE_RECORDS_MAX, Refusal, frame_type, split_tail};
use backmesh_format::copyset::Copyset;
use backmesh_format::membership::MemberState;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{Head, ReaderCert, VaultPointer, WriterCert};
use backmesh_format::wire::Reader as WireReader;
use backmesh_format::{CopysetId, DecodeError, NodeId, PackId, PublicKey, RecordHash, Signed, VaultId, Wire, Writer, limits};

/// What the signature of a read proof begins with.
pub const READ_CONTEXT: &[u8] = b"backmesh read 1\0";

/// What a reader signs: the challenge, who asks whom, and the vault, so that a proof serves nobody else and never twice.
pub fn read_proof_input(nonce: &[u8; 32], server: &NodeId, client: &NodeId, vault: &VaultId) -> Vec<u8> {
    [READ_CONTEXT, nonce, &server.0, &client.0, &vault.0].concat()
}

/// By what right a key reads a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// It is the vault's root key.
    Root,
    /// It is the writer that this certificate names.
    Writer(Box<Signed<WriterCert>>),
    /// It is the reader that this certificate names.
    Reader(Box<Signed<ReaderCert>>),
}

impl Wire for Reader {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Root => 1_u8.put(w),
            Self::Writer(cert) => {
                2_u8.put(w);
                cert.put(w);
            }
            Self::Reader(cert) => {
                3_u8.put(w);
                cert.put(w);
            }
        }
    }

    fn take(r: &mut WireReader<'_>) -> Result<Self, DecodeError> {
        match u8::take(r)? {
            1 => Ok(Self::Root),
            2 => Ok(Self::Writer(Box::new(Signed::take(r)?))),
            3 => Ok(Self::Reader(Box::new(Signed::take(r)?))),
            _ => Err(DecodeError::Invalid("the right to read")),
        }
    }
}

/// What a reader asks of a holder, or of any member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRequest {
    /// Answers the challenge. The first request of a stream.
    Prove {
        /// The vault.
        vault: VaultId,
        /// By what right.
        how: Reader,
        /// The key that signs: the root key, or the one that the certificate names.
        key: PublicKey,
        /// Over [`read_proof_input`].
        signature: [u8; 64],
    },
    /// Where the vault lies, as far as this member's directory knows. Any member answers, holder or not.
    Where {
        /// Names the reply.
        call: u64,
    },
    /// The vault's heads, the highest sequence first.
    Heads {
        /// Names the reply.
        call: u64,
        /// The last head of the reply before; absent for the first.
        after: Option<RecordHash>,
    },
    /// The vault's copysets.
    Copysets {
        /// Names the reply.
        call: u64,
        /// The last set of the reply before; absent for the first.
        after: Option<CopysetId>,
    },
    /// The record of a stripe.
    Stripe {
        /// Names the reply.
        call: u64,
        /// The pack.
        pack: PackId,
    },
    /// A range of a shard, with its proof.
    Range {
        /// Names the reply.
        call: u64,
        /// The pack.
        pack: PackId,
        /// Which shard of it.
        shard: u8,
        /// Where the range begins, in bytes.
        offset: u32,
        /// Its length, in bytes, at least 1.
        bytes: u32,
        /// Whether the reply is to carry the stripe's record.
        with_stripe: bool,
    },
    /// Which packs of a copyset the holder keeps a shard of, in the order of their ids.
    Packs {
        /// Names the reply.
        call: u64,
        /// The set.
        copyset: CopysetId,
        /// The last pack of the reply before; absent for the first.
        after: Option<PackId>,
    },
}

/// What a holder answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadReply {
    /// The server's first frame: 32 random bytes, fresh for each stream.
    Challenge {
        /// The bytes.
        nonce: [u8; 32],
    },
    /// The proof counts: ask.
    Proved,
    /// The vault's pointers, and the states of members that may hold something of it.
    Where {
        /// The request.
        call: u64,
        /// One pointer per seat, at most [`READ_WHERE_RECORDS_MAX`].
        pointers: Vec<Signed<VaultPointer>>,
        /// Where the holders are, at most [`READ_WHERE_RECORDS_MAX`].
        states: Vec<Signed<MemberState>>,
    },
    /// Heads.
    Heads {
        /// The request.
        call: u64,
        /// The heads.
        heads: Vec<Signed<Head>>,
        /// Whether others follow: ask again after the last.
        more: bool,
    },
    /// Copysets.
    Copysets {
        /// The request.
        call: u64,
        /// The newest plan of each.
        copysets: Vec<Signed<Copyset>>,
        /// Whether others follow: ask again after the last.
        more: bool,
    },
    /// A stripe's record.
    Stripe {
        /// The request.
        call: u64,
        /// The record.
        stripe: Box<Signed<Stripe>>,
    },
    /// A range of a shard.
    Range {
        /// The request.
        call: u64,
        /// The stripe's record, where it was asked for.
        stripe: Option<Box<Signed<Stripe>>>,
        /// The bytes and the hashes that prove them against the shard's root.
        proof: Vec<u8>,
    },
    /// Packs.
    Packs {
        /// The request.
        call: u64,
        /// Their ids, at most [`READ_PACKS_MAX`].
        packs: Vec<PackId>,
        /// Whether others follow: ask again after the last.
        more: bool,
    },
    /// Nothing of that name is kept here.
    Missing {
        /// The request.
        call: u64,
    },
    /// The request is not answered. Call 0 where the proof was refused; the stream ends then.
    Refused {
        /// The request.
        call: u64,
        /// Why.
        reason: Refusal,
        /// Details for people, at most 1,024 bytes.
        text: String,
    },
}

frame_type! {
    PROVE = 1,
    WHERE = 2,
    HEADS = 3,
    COPYSETS = 4,
    STRIPE = 5,
    RANGE = 6,
    PACKS = 7,
    CHALLENGE = 8,
    PROVED = 9,
    MISSING = 10,
    REFUSED = 11,
}

impl ReadRequest {
    /// The number that names the reply; 0 for the proof.
    pub const fn call(&self) -> u64 {
        match self {
            Self::Prove { .. } => 0,
            Self::Where { call }
            | Self::Heads { call, .. }
            | Self::Copysets { call, .. }
            | Self::Stripe { call, .. }
            | Self::Range { call, .. }
            | Self::Packs { call, .. } => *call,
        }
    }

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

impl Wire for ReadRequest {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Prove { vault, how, key, signature } => {
                PROVE.put(w);
                vault.put(w);
                how.put(w);
                key.put(w);
                signature.put(w);
            }
            Self::Where { call } => {
                WHERE.put(w);
                call.put(w);
            }
            Self::Heads { call, after } => {
                HEADS.put(w);
                call.put(w);
                after.put(w);
            }
            Self::Copysets { call, after } => {
                COPYSETS.put(w);
                call.put(w);
                after.put(w);
            }
            Self::Stripe { call, pack } => {
                STRIPE.put(w);
                call.put(w);
                pack.put(w);
            }
            Self::Range { call, pack, shard, offset, bytes, with_stripe } => {
                RANGE.put(w);
                call.put(w);
                pack.put(w);
                shard.put(w);
                offset.put(w);
                bytes.put(w);
                with_stripe.put(w);
            }
            Self::Packs { call, copyset, after } => {
                PACKS.put(w);
                call.put(w);
                copyset.put(w);
                after.put(w);
            }
        }
    }

    fn take(r: &mut WireReader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::take(r)? {
            PROVE => {
                Self::Prove { vault: VaultId::take(r)?, how: Reader::take(r)?, key: PublicKey::take(r)?, signature: r.array()? }
            }
            WHERE => Self::Where { call: u64::take(r)? },
            HEADS => Self::Heads { call: u64::take(r)?, after: Wire::take(r)? },
            COPYSETS => Self::Copysets { call: u64::take(r)?, after: Wire::take(r)? },
            STRIPE => Self::Stripe { call: u64::take(r)?, pack: PackId::take(r)? },
            RANGE => Self::Range {
                call: u64::take(r)?,
                pack: PackId::take(r)?,
                shard: u8::take(r)?,
                offset: u32::take(r)?,
                bytes: u32::take(r)?,
                with_stripe: bool::take(r)?,
            },
            PACKS => Self::Packs { call: u64::take(r)?, copyset: CopysetId::take(r)?, after: Wire::take(r)? },
            _ => return Err(DecodeError::Invalid("the read request's type")),
        })
    }
}

impl ReadReply {
    /// The request that this answers; none for the challenge and the word that the proof counts.
    pub const fn call(&self) -> Option<u64> {
        match self {
            Self::Challenge { .. } | Self::Proved => None,
            Self::Where { call, .. }
            | Self::Heads { call, .. }
            | Self::Copysets { call, .. }
            | Self::Stripe { call, .. }
            | Self::Range { call, .. }
            | Self::Packs { call, .. }
            | Self::Missing { call }
            | Self::Refused { call, .. } => Some(*call),
        }
    }

    /// The frame in two parts to be sent one after the other: the fields, and a range's proof as it lies. The second is empty for
    /// everything but a range.
    pub fn encode_parts(&self) -> (Vec<u8>, &[u8]) {
        let mut w = Writer::default();
        let tail = match self {
            Self::Range { call, stripe, proof } => {
                RANGE.put(&mut w);
                call.put(&mut w);
                stripe.is_some().put(&mut w);
                if let Some(stripe) = stripe {
                    stripe.put(&mut w);
                }
                proof.as_slice()
            }
            other => {
                other.put_fields(&mut w);
                &[]
            }
        };
        (w.finish(), tail)
    }

    /// Appends the frame to `out`, which may be used again for the next.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (fields, tail) = self.encode_parts();
        out.reserve(fields.len() + tail.len());
        out.extend_from_slice(&fields);
        out.extend_from_slice(tail);
    }

    fn put_fields(&self, w: &mut Writer) {
        match self {
            Self::Range { .. } => {}
            Self::Challenge { nonce } => {
                CHALLENGE.put(w);
                nonce.put(w);
            }
            Self::Proved => PROVED.put(w),
            Self::Where { call, pointers, states } => {
                WHERE.put(w);
                call.put(w);
                pointers.put(w);
                states.put(w);
            }
            Self::Heads { call, heads, more } => {
                HEADS.put(w);
                call.put(w);
                heads.put(w);
                more.put(w);
            }
            Self::Copysets { call, copysets, more } => {
                COPYSETS.put(w);
                call.put(w);
                copysets.put(w);
                more.put(w);
            }
            Self::Stripe { call, stripe } => {
                STRIPE.put(w);
                call.put(w);
                stripe.put(w);
            }
            Self::Packs { call, packs, more } => {
                PACKS.put(w);
                call.put(w);
                packs.put(w);
                more.put(w);
            }
            Self::Missing { call } => {
                MISSING.put(w);
                call.put(w);
            }
            Self::Refused { call, reason, text } => {
                REFUSED.put(w);
                call.put(w);
                reason.put(w);
                text.put(w);
            }
        }
    }

    /// Reads a frame; a range's proof stays in the frame's own allocation.
    ///
    /// # Errors
    /// What is wrong with it. The stream it came from is no longer of use then.
    pub fn decode(frame: Vec<u8>) -> Result<Self, DecodeError> {
        let mut r = WireReader::new(&frame);
        let kind = u8::take(&mut r)?;
        if kind == RANGE {
            let call = u64::take(&mut r)?;
            let stripe: Option<Signed<Stripe>> = Wire::take(&mut r)?;
            let stripe = stripe.map(Box::new);
            let tail = r.remaining();
            return Ok(Self::Range { call, stripe, proof: split_tail(frame, tail) });
        }
        let reply = Self::take_fields(kind, &mut r)?;
        r.end()?;
        Ok(reply)
    }

    fn take_fields(kind: u8, r: &mut WireReader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            CHALLENGE => Self::Challenge { nonce: r.array()? },
            PROVED => Self::Proved,
            WHERE => {
                let call = u64::take(r)?;
                limit("bytes of records", r.remaining(), 2 * READ_WHERE_RECORDS_MAX * 8192)?;
                Self::Where { call, pointers: Vec::take(r)?, states: Vec::take(r)? }
            }
            HEADS => {
                let call = u64::take(r)?;
                limit("bytes of heads", r.remaining(), 2 * READ_LIST_BYTES_MAX)?;
                Self::Heads { call, heads: Vec::take(r)?, more: bool::take(r)? }
            }
            COPYSETS => {
                let call = u64::take(r)?;
                limit("bytes of copysets", r.remaining(), 2 * READ_LIST_BYTES_MAX)?;
                Self::Copysets { call, copysets: Vec::take(r)?, more: bool::take(r)? }
            }
            STRIPE => {
                let call = u64::take(r)?;
                limit("bytes of a stripe's record", r.remaining(), limits::RECORD_BYTES_MAX)?;
                Self::Stripe { call, stripe: Box::new(Signed::take(r)?) }
            }
            PACKS => {
                let call = u64::take(r)?;
                limit("bytes of packs", r.remaining(), 5 + 32 * READ_PACKS_MAX)?;
                Self::Packs { call, packs: Vec::take(r)?, more: bool::take(r)? }
            }
            MISSING => Self::Missing { call: u64::take(r)? },
            REFUSED => Self::Refused { call: u64::take(r)?, reason: Refusal::take(r)?, text: String::take(r)? },
            _ => return Err(DecodeError::Invalid("the read reply's type")),
        })
    }
}
