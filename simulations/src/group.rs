//! An admin: founds a workgroup, writes charters, invites and revokes.

use crate::dice::Dice;
use backmesh_format::charter::{Charter, Level};
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Certificate, Invitation, Revocation, Role, Seed};
use backmesh_format::{MachineId, NodeId, PublicKey, Signed, UnixMillis, WorkgroupId};

/// A workgroup's admin keys and the first charter.
#[derive(Debug)]
pub struct Group {
    /// The admins; the first signs where nothing else is said.
    pub admins: Vec<KeyPair>,
    /// The first charter, which names all of them.
    pub charter: Signed<Charter>,
}

impl Group {
    /// A workgroup with so many admins.
    pub fn found(admins: usize, dice: &mut Dice, now: UnixMillis) -> Self {
        let admins: Vec<KeyPair> = (0..admins).map(|_| KeyPair::from_secret(&dice.bytes())).collect();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&dice.bytes()[..16]);
        let charter = Charter {
            name: "simulated".to_owned(),
            number: 1,
            workgroup: None,
            previous: None,
            admins: admins.iter().map(KeyPair::public).collect(),
            level: Level::Standard,
            site_safe: false,
            retention_floor_secs: Charter::RETENTION_FLOOR_SECS,
            lease_term_secs: Charter::LEASE_TERM_SECS,
            quota_bytes: 0,
            written_at: now,
            nonce,
        };
        let charter = Signed::new(charter, &[&admins[0]]);
        Self { admins, charter }
    }

    /// The workgroup's name.
    pub fn workgroup(&self) -> WorkgroupId {
        self.charter.workgroup_id()
    }

    /// The version after `previous`, changed by `change` and signed by some of the admins.
    pub fn next(&self, previous: &Signed<Charter>, signers: &[usize], change: impl FnOnce(&mut Charter)) -> Signed<Charter> {
        let mut charter = Charter::clone(previous);
        charter.number += 1;
        charter.workgroup = Some(self.workgroup());
        charter.previous = Some(previous.hash());
        change(&mut charter);
        Signed::new(charter, &signers.iter().map(|signer| &self.admins[*signer]).collect::<Vec<_>>())
    }

    /// An invitation by one of the admins.
    pub fn invite(&self, admin: usize, uses: u32, expires_at: UnixMillis, seeds: Vec<Seed>, dice: &mut Dice) -> Invited {
        let key = KeyPair::from_secret(&dice.bytes());
        let invitation = Invitation {
            workgroup: self.workgroup(),
            key: key.public(),
            uses,
            expires_at,
            role: Role::Member,
            site: String::new(),
            seeds,
            written_at: 0,
        };
        Invited { invitation: Signed::new(invitation, &[&self.admins[admin]]), key }
    }

    /// A revocation by one of the admins.
    pub fn revoke(&self, admin: usize, node: NodeId) -> Signed<Revocation> {
        let revocation = Revocation { workgroup: self.workgroup(), node, reason: "stolen".to_owned(), written_at: 1 };
        Signed::new(revocation, &[&self.admins[admin]])
    }

    /// The admins' public keys, some of them left out.
    pub fn admins_without(&self, removed: &[usize]) -> Vec<PublicKey> {
        let kept = self.admins.iter().enumerate().filter(|(place, _)| !removed.contains(place));
        kept.map(|(_, admin)| admin.public()).collect()
    }
}

/// What a token carries beside the charter.
#[derive(Debug, Clone)]
pub struct Invited {
    /// The invitation.
    pub invitation: Signed<Invitation>,
    /// Its key pair.
    pub key: KeyPair,
}

impl Invited {
    /// The certificate that a node makes for itself.
    pub fn certificate(&self, node: &KeyPair, name: &str, now: UnixMillis) -> Signed<Certificate> {
        let node_id = NodeId(node.public().0);
        let certificate = Certificate {
            workgroup: self.invitation.workgroup,
            node: node_id,
            machine: MachineId(node_id.0),
            name: name.to_owned(),
            site: self.invitation.site.clone(),
            role: self.invitation.role,
            invitation: Some(self.invitation.clone()),
            written_at: now,
        };
        Signed::new(certificate, &[&self.key, node])
    }
}
