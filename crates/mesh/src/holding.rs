//! What a holder agrees to keep, to let go and to show: pure decisions over facts that the caller looks up.
//!
//! Nothing here trusts the one who asks: a vault's root key says who writes, the plan says which slot is whose and how much it may
//! hold, and this node's own view of the directory says who is a member. The bytes of a shard are compared with their root by the
//! caller, who has them.

use crate::message::{Reader, Refusal, Standing, read_proof_input};
use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::keys::verify;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{Head, WriterCert, check_signed_by_writer, check_writer};
use backmesh_format::{NodeId, PublicKey, Signed, VaultId, Wire, limits};
use thiserror::Error;

#[cfg(test)]
mod tests;

/// A refusal with its details for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// Details.
    pub text: String,
}

fn refuse<T>(reason: Refusal, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason, text: text.into() })
}

/// Who may store: an accepted member.
///
/// # Errors
/// `Spent` for one whose invitation was overused, `NotMember` for everyone else.
pub fn judge_member(standing: Standing) -> Result<(), Refused> {
    match standing {
        Standing::Accepted => Ok(()),
        Standing::Spent => refuse(
            Refusal::Spent,
            "more nodes joined with your invitation than it allows, and you were seen last: ask an admin for a new token",
        ),
        Standing::Revoked => refuse(Refusal::NotMember, "an admin removed your node from the workgroup"),
        Standing::Waiting | Standing::Expired | Standing::Guest => refuse(Refusal::NotMember, "your node is not a member here"),
    }
}

/// The writer of one seat that counts: the highest generation seen, of two equal ones the smaller key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Its generation.
    pub generation: u64,
    /// Its key.
    pub writer: PublicKey,
}

impl Fence {
    /// The fence that a writer sets up.
    pub fn of(writer: &WriterCert) -> Self {
        Self { generation: writer.generation, writer: writer.writer }
    }

    /// Whether `other` is the same or replaces this one.
    pub fn lets_pass(&self, other: &Self) -> bool {
        (other.generation, std::cmp::Reverse(other.writer)) >= (self.generation, std::cmp::Reverse(self.writer))
    }
}

/// Whether a writer is certified by its vault, and not replaced by a later one of its seat. `known` is the fence kept for the vault
/// and seat; keep [`Fence::of`] the writer when the record is taken.
///
/// # Errors
/// `Writer` or `Fenced`.
pub fn judge_writer(writer: &Signed<WriterCert>, known: Option<Fence>) -> Result<(), Refused> {
    if check_writer(writer).is_err() {
        return refuse(Refusal::Writer, "the vault's root key did not certify this writer");
    }
    match known {
        Some(fence) if !fence.lets_pass(&Fence::of(writer)) => refuse(
            Refusal::Fenced,
            format!("generation {} of this vault's writer has replaced generation {}", fence.generation, writer.generation),
        ),
        _ => Ok(()),
    }
}

/// What a holder knows when a plan arrives.
#[derive(Debug, Clone, Copy)]
pub struct CopysetFacts<'a> {
    /// This node.
    pub me: NodeId,
    /// Who sent it.
    pub asker: NodeId,
    /// What this node thinks of the sender.
    pub standing: Standing,
    /// The fence of the vault and seat.
    pub fence: Option<Fence>,
    /// The plan of the same copyset that is kept.
    pub known: Option<&'a Signed<Copyset>>,
    /// The sum of `slot_bytes_max` over all other plans that writers on the same node have here, whatever their vaults.
    pub budgets_bytes: u64,
    /// What one owner may store here, in bytes; 0 sets no limit.
    pub quota_bytes: u64,
    /// How many plans are kept for this owner.
    pub copysets: usize,
    /// What is left of this node's offer, in bytes.
    pub free_bytes: u64,
}

