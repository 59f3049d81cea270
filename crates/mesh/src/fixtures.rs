//! Records for tests: a workgroup with admins, invitations and members whose keys follow from small numbers.

use crate::directory::{Directory, DirectoryRecord};
use backmesh_format::charter::{Charter, Level};
use backmesh_format::copyset::Copyset;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Admission, Certificate, Invitation, MemberState, Revocation, Role, Seed};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe, shard_bytes};
use backmesh_format::vault::{VaultPointer, WriterCert};
use backmesh_format::{
    CopysetId, MachineId, NodeId, PackId, PublicKey, SealingKey, Signed, TreeRoot, UnixMillis, VaultId, WorkgroupId,
};

pub(crate) fn key(number: u64) -> KeyPair {
    KeyPair::from_secret(&blake3::derive_key("backmesh test key", &number.to_le_bytes()))
}

pub(crate) fn node(number: u64) -> NodeId {
    NodeId(key(number).public().0)
}

pub(crate) fn admins(numbers: &[u64]) -> Vec<PublicKey> {
    numbers.iter().map(|number| key(1_000 + number).public()).collect()
}

pub(crate) fn sign<T: backmesh_format::Record>(record: T, by: &[u64]) -> Signed<T> {
    let keys: Vec<KeyPair> = by.iter().map(|number| key(*number)).collect();
    Signed::new(record, &keys.iter().collect::<Vec<_>>())
}

/// The first charter, with admins 0 to 2.
pub(crate) fn first_charter() -> Signed<Charter> {
    let charter = Charter {
        name: "test".to_owned(),
        number: 1,
        workgroup: None,
        previous: None,
        admins: admins(&[0, 1, 2]),
        level: Level::Standard,
        site_safe: false,
        retention_floor_secs: 100,
        lease_term_secs: Charter::LEASE_TERM_SECS,
        quota_bytes: 0,
        written_at: 0,
        nonce: [7; 16],
    };
    sign(charter, &[1_000])
}

pub(crate) fn workgroup() -> WorkgroupId {
    first_charter().workgroup_id()
}

pub(crate) fn next_charter(previous: &Signed<Charter>, signers: &[u64], change: impl FnOnce(&mut Charter)) -> Signed<Charter> {
    let mut charter = Charter::clone(previous);
    charter.number += 1;
    charter.workgroup = Some(workgroup());
    charter.previous = Some(previous.hash());
    change(&mut charter);
    sign(charter, &signers.iter().map(|number| 1_000 + number).collect::<Vec<_>>())
}

/// Invitation `number`, by an admin. Its key is 2,000 + `number`.
pub(crate) fn invitation(number: u64, admin: u64, uses: u32, expires_at: UnixMillis, seeds: &[u64]) -> Signed<Invitation> {
    let seeds = seeds.iter().map(|seed| Seed { address: format!("/{seed}"), node: Some(node(*seed)) }).collect();
    let key = key(2_000 + number).public();
    let site = String::new();
    let invitation =
        Invitation { workgroup: workgroup(), key, uses, expires_at, role: Role::Member, site, seeds, written_at: number };
    sign(invitation, &[1_000 + admin])
}

pub(crate) fn certificate(of: u64, invitation_number: u64, invitation: &Signed<Invitation>) -> Signed<Certificate> {
    let certificate = Certificate {
        workgroup: workgroup(),
        node: node(of),
        machine: MachineId([of as u8; 32]),
        name: format!("node {of}"),
        site: String::new(),
        role: Role::Member,
        invitation: Some(invitation.clone()),
        written_at: invitation_number,
    };
    sign(certificate, &[of, 2_000 + invitation_number])
}

/// A certificate with an invitation for a thousand that never expires.
pub(crate) fn member(of: u64) -> Signed<Certificate> {
    certificate(of, 0, &invitation(0, 0, 1_000, 0, &[]))
}

pub(crate) fn admission(certificate: &Signed<Certificate>, by: u64) -> Signed<Admission> {
    let (hash, of) = (certificate.hash(), certificate.node);
    let admission = Admission { workgroup: workgroup(), certificate: hash, node: of, admitted_by: node(by), admitted_at: 5 };
    sign(admission, &[by])
}

