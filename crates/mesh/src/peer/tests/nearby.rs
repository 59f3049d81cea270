//! Word of who is on the local network: a hint that brings members together, and costs little where it lies.

use super::*;

fn hear(peer: &mut Peer, now: u64, of: NodeId, addresses: &[&str]) {
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    peer.handle(at(now), Input::Nearby { node: of, addresses });
}

/// Runs until `end`; every dial fails after so long. Gives the dials: when, whom and where.
fn run(peer: &mut Peer, from: u64, end: u64, fails_after: u64) -> Vec<(u64, DialTarget, Vec<String>)> {
    let (mut now, mut dials, mut failing) = (from, Vec::new(), VecDeque::new());
    while now < end {
        while failing.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, target)) = failing.pop_front() else { break };
            peer.handle(at(now), Input::DialFailed { target });
        }
        peer.handle(at(now), Input::Wake);
        for output in drain(peer) {
            if let Output::Dial { target, addresses, .. } = output {
                dials.push((now, target.clone(), addresses));
                failing.push_back((now + fails_after, target));
            }
        }
        let next = failing.front().map_or(u64::MAX, |(due, _)| *due);
        now = peer.next_deadline().min(next).max(now + 1);
    }
    dials
}

#[test]
fn a_node_that_knows_nobody_dials_who_is_nearby() {
    let mut two = peer(2);
    assert!(run(&mut two, 0, 60_000, 1).is_empty(), "there is nobody to dial");
    hear(&mut two, 60_000, node(1), &["/near"]);
    let dials = run(&mut two, 60_000, 63_000, 10_000);
    assert_eq!(dials.len(), 1);
    assert_eq!(dials[0].1, DialTarget::Seed("/near".to_owned()));
    // Itself it does not dial.
    hear(&mut two, 63_000, node(2), &["/self"]);
    assert!(run(&mut two, 63_000, 100_000, 10_000).iter().all(|(_, target, _)| *target == dials[0].1));
}

#[test]
fn a_member_whose_addresses_changed_is_dialed_where_it_was_seen_and_at_once() {
    let mut one = linked();
    one.handle(at(3), Input::Learn(Box::new(state_record(2, 1))));
    one.handle(at(4), Input::Disconnected { link: LinkId(1) });
    drain(&mut one);
    let long = 4 * 3_600_000;
    let before = run(&mut one, 5, long, 10);
    assert!(before.len() > 10 && before.iter().all(|(_, target, _)| *target == DialTarget::Member(node(2))));
    let old = before[0].2.clone();
    hear(&mut one, long, node(2), &["/new"]);
    let after = run(&mut one, long, long + 20_000, 10);
    assert!(after[0].0 <= long + 1_000, "{} ms late", after[0].0 - long);
    assert!(after[0].2.contains(&"/new".to_owned()) && old.iter().all(|address| after[0].2.contains(address)));
    // Whoever says it again and again moves nothing.
    for more in 0..100 {
        hear(&mut one, long + 20_000 + more, node(2), &["/new"]);
    }
    let again = run(&mut one, long + 20_100, long + 29_000, 10);
    assert!(again.len() <= 1, "{} dials", again.len());
}

#[test]
fn where_a_linked_member_has_moved_is_known_once_its_link_ends() {
    let mut one = linked();
    one.handle(at(3), Input::Learn(Box::new(state_record(2, 1))));
    drain(&mut one);
    // It speaks from where it is now; the link to where it was is dead, and ends later.
    hear(&mut one, 10_000, node(2), &["/new"]);
    assert!(run(&mut one, 10_000, 13_000, 10).is_empty(), "who is linked is not dialed");
    one.handle(at(13_000), Input::Disconnected { link: LinkId(1) });
    let dials = run(&mut one, 13_000, 20_000, 10);
    assert!(dials[0].0 <= 14_500 && dials[0].2.contains(&"/new".to_owned()), "{dials:?}");
    // A stranger's place is not kept for it.
    let before = one.dialer.kept().0;
    one.handle(at(20_000), Input::Connected { link: LinkId(9), node: node(77), address: String::new(), outbound: false });
    hear(&mut one, 20_000, node(77), &["/elsewhere"]);
    assert_eq!(one.dialer.kept().0, before);
}

#[test]
fn who_has_lost_everybody_goes_on_dialing() {
    let mut one = linked();
    one.handle(at(3), Input::Learn(Box::new(state_record(2, 1))));
    one.handle(at(4), Input::Disconnected { link: LinkId(1) });
    drain(&mut one);
    // The cable is out for an hour, and then in again.
    let dials = run(&mut one, 5, 3_600_000, 3_000);
    let pauses: Vec<u64> = dials.windows(2).map(|two| two[1].0 - two[0].0).collect();
    assert!(pauses.iter().all(|pause| *pause < 50_000), "{pauses:?}");
    assert!(dials.len() < 300, "{} dials in an hour", dials.len());
}

#[test]
fn thousands_of_false_sightings_cost_little() {
    let own = certificate(2, 1, &invitation(1, 0, 5, 0, &[1]));
    let mut two = Peer::new(key(2), directory(2, own, 0), PeerConfig::default(), 2, at(0));
    let mut now = 0;
    let (mut dials, mut of_seed) = (0, 0);
    for round in 0..200_u64 {
        for liar in 0..50_u64 {
            let mut of = [0; 32];
            of[..8].copy_from_slice(&(round * 50 + liar).to_le_bytes());
            let addresses: Vec<String> = (0..8).map(|n| format!("/{round}/{liar}/{n}")).collect();
            two.handle(at(now), Input::Nearby { node: NodeId(of), addresses });
        }
        drain(&mut two);
        // Each dial runs into silence.
        let some = run(&mut two, now, now + 10_000, 10_000);
        of_seed += some.iter().filter(|(_, target, _)| *target == DialTarget::Seed("/1".to_owned())).count();
        dials += some.len();
        let (hints, attempts) = two.dialer.kept();
        assert!(hints <= 256 && attempts <= 256 * 4 + 10, "{hints} hints, {attempts} attempts");
        now += 10_000;
    }
    assert!(dials <= 200 * 8, "{dials} dials in {now} ms");
    assert!((5..60).contains(&of_seed), "the seed is dialed {of_seed} times");
}

#[test]
fn false_sightings_do_not_drive_out_members() {
    let mut one = linked();
    one.handle(at(3), Input::Learn(Box::new(state_record(2, 1))));
    one.handle(at(4), Input::Disconnected { link: LinkId(1) });
    hear(&mut one, 5, node(2), &["/new"]);
    for liar in 0..3_000_u64 {
        let mut of = [0; 32];
        of[..8].copy_from_slice(&liar.to_le_bytes());
        hear(&mut one, 6, NodeId(of), &[&format!("/{liar}")]);
    }
    drain(&mut one);
    let dials = run(&mut one, 60_000, 120_000, 10_000);
    let members = dials
        .iter()
        .filter(|(_, target, addresses)| *target == DialTarget::Member(node(2)) && addresses.contains(&"/new".to_owned()));
    assert!(members.count() > 0);
}