/// Plans that one owner may have at one holder: a vault has a few dozen.
pub const COPYSETS_PER_OWNER_MAX: usize = 1024;
/// Heads of one vault that a holder takes in a day: one backup every five minutes.
pub const HEADS_PER_DAY_MAX: u32 = 300;
/// Releases and un-releases of one vault that a holder takes in a day, of each kind.
pub const RELEASES_PER_DAY_MAX: u32 = 300;
/// What an owner's un-releases may take beyond offer and quota, in bytes: a full holder must not keep data from being saved.
pub const UNRELEASE_BYTES_SPARED: u64 = 8 << 20;

/// Whether a plan is taken. It counts against the quota of the node that the writer is certified for, and only that node may
/// bring it, so nobody founds sets at another's expense.
///
/// # Errors
/// Why not. A plan that is kept already is accepted again.
pub fn judge_copyset(facts: &CopysetFacts<'_>, copyset: &Signed<Copyset>) -> Result<(), Refused> {
    judge_member(facts.standing)?;
    judge_writer(&copyset.writer, facts.fence)?;
    if check_signed_by_writer(copyset, &copyset.writer).is_err() {
        return refuse(Refusal::Writer, "the writer did not sign the copyset");
    }
    if copyset.writer.node != facts.asker {
        return refuse(Refusal::Writer, "only the writer's own node brings its copysets");
    }
    if let Err(error) = copyset.check() {
        return refuse(Refusal::BadRecord, error.to_string());
    }
    if let Some(known) = facts.known {
        if known.writer.vault != copyset.writer.vault
            || known.writer.seat != copyset.writer.seat
            || known.purpose != copyset.purpose
            || known.k != copyset.k
        {
            return refuse(Refusal::BadRecord, "a copyset keeps its vault, its seat, its purpose and its k");
        }
        let later = (copyset.writer.generation, copyset.sequence) > (known.writer.generation, known.sequence);
        if !later && known.hash() != copyset.hash() {
            return refuse(Refusal::OldSequence, format!("copyset state {} is known", known.sequence));
        }
    } else if !copyset.slots.contains(&facts.me) {
        return refuse(Refusal::WrongSlot, "this node has no slot in the copyset");
    } else if facts.copysets >= COPYSETS_PER_OWNER_MAX {
        return refuse(Refusal::Quota, format!("one owner may have {COPYSETS_PER_OWNER_MAX} copysets at a holder"));
    } else if copyset.to_wire().len() as u64 > facts.free_bytes {
        return refuse(Refusal::Full, "no room is left in what this node offers");
    }
    let planned = facts.budgets_bytes.saturating_add(copyset.slot_bytes_max);
    if facts.quota_bytes != 0
        && planned > facts.quota_bytes
        && facts.known.is_none_or(|known| known.slot_bytes_max < copyset.slot_bytes_max)
    {
        return refuse(
            Refusal::Quota,
            format!("the copysets would add up to {planned} bytes here; the workgroup allows {}", facts.quota_bytes),
        );
    }
    Ok(())
}

/// What a holder knows when a shard arrives.
#[derive(Debug, Clone, Copy)]
pub struct ShardFacts<'a> {
    /// This node.
    pub me: NodeId,
    /// What this node thinks of the sender.
    pub standing: Standing,
    /// The plan that is kept of the stripe's copyset.
    pub copyset: Option<&'a Signed<Copyset>>,
    /// The fence of the vault and the seat.
    pub fence: Option<Fence>,
    /// The record of the same pack that is kept, if one is.
    pub known: Option<&'a Signed<Stripe>>,
    /// The length of the shard received, in bytes.
    pub bytes: u64,
    /// What is kept of this copyset, in bytes.
    pub slot_bytes: u64,
    /// What is kept of this owner in all, in bytes.
    pub owner_bytes: u64,
    /// What one owner may store here, in bytes; 0 sets no limit.
    pub quota_bytes: u64,
    /// What is left of this node's offer, in bytes.
    pub free_bytes: u64,
}

