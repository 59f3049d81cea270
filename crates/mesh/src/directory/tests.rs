//! What must be true of a directory, whoever brings what in whatever order.

use super::*;
use crate::fixtures::*;
use backmesh_format::WorkgroupId;
use backmesh_format::charter::Level;
use backmesh_format::membership::{MemberState, Revocation};
use proptest::prelude::*;

/// Everything that is exchanged, and what is thought of nodes 1 to 9.
fn view(directory: &mut Directory) -> ([u8; 32], Vec<Standing>) {
    (directory.digest_root(), (1..10).map(|of| directory.standing(&node(of))).collect())
}

/// Records of a small group: 1 founded it, 2 to 5 were admitted in a chain, 5 is revoked, and there is something from everyone.
fn records() -> Vec<DirectoryRecord> {
    let mut records = vec![certificate_record(&member(1)), admission_record(&member(1), 2)];
    for of in 2..6 {
        records.push(certificate_record(&member(of)));
        records.push(admission_record(&member(of), of - 1));
        records.extend((1..4).map(|sequence| state_record(of, sequence)));
        let cert = writer(of, of, 1, of);
        records.extend((1..3).map(|sequence| DirectoryRecord::Pointer(Box::new(pointer(&cert, of, sequence, &[1, 2])))));
    }
    records.push(revocation_record(5, 0));
    records.push(revocation_record(5, 1));
    let second = next_charter(&first_charter(), &[0, 1], |charter| charter.quota_bytes = 1);
    let rival = next_charter(&first_charter(), &[2], |charter| charter.quota_bytes = 2);
    let third = next_charter(&second, &[2], |charter| charter.quota_bytes = 3);
    records.extend([&second, &rival, &third].map(charter_record));
    records
}

/// The directory of member 9, whom member 1's invitation vouches for.
fn newcomer() -> Directory {
    directory(9, certificate(9, 1, &invitation(1, 0, 10, 0, &[1])), 1)
}