pub(crate) fn revocation(of: u64, admin: u64) -> Signed<Revocation> {
    let revocation = Revocation { workgroup: workgroup(), node: node(of), reason: "gone".to_owned(), written_at: admin };
    sign(revocation, &[1_000 + admin])
}

pub(crate) fn state(of: u64, sequence: u64) -> Signed<MemberState> {
    let state = MemberState {
        workgroup: workgroup(),
        node: node(of),
        sequence,
        addresses: vec![format!("/{of}")],
        offered_bytes: 0,
        free_bytes: 0,
        uptime_permille: 0,
        program: String::new(),
        written_at: sequence,
    };
    sign(state, &[of])
}

/// A writer of vault `vault` (key 3,000 + `vault`), whose own key is 4,000 + `writer`, on node `on`.
pub(crate) fn writer(vault: u64, writer: u64, generation: u64, on: u64) -> Signed<WriterCert> {
    let cert = WriterCert {
        vault: vault_id(vault),
        seat: 0,
        generation,
        writer: key(4_000 + writer).public(),
        sealing: SealingKey([9; 32]),
        node: node(on),
        machine: MachineId([on as u8; 32]),
        written_at: 0,
    };
    sign(cert, &[3_000 + vault])
}

pub(crate) fn vault_id(vault: u64) -> VaultId {
    VaultId(key(3_000 + vault).public().0)
}

pub(crate) fn pointer(cert: &Signed<WriterCert>, writer: u64, sequence: u64, holders: &[u64]) -> Signed<VaultPointer> {
    let holders = holders.iter().map(|holder| node(*holder)).collect();
    sign(VaultPointer { workgroup: workgroup(), writer: cert.clone(), sequence, holders }, &[4_000 + writer])
}

pub(crate) fn copyset(cert: &Signed<WriterCert>, writer: u64, sequence: u64, slots: &[u64]) -> Signed<Copyset> {
    let copyset = Copyset {
        writer: cert.clone(),
        copyset: CopysetId([3; 32]),
        sequence,
        purpose: Purpose::Data,
        level: Level::Standard,
        k: 2,
        slots: slots.iter().map(|slot| node(*slot)).collect(),
        slot_bytes_max: 1 << 20,
        closed: false,
    };
    sign(copyset, &[4_000 + writer])
}

pub(crate) fn stripe(vault: u64, writer: u64, n: usize) -> Signed<Stripe> {
    let stripe = Stripe {
        vault: vault_id(vault),
        pack: PackId([5; 32]),
        copyset: CopysetId([3; 32]),
        purpose: Purpose::Data,
        class: SizeClass::K64,
        k: 2,
        founding_n: n as u8,
        shard_bytes: shard_bytes(SizeClass::K64, 2),
        pack_root: TreeRoot([1; 32]),
        shard_roots: (0..n).map(|shard| TreeRoot([shard as u8; 32])).collect(),
        keys: Vec::new(),
        generation: 1,
        seat: 0,
    };
    sign(stripe, &[4_000 + writer])
}

/// The directory of member `of`, which knows the first charter.
pub(crate) fn directory(of: u64, own: Signed<Certificate>, now: UnixMillis) -> Directory {
    Directory::new(node(of), first_charter(), own, now).unwrap()
}

pub(crate) fn charter_record(charter: &Signed<Charter>) -> DirectoryRecord {
    DirectoryRecord::Charter(Box::new(charter.clone()))
}

pub(crate) fn certificate_record(certificate: &Signed<Certificate>) -> DirectoryRecord {
    DirectoryRecord::Certificate(Box::new(certificate.clone()))
}

pub(crate) fn admission_record(certificate: &Signed<Certificate>, by: u64) -> DirectoryRecord {
    DirectoryRecord::Admission(Box::new(admission(certificate, by)))
}

pub(crate) fn state_record(of: u64, sequence: u64) -> DirectoryRecord {
    DirectoryRecord::State(Box::new(state(of, sequence)))
}

pub(crate) fn revocation_record(of: u64, admin: u64) -> DirectoryRecord {
    DirectoryRecord::Revocation(Box::new(revocation(of, admin)))
}