/// Whether a shard is taken. The caller still compares its bytes with the root.
///
/// # Errors
/// Why not. The same shard again is accepted, and costs nothing.
pub fn judge_shard(facts: &ShardFacts<'_>, stripe: &Signed<Stripe>, shard: u8) -> Result<(), Refused> {
    judge_member(facts.standing)?;
    let Some(copyset) = facts.copysets_of(stripe) else {
        return refuse(Refusal::UnknownCopyset, "the copyset is not known here: send it first");
    };
    judge_writer(&copyset.writer, facts.fence)?;
    check_stripe(stripe, copyset)?;
    let slot = stripe.slot_of(usize::from(shard));
    if usize::from(shard) >= stripe.n() || copyset.slots.get(slot) != Some(&facts.me) {
        return refuse(Refusal::WrongSlot, format!("shard {shard} belongs into slot {slot}, which is not this node's"));
    }
    if facts.bytes != u64::from(stripe.shard_bytes) {
        return refuse(Refusal::WrongBytes, format!("a shard of {} bytes was announced as {}", facts.bytes, stripe.shard_bytes));
    }
    if let Some(known) = facts.known {
        return judge_again(known, stripe);
    }
    if copyset.closed {
        return refuse(Refusal::Closed, "the copyset takes no new stripes");
    }
    if facts.slot_bytes.saturating_add(facts.bytes) > copyset.slot_bytes_max {
        return refuse(Refusal::Budget, format!("the copyset's budget of {} bytes a slot is used up", copyset.slot_bytes_max));
    }
    if facts.quota_bytes != 0 && facts.owner_bytes.saturating_add(facts.bytes) > facts.quota_bytes {
        return refuse(Refusal::Quota, format!("the quota of {} bytes for one owner is used up here", facts.quota_bytes));
    }
    if facts.bytes > facts.free_bytes {
        return refuse(Refusal::Full, "no room is left in what this node offers");
    }
    Ok(())
}

impl<'a> ShardFacts<'a> {
    fn copysets_of(&self, stripe: &Stripe) -> Option<&'a Signed<Copyset>> {
        self.copyset.filter(|copyset| copyset.copyset == stripe.copyset)
    }
}

fn check_stripe(stripe: &Signed<Stripe>, copyset: &Copyset) -> Result<(), Refused> {
    if let Err(error) = stripe.check() {
        return refuse(Refusal::BadRecord, error.to_string());
    }
    let writer = &copyset.writer;
    if stripe.vault != writer.vault || stripe.seat != writer.seat || stripe.generation > writer.generation {
        return refuse(Refusal::Writer, "the stripe is not of the copyset's vault, seat and generation");
    }
    if !stripe.signed_by(&writer.writer) {
        return refuse(Refusal::Writer, "the copyset's writer did not sign the stripe: send the copyset again after a take-over");
    }
    if stripe.purpose != copyset.purpose || stripe.k != copyset.k || stripe.n() > copyset.slots.len() {
        return refuse(Refusal::BadRecord, "the stripe's purpose, k and n are not those of its copyset");
    }
    Ok(())
}

/// A pack that is known: roots once signed never change; more of them, and more recipients, may come.
fn judge_again(known: &Stripe, stripe: &Stripe) -> Result<(), Refused> {
    let same = known.vault == stripe.vault
        && known.copyset == stripe.copyset
        && known.class == stripe.class
        && known.k == stripe.k
        && known.founding_n == stripe.founding_n
        && known.pack_root == stripe.pack_root
        && known.shard_roots.iter().zip(&stripe.shard_roots).all(|(known, new)| known == new);
    if same { Ok(()) } else { refuse(Refusal::BadRecord, "another record of this pack is kept, with other roots") }
}

/// What a holder knows of the room that a record may take.
#[derive(Debug, Clone, Copy)]
pub struct RecordRoom {
    /// What is kept of this owner in all, records included, in bytes.
    pub owner_bytes: u64,
    /// What one owner may store here, in bytes; 0 sets no limit.
    pub quota_bytes: u64,
    /// What is left of this node's offer, in bytes.
    pub free_bytes: u64,
    /// How many records of this kind were taken of the vault today.
    pub today: u32,
}

impl RecordRoom {
    fn judge(&self, bytes: u64, per_day_max: u32) -> Result<(), Refused> {
        if self.quota_bytes != 0 && self.owner_bytes.saturating_add(bytes) > self.quota_bytes {
            return refuse(Refusal::Quota, format!("the quota of {} bytes for one owner is used up here", self.quota_bytes));
        }
        if bytes > self.free_bytes {
            return refuse(Refusal::Full, "no room is left in what this node offers");
        }
        self.judge_pace(per_day_max)
    }

