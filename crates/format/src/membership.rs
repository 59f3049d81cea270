//! Who belongs to a workgroup: invitations, certificates, admissions, revocations, and what members say of themselves.

use crate::id::{MachineId, NodeId, PublicKey, RecordHash, WorkgroupId};
use crate::record::{Record, Signed};
use crate::wire::DecodeError;
use crate::{UnixMillis, record, wire_enum, wire_struct};

wire_enum! {
    /// What a member is for.
    pub enum Role {
        /// Keeps its own backups and holds others' shards.
        Member = 1,
        /// Seeds and relays only: neither shards nor backups.
        Seed = 2,
    }
}

wire_struct! {
    /// Where someone might be.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Seed {
        /// A libp2p multiaddress, without the peer's name.
        pub address: String,
        /// Who is expected there, where it is known. An invitation's issuer vouches for the seeds that it names.
        pub node: Option<NodeId>,
    }
}

record! {
    /// A one-time key pair, signed by an admin, whose holder may make members without an admin at hand.
    b"BMiv" "invitation"
    pub struct Invitation {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// The public half; the secret half is in the token.
        pub key: PublicKey,
        /// How many nodes may join with it.
        pub uses: u32,
        /// When it expires, judged by the admitting member's clock; 0 for never.
        pub expires_at: UnixMillis,
        /// What those who join with it are for.
        pub role: Role,
        /// Where they stand: shards are spread over sites. Empty where nothing was said.
        pub site: String,
        /// Where members may be met.
        pub seeds: Vec<Seed>,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// That a node is a member: signed by the invitation's key and by the node itself, or by an admin and the node.
    b"BMct" "certificate"
    pub struct Certificate {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// The member.
        pub node: NodeId,
        /// The machine it runs on: a copyset never uses one machine twice.
        pub machine: MachineId,
        /// What people call it.
        pub name: String,
        /// Where it stands.
        pub site: String,
        /// What it is for.
        pub role: Role,
        /// The invitation that made it a member; absent where an admin signed directly.
        pub invitation: Option<Signed<Invitation>>,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// A member's word that it judged a certificate's invitation, at that moment neither expired nor spent.
    b"BMad" "admission"
    pub struct Admission {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// The certificate admitted.
        pub certificate: RecordHash,
        /// Its node.
        pub node: NodeId,
        /// The member that judged, and signed this.
        pub admitted_by: NodeId,
        /// When.
        pub admitted_at: UnixMillis,
    }
}

record! {
    /// That a node is no longer a member, signed by an admin. Kept for ever.
    b"BMrv" "revocation"
    pub struct Revocation {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// Who is no longer a member.
        pub node: NodeId,
        /// Why, for people.
        pub reason: String,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// What a member says of itself, signed by itself; the highest `sequence` counts.
    b"BMms" "member state"
    pub struct MemberState {
        /// The workgroup.
        pub workgroup: WorkgroupId,
        /// The member.
        pub node: NodeId,
        /// Rises with each announcement, also over restarts.
        pub sequence: u64,
        /// Its libp2p multiaddresses, at most [`crate::limits::ADDRESSES_MAX`].
        pub addresses: Vec<String>,
        /// How much disk space it offers to others, in bytes.
        pub offered_bytes: u64,
        /// How much of that is still free, in bytes, rounded down to 64 MiB.
        pub free_bytes: u64,
        /// In how many of the last 1,000 hours it ran.
        pub uptime_permille: u16,
        /// The program's version.
        pub program: String,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

/// Checks the signatures and the names inside a certificate. Expiry, uses and revocation are for the members to judge.
///
/// # Errors
/// `Signature` where the node, the invitation's key or an admin did not sign; `Invalid` where the parts speak of different things.
pub fn check_certificate(
    certificate: &Signed<Certificate>,
    workgroup: &WorkgroupId,
    admins: &[PublicKey],
) -> Result<(), DecodeError> {
    if certificate.workgroup != *workgroup {
        return Err(DecodeError::Invalid("the certificate's workgroup"));
    }
    certificate.require(&PublicKey(certificate.node.0))?;
    match &certificate.invitation {
        None if admins.iter().any(|admin| certificate.signed_by(admin)) => Ok(()),
        None => Err(DecodeError::Signature(Certificate::NAME)),
        Some(invitation) => {
            check_invitation(invitation, workgroup, admins)?;
            certificate.require(&invitation.key)?;
            if certificate.role != invitation.role || (!invitation.site.is_empty() && certificate.site != invitation.site) {
                return Err(DecodeError::Invalid("the certificate's role or site"));
            }
            Ok(())
        }
    }
}

/// Checks that an admin signed an invitation for this workgroup.
///
/// # Errors
/// `Invalid` for another workgroup's, `Signature` where no admin signed.
pub fn check_invitation(
    invitation: &Signed<Invitation>,
    workgroup: &WorkgroupId,
    admins: &[PublicKey],
) -> Result<(), DecodeError> {
    if invitation.workgroup != *workgroup {
        return Err(DecodeError::Invalid("the invitation's workgroup"));
    }
    if admins.iter().any(|admin| invitation.signed_by(admin)) { Ok(()) } else { Err(DecodeError::Signature(Invitation::NAME)) }
}
