//! The store stream: an owner brings shards, heads and plans to a holder. Requests are pipelined; replies come in any order and
//! name the request by its call number, which the owner chooses and does not use twice on a stream.

use super::{frame_type, split_tail};
use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::{DecodeError, Reader, Signed, Wire, Writer, wire_enum};

/// What an owner asks of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// The plan of a copyset. It must have been accepted before shards of it are sent.
    Copyset {
        /// Names the reply.
        call: u64,
        /// The plan, signed by the vault's writer.
        copyset: Box<Signed<Copyset>>,
    },
    /// Keep this shard. Done means durable.
    Shard {
        /// Names the reply.
        call: u64,
        /// Which shard of the stripe.
        shard: u8,
        /// The stripe's record, signed by the writer whom the copyset names.
        stripe: Box<Signed<Stripe>>,
        /// The shard: exactly `stripe.shard_bytes` of them.
        bytes: Vec<u8>,
    },
    /// Keep this head. Done means durable.
    Head {
        /// Names the reply.
        call: u64,
        /// The head, signed by the writer that it carries.
        head: Box<Signed<Head>>,
    },
    /// The owner needs these packs no longer.
    Release {
        /// Names the reply.
        call: u64,
        /// The release, signed by the writer that it carries.
        release: Box<Signed<Release>>,
    },
    /// Takes releases back.
    Unrelease {
        /// Names the reply.
        call: u64,
        /// Signed by the vault's root key.
        unrelease: Box<Signed<Unrelease>>,
    },
}

wire_enum! {
    /// Why a holder does not do what it was asked. The text beside it has the details.
    pub enum Refusal {
        /// The asking node is not an accepted member.
        NotMember = 1,
        /// More nodes joined with the asking node's invitation than it allows: it may read, not store.
        Spent = 2,
        /// The vault's root key did not certify the writer, or the writer did not sign.
        Writer = 3,
        /// A later generation of this seat's writer is known: this one has been replaced.
        Fenced = 4,
        /// No copyset of this name is known here: send it first.
        UnknownCopyset = 5,
        /// The holder does not stand in that slot, or the shard is another slot's.
        WrongSlot = 6,
        /// A newer state of the same copyset, seat or release is known.
        OldSequence = 7,
        /// The copyset takes no new stripes.
        Closed = 8,
        /// The copyset's byte budget for each slot is used up: raise it, or found another.
        Budget = 9,
        /// The owner's quota at this holder is used up.
        Quota = 10,
        /// The holder has no room left in what it offers.
        Full = 11,
        /// The bytes are not those of the record's root.
        WrongBytes = 12,
        /// The record's numbers contradict each other, or another record of the same pack is kept already.
        BadRecord = 13,
        /// The holder failed to write; it may work later.
        Failed = 14,
        /// Too much is under way; try again later.
        Busy = 15,
        /// Nothing of this name is kept here.
        Missing = 16,
        /// The proof does not show the right to read this vault.
        Proof = 17,
        /// The asked-for range is outside the shard or above the limit.
        Range = 18,
    }
}

impl Refusal {
    /// Whether the same request to the same holder may succeed later without anyone changing anything.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Failed | Self::Busy | Self::NotMember)
    }

    /// Whether the owner should look for another holder for what was refused.
    pub const fn wants_another_holder(self) -> bool {
        matches!(self, Self::Full | Self::Quota | Self::WrongSlot | Self::Closed)
    }
}

/// What a holder answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreReply {
    /// It is done, and durable.
    Done {
        /// The request.
        call: u64,
    },
    /// It is not done.
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
    COPYSET = 1,
    SHARD = 2,
    HEAD = 3,
    RELEASE = 4,
    UNRELEASE = 5,
    DONE = 1,
    REFUSED = 2,
}

