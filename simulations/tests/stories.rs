//! Every story, with a few seeds each. A failure names its seed: `cargo run -p backmesh-simulations -- --seed N --story NAME`.

use backmesh_simulations::scenario::{self, Failure, Verdict};

fn check(seeds: std::ops::Range<u64>, story: impl Fn(u64) -> Result<Verdict, Failure>) -> Result<(), Failure> {
    for seed in seeds {
        let verdict = story(seed).map_err(|failure| format!("seed {seed}: {failure}"))?;
        println!("seed {seed}: {verdict}");
    }
    Ok(())
}

#[test]
fn fifty_members_join_through_one_seed() -> Result<(), Failure> {
    check(1..2, |seed| scenario::join_through_one_seed(seed, 50))
}

#[test]
fn small_groups_join() -> Result<(), Failure> {
    for members in 1..=4 {
        check(1..4, |seed| scenario::join_through_one_seed(seed, members))?;
    }
    Ok(())
}

#[test]
fn a_partition_heals() -> Result<(), Failure> {
    check(1..4, |seed| scenario::partition_heals(seed, 12))
}

#[test]
fn concurrent_charters_settle_the_same_way_everywhere() -> Result<(), Failure> {
    check(1..4, |seed| scenario::charters_settle(seed, 8))
}

#[test]
fn a_one_use_invitation_taken_twice_is_refused_by_those_who_saw_it_last() -> Result<(), Failure> {
    check(1..4, |seed| scenario::one_use_taken_twice(seed, 8))
}

#[test]
fn old_and_forged_records_change_nothing() -> Result<(), Failure> {
    check(1..4, |seed| scenario::old_records_change_nothing(seed, 8))
}

#[test]
fn who_is_refused_learns_why() -> Result<(), Failure> {
    check(1..4, scenario::refusals_are_told)
}

#[test]
fn the_group_outlives_its_founder() -> Result<(), Failure> {
    check(1..2, scenario::group_outlives_its_founder)
}

#[test]
fn a_removed_admin_has_no_power() -> Result<(), Failure> {
    check(1..4, scenario::removed_admin_has_no_power)
}

#[test]
fn a_copied_machine_is_noticed() -> Result<(), Failure> {
    check(1..4, scenario::copied_machine_is_noticed)
}

#[test]
fn anything_may_happen() -> Result<(), Failure> {
    check(1..5, |seed| scenario::anything_may_happen(seed, 16))
}

#[test]
fn a_newcomer_learns_a_large_group() -> Result<(), Failure> {
    check(1..2, |seed| scenario::newcomer_learns_a_large_group(seed, 300))
}