/// Brings records until nothing changes, as comparisons do.
fn bring(directory: &mut Directory, records: &[DirectoryRecord]) {
    loop {
        let before = directory.digest_root();
        for record in records {
            directory.insert(record.clone(), 1);
        }
        if directory.digest_root() == before {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_records_does_not_matter(order in Just(records()).prop_shuffle(), batch in 1_usize..9) {
        let mut expected = newcomer();
        bring(&mut expected, &records());
        prop_assert_eq!(expected.charter().quota_bytes, 3);
        let mut found = newcomer();
        for chunk in order.chunks(batch) {
            found.merge(chunk.to_vec(), 1);
        }
        bring(&mut found, &order);
        prop_assert_eq!(view(&mut found), view(&mut expected));
    }

    #[test]
    fn merging_is_idempotent_and_survives_a_restart(order in Just(records()).prop_shuffle()) {
        let mut first = newcomer();
        bring(&mut first, &order);
        let seen = view(&mut first);
        let mut disk = BTreeMap::new();
        for change in first.take_effects().changes {
            match change {
                Change::Put { key, value } => disk.insert(key, value),
                Change::Remove { key } => disk.remove(&key),
            };
        }
        bring(&mut first, &order);
        prop_assert!(first.take_effects().fresh.is_empty());
        let own = certificate(9, 1, &invitation(1, 0, 10, 0, &[1]));
        let mut again = Directory::load(node(9), first_charter(), own, 9, disk).unwrap();
        prop_assert_eq!(&view(&mut again), &seen);
        bring(&mut again, &order);
        prop_assert_eq!(view(&mut again), seen);
        prop_assert!(again.take_effects().fresh.is_empty());
    }

    #[test]
    fn nothing_that_is_read_panics(kind in 0_u8..9, bytes in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<usize>()) {
        if let Some(kind) = Kind::from_number(kind) {
            let _ = DirectoryRecord::from_bytes(kind, &bytes);
            for record in records().into_iter().filter(|record| record.kind() == kind).take(1) {
                let mut broken = record.to_bytes();
                let at = flip % broken.len();
                broken[at] ^= 1 << (flip % 8);
                if let Ok(changed) = DirectoryRecord::from_bytes(kind, &broken) {
                    prop_assert!(changed == record, "a changed byte was not noticed");
                }
            }
        }
    }
}

#[test]
fn a_founder_judges_who_comes_first() {
    let mut founder = directory(1, member(1), 10);
    let joiner = member(2);
    assert_eq!(founder.insert(certificate_record(&joiner), 10), Outcome::Waiting);
    assert_eq!(founder.standing(&node(2)), Standing::Waiting);
    assert_eq!(founder.judge(&node(2), 10), Ok(Standing::Accepted));
    founder.countersign(&key(1), &node(2), 10);
    assert!(!founder.is_admitted());
    let fresh = founder.take_effects().fresh;
    assert!(fresh.iter().any(|id| founder.record(id).is_some_and(|record| record.kind() == Kind::Admission)));
}

#[test]
fn an_invitation_is_judged_by_the_clock_at_first_sight() {
    let check = |seen_at: UnixMillis, judged_at: UnixMillis, expected: Result<Standing, RefusedReason>| {
        let mut founder = directory(1, member(1), 10);
        let late = certificate(2, 1, &invitation(1, 0, 5, 100, &[]));
        founder.insert(certificate_record(&late), seen_at);
        assert_eq!(founder.judge(&node(2), judged_at), expected);
    };
    check(100, 100, Ok(Standing::Accepted));
    check(100, 500, Ok(Standing::Accepted));
    check(101, 101, Err(RefusedReason::Expired));
    check(101, 50, Err(RefusedReason::Expired));
}

#[test]
fn an_accepted_members_word_outweighs_an_expired_invitation() {
    let mut founder = directory(1, member(1), 10);
    founder.insert(certificate_record(&member(2)), 10);
    founder.judge(&node(2), 10).unwrap();
    let late = certificate(3, 1, &invitation(1, 0, 5, 100, &[]));
    founder.insert(certificate_record(&late), 200);
    assert_eq!(founder.judge(&node(3), 200), Err(RefusedReason::Expired));
    founder.insert(admission_record(&late, 7), 200);
    assert_eq!(founder.standing(&node(3)), Standing::Expired, "a stranger's word counts");
    founder.insert(admission_record(&late, 2), 200);
    assert_eq!(founder.standing(&node(3)), Standing::Accepted);
}

#[test]
fn uses_are_counted_in_the_order_seen() {
    let once = invitation(1, 0, 1, 0, &[]);
    let mut founder = directory(1, member(1), 10);
    for of in [2, 3] {
        founder.insert(certificate_record(&certificate(of, 1, &once)), 10);
    }
    assert_eq!(founder.judge(&node(3), 10), Ok(Standing::Accepted));
    assert_eq!(founder.judge(&node(2), 10), Err(RefusedReason::Spent));
    founder.insert(certificate_record(&member(4)), 10);
    founder.judge(&node(4), 10).unwrap();
    founder.insert(admission_record(&certificate(2, 1, &once), 4), 10);
    assert_eq!(founder.judge(&node(2), 10), Ok(Standing::Spent), "a member, but the last one seen");
    let told = founder.take_effects().events;
    assert!(told.iter().any(|event| matches!(event, DirectoryEvent::Overused { node: of, uses: 1, .. } if *of == node(2))));
}

#[test]
fn a_revoked_use_is_not_free_again() {
    let once = invitation(1, 0, 1, 0, &[]);
    let mut founder = directory(1, member(1), 10);
    founder.insert(certificate_record(&certificate(2, 1, &once)), 10);
    founder.judge(&node(2), 10).unwrap();
    founder.insert(revocation_record(2, 0), 10);
    assert_eq!(founder.judge(&node(2), 10), Err(RefusedReason::Revoked));
    founder.insert(certificate_record(&certificate(3, 1, &once)), 10);
    assert_eq!(founder.judge(&node(3), 10), Err(RefusedReason::Spent));
}

#[test]
fn whom_a_revoked_member_admitted_stays_and_gets_another_word() {
    let mut mine = newcomer();
    bring(&mut mine, &[certificate_record(&member(1)), certificate_record(&member(2)), admission_record(&member(2), 1)]);
    bring(&mut mine, &[certificate_record(&member(3)), admission_record(&member(3), 2)]);
    mine.insert(revocation_record(2, 0), 10);
    assert_eq!((mine.standing(&node(2)), mine.standing(&node(3))), (Standing::Revoked, Standing::Accepted));
    mine.countersign_orphans(&key(9), 10);
    let mut other = newcomer_vouching_for(9);
    bring(&mut other, &everything(&mine));
    assert_eq!(other.standing(&node(3)), Standing::Accepted);
    let late = member(4);
    mine.insert(certificate_record(&late), 10);
    mine.insert(admission_record(&late, 2), 10);
    assert_eq!(mine.standing(&node(4)), Standing::Waiting, "a revoked member's word counts");
}

fn newcomer_vouching_for(of: u64) -> Directory {
    directory(8, certificate(8, 2, &invitation(2, 0, 10, 0, &[of])), 1)
}

fn everything(directory: &Directory) -> Vec<DirectoryRecord> {
    let ids = Kind::ALL.into_iter().flat_map(|kind| (0..64).flat_map(move |bucket| directory.bucket_ids(kind, bucket)));
    ids.filter_map(|id| directory.record(&id)).collect()
}

#[test]
fn old_and_foreign_words_change_nothing() {
    let mut mine = newcomer();
    bring(&mut mine, &[certificate_record(&member(1)), state_record(1, 5)]);
    let before = view(&mut mine);
    assert_eq!(mine.insert(state_record(1, 4), 10), Outcome::Old);
    assert_eq!(mine.insert(state_record(1, 5), 10), Outcome::Known);
    assert_eq!(mine.insert(state_record(2, 9), 10), Outcome::Waiting);
    let forged = sign(MemberState::clone(&state(1, 9)), &[2]);
    assert!(matches!(mine.insert(DirectoryRecord::State(Box::new(forged)), 10), Outcome::Refused(_)));
    let foreign = Revocation { workgroup: WorkgroupId([0; 32]), ..Revocation::clone(&revocation(1, 0)) };
    assert!(matches!(mine.insert(DirectoryRecord::Revocation(Box::new(sign(foreign, &[1_000]))), 10), Outcome::Refused(_)));
    mine.insert(DirectoryRecord::Revocation(Box::new(sign(Revocation::clone(&revocation(1, 0)), &[2]))), 10);
    assert_eq!(view(&mut mine), before);
}

#[test]
fn added_signatures_make_no_other_record() {
    let mut mine = newcomer();
    bring(&mut mine, &records());
    let before = view(&mut mine);
    let adorned = sign(MemberState::clone(&state(2, 3)), &[2, 50, 51]);
    mine.insert(DirectoryRecord::State(Box::new(adorned)), 10);
    let adorned =
        sign(Charter::clone(&next_charter(&first_charter(), &[0, 1], |charter| charter.quota_bytes = 1)), &[50, 1_000, 1_001]);
    mine.insert(charter_record(&adorned), 10);
    assert_eq!(view(&mut mine), before);
}

#[test]
fn one_nodes_records_are_bounded() {
    let mut mine = newcomer();
    bring(&mut mine, &[certificate_record(&member(1))]);
    for vault in 0..50 {
        let cert = writer(vault, 1, 1, 1);
        mine.insert(DirectoryRecord::Pointer(Box::new(pointer(&cert, 1, 1, &[2]))), 10);
    }
    assert_eq!(everything(&mine).iter().filter(|record| record.kind() == Kind::Pointer).count(), says::POINTERS_PER_NODE_MAX);
    for number in 10..40 {
        let another = certificate(1, number, &invitation(number, 0, 5, 0, &[]));
        mine.insert(certificate_record(&another), 10);
        mine.insert(admission_record(&another, 9), 10);
    }
    assert_eq!(mine.members.cards.get(&node(1)).map(BTreeMap::len), Some(members::CERTIFICATES_PER_NODE_MAX));
    for stranger in 100..2_000 {
        mine.insert(DirectoryRecord::Admission(Box::new(admission(&member(1), stranger))), 10);
    }
    assert!(everything(&mine).len() < 50);
    let first = first_charter();
    for number in 0..40 {
        mine.insert(charter_record(&next_charter(&first, &[0], |charter| charter.quota_bytes = number)), 10);
    }
    let charters = everything(&mine).iter().filter(|record| record.kind() == Kind::Charter).count();
    assert_eq!(charters, 1 + charters::CHILDREN_MAX);
}

fn settled(charters: &[&Signed<Charter>]) -> RecordHash {
    let mut mine = newcomer();
    bring(&mut mine, &charters.iter().map(|charter| charter_record(charter)).collect::<Vec<_>>());
    mine.charter().hash()
}

#[test]
fn forks_settle_by_signatures_then_by_the_smaller_hash_never_by_length() {
    let first = first_charter();
    let quota = |bytes: u64| move |charter: &mut Charter| charter.quota_bytes = bytes;
    let (a, b) = (next_charter(&first, &[0], quota(1)), next_charter(&first, &[1], quota(2)));
    let smaller = if a.hash() < b.hash() { &a } else { &b };
    let larger = if a.hash() < b.hash() { &b } else { &a };
    assert_eq!(settled(&[&a, &b]), smaller.hash());
    let longer = next_charter(larger, &[0], quota(3));
    assert_eq!(settled(&[&longer, &a, &b]), smaller.hash());
    let both = next_charter(&first, &[0, 1], quota(4));
    assert_eq!(settled(&[&both, &longer, &a, &b]), both.hash());
    let skipped = next_charter(&both, &[0], |charter| charter.number = 9);
    assert_eq!(settled(&[&both, &skipped]), both.hash());
    let stranger = sign(Charter::clone(&next_charter(&both, &[0], quota(5))), &[77]);
    assert_eq!(settled(&[&both, &stranger]), both.hash());
}

#[test]
fn a_removed_admin_cannot_rewrite_what_was_before() {
    let first = first_charter();
    let mut forks = 0;
    for bytes in 0..20 {
        let kept = admins(&[0, 1]);
        let second = next_charter(&first, &[0], |charter| charter.level = Level::High);
        let removal = next_charter(&second, &[1], |charter| charter.admins = kept);
        let fork = next_charter(&first, &[2], |charter| charter.quota_bytes = bytes);
        forks += u32::from(fork.hash() < second.hash());
        assert_eq!(settled(&[&second, &fork, &removal]), removal.hash());
        let on_top = next_charter(&removal, &[2], |charter| charter.quota_bytes = bytes);
        assert_eq!(settled(&[&on_top, &second, &fork, &removal]), removal.hash());
    }
    assert!(forks > 0, "no fork would have won without the rule");
}

#[test]
fn a_lowered_floor_takes_effect_after_the_old_one() {
    let mut mine = newcomer();
    let lower = next_charter(&first_charter(), &[0], |charter| charter.retention_floor_secs = 10);
    mine.insert(charter_record(&lower), 1_000);
    assert_eq!(mine.charter().retention_floor_secs, 10);
    assert_eq!(mine.retention_floor_secs(1_000), 100);
    assert_eq!(mine.retention_floor_secs(100_999), 100);
    assert_eq!(mine.retention_floor_secs(101_000), 10);
    let higher = next_charter(&lower, &[0], |charter| charter.retention_floor_secs = 500);
    mine.insert(charter_record(&higher), 2_000);
    assert_eq!(mine.retention_floor_secs(2_000), 500);
}

#[test]
fn when_a_charter_was_first_seen_survives_a_restart() {
    let lower = next_charter(&first_charter(), &[0], |charter| charter.retention_floor_secs = 10);
    let start = |now: UnixMillis, disk: BTreeMap<Vec<u8>, Vec<u8>>| {
        let own = certificate(9, 1, &invitation(1, 0, 10, 0, &[1]));
        Directory::load(node(9), lower.clone(), own, now, disk).unwrap()
    };
    let mut mine = start(1_000, BTreeMap::new());
    mine.insert(charter_record(&first_charter()), 2_000);
    let mut disk = BTreeMap::new();
    for change in mine.take_effects().changes {
        match change {
            Change::Put { key, value } => disk.insert(key, value),
            Change::Remove { key } => disk.remove(&key),
        };
    }
    let again = start(90_000, disk);
    assert_eq!((again.retention_floor_secs(100_999), again.retention_floor_secs(101_000)), (100, 10));
}

#[test]
fn a_later_generation_points_to_the_vault() {
    let mut mine = newcomer();
    bring(&mut mine, &[certificate_record(&member(1)), certificate_record(&member(2)), admission_record(&member(2), 1)]);
    let old = pointer(&writer(1, 1, 1, 1), 1, 99, &[1]);
    let new = pointer(&writer(1, 2, 2, 2), 2, 1, &[2]);
    for order in [[&old, &new], [&new, &old]] {
        for pointer in order {
            mine.insert(DirectoryRecord::Pointer(Box::new(pointer.clone())), 10);
        }
        assert_eq!(mine.pointers(&vault_id(1)).map(|pointer| pointer.writer.generation).collect::<Vec<_>>(), [2]);
    }
    mine.insert(state_record(2, 1), 10);
    let (pointers, states) = mine.locate(&vault_id(1));
    assert_eq!((pointers.len(), states.iter().map(|state| state.node).collect::<Vec<_>>()), (1, vec![node(2)]));
    assert_eq!(mine.locate(&vault_id(2)), (Vec::new(), Vec::new()), "who invents a vault learns of nobody");
}

#[test]
fn a_certificate_for_another_node_is_refused() {
    assert!(matches!(Directory::new(node(2), first_charter(), member(1), 0), Err(DirectoryError::Certificate(_))));
    let unsigned = sign(Certificate::clone(&member(1)), &[1]);
    assert!(matches!(Directory::new(node(1), first_charter(), unsigned, 0), Err(DirectoryError::Certificate(_))));
}