impl StoreRequest {
    /// The number that names the reply.
    pub const fn call(&self) -> u64 {
        match self {
            Self::Copyset { call, .. }
            | Self::Shard { call, .. }
            | Self::Head { call, .. }
            | Self::Release { call, .. }
            | Self::Unrelease { call, .. } => *call,
        }
    }

    /// The frame in two parts to be sent one after the other: the fields, and the shard's bytes as they lie. The second is
    /// empty for everything but a shard.
    pub fn encode_parts(&self) -> (Vec<u8>, &[u8]) {
        let mut w = Writer::default();
        let tail = match self {
            Self::Copyset { call, copyset } => put(&mut w, COPYSET, *call, &**copyset),
            Self::Shard { call, shard, stripe, bytes } => return (Self::shard_fields(*call, *shard, stripe), bytes),
            Self::Head { call, head } => put(&mut w, HEAD, *call, &**head),
            Self::Release { call, release } => put(&mut w, RELEASE, *call, &**release),
            Self::Unrelease { call, unrelease } => put(&mut w, UNRELEASE, *call, &**unrelease),
        };
        (w.finish(), tail)
    }

    /// The first part of a shard's frame, for a sender whose bytes are elsewhere; the shard's bytes follow as they are.
    pub fn shard_fields(call: u64, shard: u8, stripe: &Signed<Stripe>) -> Vec<u8> {
        let mut w = Writer::default();
        SHARD.put(&mut w);
        call.put(&mut w);
        shard.put(&mut w);
        stripe.put(&mut w);
        w.finish()
    }

    /// Appends the frame to `out`, which may be used again for the next.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (fields, tail) = self.encode_parts();
        out.reserve(fields.len() + tail.len());
        out.extend_from_slice(&fields);
        out.extend_from_slice(tail);
    }

    /// Reads a frame; a shard's bytes stay in the frame's own allocation.
    ///
    /// # Errors
    /// What is wrong with it. The stream it came from is no longer of use then.
    pub fn decode(frame: Vec<u8>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(&frame);
        let kind = u8::take(&mut r)?;
        let call = u64::take(&mut r)?;
        let request = match kind {
            COPYSET => Self::Copyset { call, copyset: Box::new(Signed::take(&mut r)?) },
            SHARD => {
                let shard = u8::take(&mut r)?;
                let stripe = Box::new(Signed::take(&mut r)?);
                let tail = r.remaining();
                return Ok(Self::Shard { call, shard, stripe, bytes: split_tail(frame, tail) });
            }
            HEAD => Self::Head { call, head: Box::new(Signed::take(&mut r)?) },
            RELEASE => Self::Release { call, release: Box::new(Signed::take(&mut r)?) },
            UNRELEASE => Self::Unrelease { call, unrelease: Box::new(Signed::take(&mut r)?) },
            _ => return Err(DecodeError::Invalid("the store request's type")),
        };
        r.end()?;
        Ok(request)
    }
}

fn put(w: &mut Writer, kind: u8, call: u64, record: &impl Wire) -> &'static [u8] {
    kind.put(w);
    call.put(w);
    record.put(w);
    &[]
}

impl StoreReply {
    /// The request that this answers.
    pub const fn call(&self) -> u64 {
        match self {
            Self::Done { call } | Self::Refused { call, .. } => *call,
        }
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Self::Done { call } => {
                DONE.put(&mut w);
                call.put(&mut w);
            }
            Self::Refused { call, reason, text } => {
                REFUSED.put(&mut w);
                call.put(&mut w);
                reason.put(&mut w);
                text.put(&mut w);
            }
        }
        w.finish()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// What is wrong with it. The stream it came from is no longer of use then.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let kind = u8::take(&mut r)?;
        let call = u64::take(&mut r)?;
        let reply = match kind {
            DONE => Self::Done { call },
            REFUSED => Self::Refused { call, reason: Refusal::take(&mut r)?, text: String::take(&mut r)? },
            _ => return Err(DecodeError::Invalid("the store reply's type")),
        };
        r.end()?;
        Ok(reply)
    }
}
