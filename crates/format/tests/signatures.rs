//! Who signed what: envelopes, charters, invitations, certificates, writers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use backmesh_format::charter::{Charter, check_charter};
use backmesh_format::copyset::Copyset;
use backmesh_format::keys::{KeyPair, verify};
use backmesh_format::membership::{Certificate, Role, check_certificate, check_invitation};
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{check_signed_by_writer, check_writer};
use backmesh_format::{DecodeError, NodeId, PublicKey, Record, Signed, TreeRoot, Wire, WorkgroupId};
use common::samples::{self, admin, invitation_key, key, node_key, vault_secret, writer_key};

fn signature<T: Record>() -> DecodeError {
    DecodeError::Signature(T::NAME)
}

#[test]
fn a_record_says_who_signed_it() {
    let signed = Signed::new(samples::charter(), &[&admin(), &key(9), &admin()]);
    assert_eq!(signed.signers().collect::<Vec<_>>(), [&admin().public(), &key(9).public()]);
    assert!(signed.signed_by(&key(9).public()) && !signed.signed_by(&key(8).public()));
    assert_eq!(signed.require(&key(8).public()), Err(signature::<Charter>()));
    assert_eq!(signed.require(&admin().public()), Ok(&samples::charter()));
}

#[test]
fn signatures_do_not_change_the_name_of_a_record() {
    let once = Signed::new(samples::charter(), &[&admin()]);
    let twice = Signed::new(samples::charter(), &[&admin(), &key(9)]);
    assert_eq!(once.hash(), twice.hash());
    assert_ne!(once.to_wire(), twice.to_wire());
}

#[test]
fn a_changed_record_or_signature_is_refused() {
    let bytes = Signed::new(samples::charter(), &[&admin()]).to_wire();
    let mut record = bytes.clone();
    record[20] ^= 1;
    assert_eq!(Signed::<Charter>::from_wire(&record), Err(signature::<Charter>()));
    let mut last = bytes.clone();
    *last.last_mut().unwrap() ^= 1;
    assert_eq!(Signed::<Charter>::from_wire(&last), Err(signature::<Charter>()));
    let mut signer = bytes.clone();
    let at = bytes.len() - 96;
    signer[at..at + 32].copy_from_slice(&key(9).public().0);
    assert_eq!(Signed::<Charter>::from_wire(&signer), Err(signature::<Charter>()));
}

#[test]
fn a_signature_of_one_kind_of_record_is_none_of_another() {
    let bytes = Signed::new(samples::charter(), &[&admin()]).to_wire();
    assert!(matches!(Signed::<Certificate>::from_wire(&bytes), Err(DecodeError::Magic { expected: "certificate" })));
    let mut passed_off = bytes;
    passed_off[..4].copy_from_slice(&Stripe::MAGIC);
    assert!(Signed::<Stripe>::from_wire(&passed_off).is_err());
}

#[test]
fn nobody_signs_twice_and_no_more_than_sixteen_sign() {
    let mut bytes = Signed::new(samples::charter(), &[&admin()]).to_wire();
    let (envelope, one) = (bytes[..bytes.len() - 97].to_vec(), bytes.split_off(bytes.len() - 96));
    let twice = [&envelope[..], &[2], &one, &one].concat();
    assert_eq!(Signed::<Charter>::from_wire(&twice), Err(signature::<Charter>()));
    let keys: Vec<KeyPair> = (1..=17).map(key).collect();
    let crowd = Signed::new(samples::charter(), &keys.iter().collect::<Vec<_>>());
    assert_eq!(crowd.signers().count(), 16);
    assert_eq!(Signed::from_wire(&crowd.to_wire()), Ok(crowd));
    let many = [&envelope[..], &[17], &one.repeat(17)].concat();
    assert!(matches!(Signed::<Charter>::from_wire(&many), Err(DecodeError::Limit { found: 17, limit: 16, .. })));
}

#[test]
fn a_weak_key_verifies_nothing() {
    // The neutral element signs everything where it is not refused.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    assert!(!verify(&PublicKey(neutral), b"anything", &forged));
    assert!(!verify(&PublicKey([0xff; 32]), b"anything", &forged));
}

#[test]
fn copies_of_a_record_combine_their_signatures_in_any_order() {
    let one = Signed::new(samples::charter(), &[&admin()]);
    let two = Signed::new(samples::charter(), &[&key(9), &key(8)]);
    let (mut forwards, mut backwards) = (one.clone(), two.clone());
    forwards.combine(&two);
    backwards.combine(&one);
    assert_eq!(forwards, backwards);
    assert_eq!(forwards.signers().count(), 3);
    forwards.combine(&Signed::new(samples::second_charter(), &[&key(7)]));
    assert_eq!(forwards, backwards);
    assert_eq!(Signed::from_wire(&forwards.to_wire()), Ok(backwards));
    forwards.retain_signers(|signer| *signer == admin().public());
    assert_eq!(forwards, one);
}

#[test]
fn a_first_charter_is_signed_by_one_of_its_admins() {
    let check = |charter: Charter, signer: &KeyPair| check_charter(&Signed::new(charter, &[signer]));
    assert_eq!(check(samples::charter(), &admin()), Ok(samples::workgroup()));
    assert_eq!(check(samples::charter(), &key(9)), Ok(samples::workgroup()));
    assert_eq!(check(samples::charter(), &key(8)), Err(signature::<Charter>()));
    assert_eq!(check(samples::second_charter(), &key(8)), Ok(samples::workgroup()));
}