    fn judge_pace(&self, per_day_max: u32) -> Result<(), Refused> {
        if self.today >= per_day_max {
            return refuse(Refusal::Busy, format!("{per_day_max} such records of one vault are taken in a day: try again later"));
        }
        Ok(())
    }
}

/// A head that is kept, by what orders the heads of a seat: the writer's generation, of one generation the smaller key, then the
/// sequence. A new writer's sequences begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRank {
    /// Who wrote it.
    pub fence: Fence,
    /// Its sequence.
    pub sequence: u64,
}

impl HeadRank {
    /// The rank of a head.
    pub fn of(head: &Head) -> Self {
        Self { fence: Fence::of(&head.writer), sequence: head.sequence }
    }

    const fn order(&self) -> (u64, std::cmp::Reverse<PublicKey>, u64) {
        (self.fence.generation, std::cmp::Reverse(self.fence.writer), self.sequence)
    }
}

impl PartialOrd for HeadRank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeadRank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// What a holder knows when a head arrives.
#[derive(Debug, Clone, Copy)]
pub struct HeadFacts {
    /// What this node thinks of the sender.
    pub standing: Standing,
    /// The fence of the vault and the seat.
    pub fence: Option<Fence>,
    /// Whether this node holds a slot of any copyset of the vault: only holders keep heads.
    pub holds_vault: bool,
    /// The newest head kept of the seat, and whether it is this very head.
    pub newest: Option<(HeadRank, bool)>,
    /// The room for it.
    pub room: RecordRoom,
}

/// Whether a head is taken. Every head that was taken is kept for the retention floor, whatever comes after it.
///
/// # Errors
/// Why not. The newest head again is accepted.
pub fn judge_head(facts: &HeadFacts, head: &Signed<Head>) -> Result<(), Refused> {
    judge_member(facts.standing)?;
    judge_writer(&head.writer, facts.fence)?;
    if check_signed_by_writer(head, &head.writer).is_err() {
        return refuse(Refusal::Writer, "the writer did not sign the head");
    }
    judge_holding(facts.holds_vault)?;
    match facts.newest {
        Some((_, true)) => return Ok(()),
        Some((newest, false)) if HeadRank::of(head) <= newest => {
            let (generation, sequence) = (newest.fence.generation, newest.sequence);
            return refuse(
                Refusal::OldSequence,
                format!(
                    "head {sequence} of generation {generation} of this seat is kept, {} of {} is not newer",
                    head.sequence, head.writer.generation
                ),
            );
        }
        _ => {}
    }
    let bytes = head.to_wire().len();
    if head.keys.len() > limits::RECIPIENTS_MAX || bytes > limits::HEAD_BYTES_MAX {
        return refuse(Refusal::BadRecord, "the head is too large");
    }
    facts.room.judge(bytes as u64, HEADS_PER_DAY_MAX)
}

fn judge_holding(holds_vault: bool) -> Result<(), Refused> {
    if holds_vault {
        Ok(())
    } else {
        refuse(Refusal::UnknownCopyset, "this node holds nothing of the vault: send a copyset first")
    }
}

/// What a holder knows when a release arrives.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseFacts {
    /// What this node thinks of the sender.
    pub standing: Standing,
    /// The fence of the vault and the seat.
    pub fence: Option<Fence>,
    /// Whether this node holds a slot of any copyset of the vault.
    pub holds_vault: bool,
    /// The highest sequence that is kept of the releases of the same vault, seat and generation; 0 for none.
    pub newest: u64,
    /// The room for it.
    pub room: RecordRoom,
}