#[test]
fn a_charter_that_contradicts_itself_is_refused() {
    let refused = |charter: Charter| check_charter(&Signed::new(charter, &[&admin()])).is_err();
    assert!(refused(Charter { number: 0, ..samples::charter() }));
    assert!(refused(Charter { number: 2, ..samples::charter() }));
    assert!(refused(Charter { workgroup: Some(WorkgroupId([1; 32])), ..samples::charter() }));
    assert!(refused(Charter { previous: None, ..samples::second_charter() }));
    assert!(refused(Charter { name: String::new(), ..samples::charter() }));
    assert!(refused(Charter { name: "n".repeat(101), ..samples::charter() }));
    assert!(refused(Charter { admins: vec![admin().public(); 17], ..samples::charter() }));
}

fn check_membership(certificate: Certificate, signers: &[&KeyPair], expected: Result<(), DecodeError>) {
    let admins = samples::charter().admins;
    let found = check_certificate(&Signed::new(certificate, signers), &samples::workgroup(), &admins);
    assert_eq!(found.err(), expected.err());
}

#[test]
fn an_invitation_makes_a_member_with_the_node_s_own_consent() {
    let invalid = || Err(DecodeError::Invalid("the certificate's role or site"));
    check_membership(samples::certificate(), &[&invitation_key(), &node_key()], Ok(()));
    check_membership(samples::certificate(), &[&node_key()], Err(signature::<Certificate>()));
    check_membership(samples::certificate(), &[&invitation_key()], Err(signature::<Certificate>()));
    check_membership(samples::certificate(), &[&admin(), &node_key()], Err(signature::<Certificate>()));
    let signers = [&invitation_key(), &node_key()];
    check_membership(Certificate { role: Role::Seed, ..samples::certificate() }, &signers, invalid());
    check_membership(Certificate { site: "Bonn".into(), ..samples::certificate() }, &signers, invalid());
    let elsewhere = Certificate { workgroup: WorkgroupId([1; 32]), ..samples::certificate() };
    check_membership(elsewhere, &signers, Err(DecodeError::Invalid("the certificate's workgroup")));
}

#[test]
fn an_admin_makes_a_member_without_an_invitation() {
    let direct = Certificate { invitation: None, ..samples::certificate() };
    check_membership(direct.clone(), &[&admin(), &node_key()], Ok(()));
    check_membership(direct.clone(), &[&key(8), &node_key()], Err(signature::<Certificate>()));
    check_membership(direct, &[&admin()], Err(signature::<Certificate>()));
}

#[test]
fn an_invitation_counts_by_an_admin_s_signature() {
    let admins = samples::charter().admins;
    let forged = Signed::new(samples::invitation(), &[&key(8)]);
    assert!(check_invitation(&forged, &samples::workgroup(), &admins).is_err());
    let good = Signed::new(samples::invitation(), &[&key(9)]);
    assert_eq!(check_invitation(&good, &samples::workgroup(), &admins), Ok(()));
    assert!(check_invitation(&good, &WorkgroupId([1; 32]), &admins).is_err());
    let inside = Certificate { invitation: Some(forged), ..samples::certificate() };
    check_membership(inside, &[&invitation_key(), &node_key()], Err(DecodeError::Signature("invitation")));
}

#[test]
fn a_writer_is_certified_by_the_vault_s_root_key() {
    let good = samples::signed_writer();
    assert_eq!(check_writer(&good), Ok(&samples::writer_cert()));
    let forged = Signed::new(samples::writer_cert(), &[&writer_key()]);
    assert!(check_writer(&forged).is_err());
    let stripe = Signed::new(samples::stripe(), &[&writer_key()]);
    assert_eq!(check_signed_by_writer(&stripe, &good), Ok(()));
    assert!(check_signed_by_writer(&stripe, &forged).is_err());
    let by_root = Signed::new(samples::stripe(), &[&vault_secret().root()]);
    assert_eq!(check_signed_by_writer(&by_root, &good), Err(signature::<Stripe>()));
}

#[test]
fn a_stripe_s_numbers_belong_together() {
    let check = |stripe: Stripe, good: bool| assert_eq!(stripe.check().is_ok(), good, "{stripe:?}");
    let stripe = samples::stripe;
    check(stripe(), true);
    check(Stripe { k: 0, ..stripe() }, false);
    check(Stripe { founding_n: 2, ..stripe() }, false);
    check(Stripe { founding_n: 7, ..stripe() }, false);
    check(Stripe { shard_bytes: 1, ..stripe() }, false);
    check(Stripe { shard_roots: vec![TreeRoot([1; 32]); 129], ..stripe() }, false);
    check(Stripe { keys: vec![samples::key_slot(1); 17], ..stripe() }, false);
}

#[test]
fn every_shard_has_one_slot_and_every_slot_one_shard() {
    for pack in 0..50 {
        let stripe = Stripe { pack: backmesh_format::PackId([pack; 32]), ..samples::stripe() };
        let mut slots: Vec<usize> = (0..stripe.n()).map(|shard| stripe.slot_of(shard)).collect();
        assert!((0..stripe.n()).all(|shard| stripe.shard_in(stripe.slot_of(shard)) == shard));
        assert_eq!(slots[5], 5, "a shard added later lies in the slot of its own number");
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn a_copyset_names_different_holders_and_never_its_owner() {
    let check = |copyset: Copyset, good: bool| assert_eq!(copyset.check().is_ok(), good, "{copyset:?}");
    let copyset = samples::copyset;
    check(copyset(), true);
    check(Copyset { k: 0, ..copyset() }, false);
    check(Copyset { k: 6, ..copyset() }, false);
    check(Copyset { slots: vec![NodeId([1; 32]); 4], ..copyset() }, false);
    check(Copyset { slots: [copyset().slots, vec![samples::node()]].concat(), ..copyset() }, false);
    check(Copyset { slots: (0..129).map(|number| NodeId([number; 32])).collect(), ..copyset() }, false);
}