/// Whether a release is taken: it starts the retention floor for its packs, and deletes nothing.
///
/// # Errors
/// Why not.
pub fn judge_release(facts: &ReleaseFacts, release: &Signed<Release>) -> Result<(), Refused> {
    judge_member(facts.standing)?;
    judge_writer(&release.writer, facts.fence)?;
    if check_signed_by_writer(release, &release.writer).is_err() {
        return refuse(Refusal::Writer, "the writer did not sign the release");
    }
    judge_holding(facts.holds_vault)?;
    judge_sequence(facts.newest, release.sequence, release.packs.len())?;
    facts.room.judge(release.to_wire().len() as u64, RELEASES_PER_DAY_MAX)
}

/// What a holder knows when an un-release arrives.
#[derive(Debug, Clone, Copy)]
pub struct UnreleaseFacts {
    /// Whether this node holds a slot of any copyset of the vault.
    pub holds_vault: bool,
    /// The highest sequence that is kept of the vault's un-releases, which no release touches; 0 for none.
    pub newest: u64,
    /// What the vault's owner has of un-releases here, in bytes.
    pub unrelease_bytes: u64,
    /// The room for it.
    pub room: RecordRoom,
}

/// Whether an un-release is taken: signed by the vault's root key, it needs no membership.
///
/// # Errors
/// Why not.
pub fn judge_unrelease(facts: &UnreleaseFacts, unrelease: &Signed<Unrelease>) -> Result<(), Refused> {
    judge_holding(facts.holds_vault)?;
    if !unrelease.signed_by(&PublicKey(unrelease.vault.0)) {
        return refuse(Refusal::Writer, "the vault's root key did not sign the un-release");
    }
    judge_sequence(facts.newest, unrelease.sequence, unrelease.packs.len())?;
    let bytes = unrelease.to_wire().len() as u64;
    if facts.unrelease_bytes.saturating_add(bytes) <= UNRELEASE_BYTES_SPARED {
        return facts.room.judge_pace(RELEASES_PER_DAY_MAX);
    }
    facts.room.judge(bytes, RELEASES_PER_DAY_MAX)
}

fn judge_sequence(newest: u64, sequence: u64, packs: usize) -> Result<(), Refused> {
    if sequence <= newest {
        return refuse(Refusal::OldSequence, format!("number {newest} of its kind is kept, {sequence} is not newer"));
    }
    if packs > limits::RELEASE_PACKS_MAX {
        return refuse(Refusal::BadRecord, format!("a release names at most {} packs", limits::RELEASE_PACKS_MAX));
    }
    Ok(())
}

/// A proof that someone may read a vault, as [`crate::message::ReadRequest::Prove`] brings it.
#[derive(Debug, Clone, Copy)]
pub struct ReadProof<'a> {
    /// The vault.
    pub vault: &'a VaultId,
    /// By what right.
    pub how: &'a Reader,
    /// The key that signed.
    pub key: &'a PublicKey,
    /// The signature.
    pub signature: &'a [u8; 64],
}

/// Whether a proof gives the right to read: the root key, the current writer of a seat, or a reader whom the root key signed.
/// Membership is not asked for. `fence` finds the fence of a seat of the vault.
///
/// # Errors
/// `Proof`, or `Fenced` for a writer that was replaced.
pub fn judge_reader(
    proof: &ReadProof<'_>,
    nonce: &[u8; 32],
    me: &NodeId,
    client: &NodeId,
    fence: impl FnOnce(u16) -> Option<Fence>,
) -> Result<(), Refused> {
    let root = PublicKey(proof.vault.0);
    let may = match proof.how {
        Reader::Root => *proof.key == root,
        Reader::Writer(cert) => cert.vault == *proof.vault && cert.signed_by(&root) && cert.writer == *proof.key,
        Reader::Reader(cert) => cert.vault == *proof.vault && cert.signed_by(&root) && cert.reader == *proof.key,
    };
    if !may {
        return refuse(Refusal::Proof, "the key is neither the vault's root key nor certified by it");
    }
    if !verify(proof.key, &read_proof_input(nonce, me, client, proof.vault), proof.signature) {
        return refuse(Refusal::Proof, "the signature over the challenge is not the key's");
    }
    if let Reader::Writer(cert) = proof.how {
        judge_writer(cert, fence(cert.seat))?;
    }
    Ok(())
}
