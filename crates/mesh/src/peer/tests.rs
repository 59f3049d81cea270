//! A peer among strangers, garbage and those who ask too much.

mod nearby;

use super::*;
use crate::fixtures::*;
use crate::message::{Hello, IDS_MAX, RECORDS_BYTES_MAX, RawRecord};
use backmesh_format::Bytes;
use backmesh_format::membership::Certificate;

const fn at(ms: u64) -> Moment {
    Moment { monotonic_ms: ms, unix_ms: ms }
}

fn peer(of: u64) -> Peer {
    Peer::new(key(of), directory(of, member(of), 0), PeerConfig::default(), of, at(0))
}

fn drain(peer: &mut Peer) -> Vec<Output> {
    std::iter::from_fn(|| peer.poll()).collect()
}

fn connect(peer: &mut Peer, link: u64, from: u64) {
    peer.handle(at(1), Input::Connected { link: LinkId(link), node: node(from), address: String::new(), outbound: false });
    drain(peer);
}

fn hello(certificate: Option<Signed<Certificate>>) -> Message {
    let (workgroup, program, observed) = (workgroup(), String::new(), String::new());
    Message::Hello(Box::new(Hello { program, workgroup, certificate, admissions: Vec::new(), charter: None, observed }))
}

fn say(peer: &mut Peer, link: u64, message: Message) -> Vec<Output> {
    peer.handle(at(2), Input::Message { link: LinkId(link), message });
    drain(peer)
}

fn refusal(outputs: &[Output]) -> Option<RefusedReason> {
    let closed = outputs.iter().any(|output| matches!(output, Output::Close { .. }));
    let said = outputs.iter().find_map(|output| match output {
        Output::Send { message: Message::Refused { reason, .. }, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(closed, said.is_some(), "a refusal closes, and nothing closes without one");
    said
}

fn sent_bytes(outputs: &[Output]) -> usize {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::Send { message, .. } => Some(message.encode().len()),
        _ => None,
    });
    frames.sum()
}

/// Member 1, and member 2 linked to it as link 1.
fn linked() -> Peer {
    let mut one = peer(1);
    connect(&mut one, 1, 2);
    assert_eq!(refusal(&say(&mut one, 1, hello(Some(member(2))))), None);
    let up = say(&mut one, 1, Message::Welcome { standing: Standing::Accepted });
    assert!(up.iter().any(|output| matches!(output, Output::Up { standing: Standing::Accepted, .. })));
    one
}

#[test]
fn who_is_no_member_is_refused_with_a_reason() {
    let check = |message: Message, expected: Option<RefusedReason>| {
        let mut one = peer(1);
        connect(&mut one, 1, 2);
        assert_eq!(refusal(&say(&mut one, 1, message)), expected);
    };
    check(hello(Some(member(2))), None);
    check(hello(None), None);
    check(hello(Some(member(3))), Some(RefusedReason::Certificate));
    check(hello(Some(certificate(2, 1, &invitation(1, 0, 5, 1, &[])))), Some(RefusedReason::Expired));
    check(hello(Some(certificate(2, 1, &invitation(1, 0, 0, 0, &[])))), Some(RefusedReason::Spent));
    check(hello(Some(certificate(2, 1, &invitation(1, 9, 5, 0, &[])))), Some(RefusedReason::UnknownAdmin));
    check(hello(Some(sign(Certificate::clone(&member(2)), &[2]))), Some(RefusedReason::Certificate));
    check(Message::Welcome { standing: Standing::Accepted }, Some(RefusedReason::Protocol));
    check(Message::Records { records: Vec::new() }, Some(RefusedReason::Protocol));
    let Message::Hello(other) = hello(Some(member(2))) else { unreachable!() };
    let other = Hello { workgroup: backmesh_format::WorkgroupId([0; 32]), ..*other };
    check(Message::Hello(Box::new(other)), Some(RefusedReason::OtherWorkgroup));
}

#[test]
fn a_joiner_brings_the_charter_that_names_its_admin() {
    let second = next_charter(&first_charter(), &[0], |charter| charter.admins = admins(&[0, 9]));
    let mut one = peer(1);
    connect(&mut one, 1, 2);
    let Message::Hello(hello) = hello(Some(certificate(2, 1, &invitation(1, 9, 5, 0, &[])))) else { unreachable!() };
    let hello = Hello { charter: Some(second), ..*hello };
    assert_eq!(refusal(&say(&mut one, 1, Message::Hello(Box::new(hello)))), None);
    assert_eq!(one.directory().charter().number, 2);
}

#[test]
fn a_newcomer_believes_whom_its_invitation_names() {
    let newcomer = |seeds: &[u64]| {
        let second = next_charter(&first_charter(), &[0], |charter| charter.admins = admins(&[2]));
        let own = certificate(9, 1, &invitation(1, 2, 5, 0, seeds));
        let directory = Directory::new(node(9), second, own, 0).unwrap();
        let mut newcomer = Peer::new(key(9), directory, PeerConfig::default(), 9, at(0));
        let (link, node) = (LinkId(1), node(2));
        newcomer.handle(at(1), Input::Connected { link, node, address: String::new(), outbound: true });
        drain(&mut newcomer);
        newcomer
    };
    let expired = || hello(Some(certificate(2, 3, &invitation(3, 2, 5, 1, &[]))));
    let by_removed_admin = || hello(Some(certificate(2, 3, &invitation(3, 0, 5, 0, &[]))));
    for hello in [expired(), by_removed_admin()] {
        assert_eq!(refusal(&say(&mut newcomer(&[]), 1, hello.clone())), Some(RefusedReason::Unvouched));
        assert_eq!(refusal(&say(&mut newcomer(&[2]), 1, hello.clone())), None);
        let mut told = newcomer(&[]);
        told.handle(at(1), Input::Vouch(node(2)));
        assert_eq!(refusal(&say(&mut told, 1, hello)), None);
    }
}

#[test]
fn a_members_person_is_not_alarmed_by_those_who_know_less() {
    let events = |peer: &mut Peer, reason: RefusedReason| {
        let text = String::new();
        let outputs = say(peer, 1, Message::Refused { reason, text: text.clone() });
        let told = |event: PeerEvent| outputs.contains(&Output::Report(event));
        (told(PeerEvent::DoubtedBy { node: node(2), reason }), told(PeerEvent::RefusedBy { node: node(2), reason, text }))
    };
    assert_eq!(events(&mut linked(), RefusedReason::Expired), (false, true));
    let admitted = || {
        let mut one = linked();
        one.handle(at(2), Input::Learn(Box::new(admission_record(&member(1), 2))));
        drain(&mut one);
        one
    };
    assert_eq!(events(&mut admitted(), RefusedReason::Expired), (true, false));
    assert_eq!(events(&mut admitted(), RefusedReason::Revoked), (false, true));
}

#[test]
fn a_guest_gets_a_welcome_and_nothing_else() {
    let mut one = peer(1);
    connect(&mut one, 1, 50);
    let outputs = say(&mut one, 1, hello(None));
    let sent = outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    assert_eq!(sent, 1);
    assert_eq!(refusal(&say(&mut one, 1, Message::Digest { root: [0; 32] })), Some(RefusedReason::Protocol));
}

#[test]
fn a_revoked_member_is_cut_off() {
    let mut one = linked();
    one.handle(at(3), Input::Learn(Box::new(revocation_record(2, 0))));
    assert_eq!(refusal(&drain(&mut one)), Some(RefusedReason::Revoked));
    connect(&mut one, 2, 2);
    assert_eq!(refusal(&say(&mut one, 2, hello(Some(member(2))))), Some(RefusedReason::Revoked));
}

#[test]
fn frames_of_a_later_version_and_garbage_are_told_apart() {
    let check = |error: DecodeError, expected: RefusedReason| {
        let mut one = linked();
        one.handle(at(3), Input::Malformed { link: LinkId(1), error });
        assert_eq!(refusal(&drain(&mut one)), Some(expected));
    };
    check(DecodeError::Version { record: "certificate", version: 2, known: 1 }, RefusedReason::Version);
    check(DecodeError::Truncated, RefusedReason::Protocol);
}

#[test]
fn forged_records_are_left_out_and_then_cost_the_link() {
    let mut one = linked();
    let forged = |number: u64| {
        let mut raw = state_record(2, number).to_raw();
        let last = raw.bytes.0.len() - 1;
        raw.bytes.0[last] ^= 1;
        raw
    };
    let before = one.digest_root();
    assert_eq!(refusal(&say(&mut one, 1, Message::Records { records: (1..15).map(forged).collect() })), None);
    assert_eq!(refusal(&say(&mut one, 1, Message::Records { records: (1..15).map(forged).collect() })), None, "the same again");
    let last = say(&mut one, 1, Message::Records { records: (15..20).map(forged).collect() });
    assert_eq!(refusal(&last), Some(RefusedReason::Protocol));
    assert!(last.contains(&Output::Report(PeerEvent::Misbehaved { node: node(2) })));
    assert_eq!(one.digest_root(), before);
}

#[test]
fn records_of_unknown_kinds_and_versions_are_left_out() {
    let mut one = linked();
    let mut newer = state_record(2, 1).to_raw();
    newer.bytes.0[4] = 2;
    let unknown = RawRecord { kind: 77, bytes: Bytes(vec![1, 2, 3]) };
    let records = vec![unknown, newer, state_record(2, 1).to_raw()];
    assert_eq!(refusal(&say(&mut one, 1, Message::Records { records })), None);
    assert!(one.directory().state(&node(2)).is_some());
}

#[test]
fn who_asks_too_much_gets_only_so_much() {
    let mut one = linked();
    for of in 3..60 {
        one.handle(at(3), Input::Learn(Box::new(certificate_record(&member(of)))));
        one.handle(at(3), Input::Learn(Box::new(admission_record(&member(of), 2))));
    }
    drain(&mut one);
    let mut sent = 0;
    for _ in 0..3_000 {
        for bucket in 0..64 {
            let outputs = say(&mut one, 1, Message::Have { kind: 3, bucket, ids: Vec::new() });
            assert!(outputs.iter().all(|output| match output {
                Output::Send { message, .. } => message.encode().len() <= RECORDS_BYTES_MAX + 64,
                _ => true,
            }));
            sent += sent_bytes(&outputs);
        }
    }
    assert!(sent <= 9 << 20, "{sent} bytes were sent");
}

#[test]
fn no_more_is_asked_for_than_will_be_taken() {
    let mut one = linked();
    let mut wanted = 0;
    for bucket in 0..64_u8 {
        let ids = (0..IDS_MAX).map(|number| {
            let mut id = *blake3::hash(&[&[bucket][..], &(number as u64).to_le_bytes()].concat()).as_bytes();
            id[0] = bucket << 2;
            id
        });
        for output in say(&mut one, 1, Message::Have { kind: 5, bucket, ids: ids.collect() }) {
            if let Output::Send { message: Message::Want { ids }, .. } = output {
                wanted += ids.len();
            }
        }
    }
    assert_eq!(wanted, 4 * IDS_MAX);
}

#[test]
fn a_silent_stranger_does_not_keep_its_link() {
    let mut one = peer(1);
    connect(&mut one, 1, 2);
    assert!(one.next_deadline() <= 1 + PeerConfig::default().greeting_ms);
    one.handle(at(30_000), Input::Wake);
    assert_eq!(refusal(&drain(&mut one)), Some(RefusedReason::Protocol));
}

#[test]
fn links_are_bounded() {
    let mut one = Peer::new(
        key(1),
        directory(1, member(1), 0),
        PeerConfig { links_max: 10, guests_max: 3, ..PeerConfig::default() },
        1,
        at(0),
    );
    let mut busy = 0;
    for link in 0..20 {
        let (link, node) = (LinkId(link), node(100 + link));
        one.handle(at(1), Input::Connected { link, node, address: String::new(), outbound: false });
        busy += usize::from(refusal(&drain(&mut one)) == Some(RefusedReason::Busy));
    }
    assert_eq!(busy, 10);
    let guests = (0..10).filter(|link| refusal(&say(&mut one, *link, hello(None))).is_none()).count();
    assert_eq!(guests, 3);
}

#[test]
fn a_node_that_comes_again_takes_the_place_of_its_oldest_link() {
    // Its address has changed twice, and no packet has said yet that the first two links are dead.
    let mut one = linked();
    for link in 2..8 {
        one.handle(at(1), Input::Connected { link: LinkId(link), node: node(2), address: String::new(), outbound: false });
        let outputs = drain(&mut one);
        let refused = |output: &Output| matches!(output, Output::Send { message: Message::Refused { .. }, .. });
        assert!(!outputs.iter().any(refused), "link {link} is refused: {outputs:?}");
        let closed = outputs.iter().any(|output| *output == Output::Close { link: LinkId(link - 2) });
        assert_eq!(closed, link > 2);
        say(&mut one, link, hello(Some(member(2))));
        say(&mut one, link, Message::Welcome { standing: Standing::Accepted });
        assert_eq!(one.connected().collect::<Vec<_>>(), [node(2)]);
    }
}

#[test]
fn what_is_made_here_goes_to_everyone_at_once() {
    let mut one = linked();
    connect(&mut one, 2, 3);
    say(&mut one, 2, hello(Some(member(3))));
    let announcement = Announcement { addresses: vec!["/here".to_owned()], ..Announcement::default() };
    one.handle(at(5), Input::Announce(announcement.clone()));
    let told: BTreeSet<LinkId> = drain(&mut one)
        .into_iter()
        .filter_map(|output| match output {
            Output::Send { link, message: Message::Records { records } } if records.iter().any(|raw| raw.kind == 5) => Some(link),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 2);
    one.handle(at(6), Input::Announce(announcement));
    assert_eq!(sent_bytes(&drain(&mut one)), 0, "unchanged facts are not said again");
}

#[test]
fn a_disk_in_use_is_no_news() {
    let mut one = linked();
    let mut told = |now, free_bytes| {
        one.handle(at(now), Input::Announce(Announcement { free_bytes, ..Announcement::default() }));
        sent_bytes(&drain(&mut one)) > 0
    };
    let (gib, step) = (1 << 30, 64 << 20);
    assert!(told(5, 80 * gib));
    assert!((1..100_u64).all(|turn| !told(5 + turn, 72 * gib + turn * 2 * step)), "an eighth more or less");
    assert!(told(200, 69 * gib) && !told(201, 72 * gib), "more than that");
    assert!(told(300, step) && told(301, 0) && !told(302, 5) && told(303, step), "a disk that is nearly full");
    assert!(told(303 + ANNOUNCE_MS, 2 * step) && told(304 + ANNOUNCE_MS, 72 * gib));
}

#[test]
fn equal_directories_stay_quiet() {
    let mut one = linked();
    let root = one.digest_root();
    assert_eq!(sent_bytes(&say(&mut one, 1, Message::Digest { root })), 0);
    assert!(sent_bytes(&say(&mut one, 1, Message::Digest { root: [1; 32] })) > 0);
}

#[test]
fn a_lonely_node_dials_its_seeds_with_growing_pauses() {
    let own = certificate(2, 1, &invitation(1, 0, 5, 0, &[1]));
    let mut two = Peer::new(key(2), directory(2, own, 0), PeerConfig::default(), 2, at(0));
    let mut now = 0;
    let mut dials = Vec::new();
    while now < 3_600_000 {
        two.handle(at(now), Input::Wake);
        for output in drain(&mut two) {
            if let Output::Dial { target, node: expect, .. } = output {
                assert_eq!((&target, expect), (&DialTarget::Seed("/1".to_owned()), Some(node(1))));
                dials.push(now);
                two.handle(at(now), Input::DialFailed { target });
            }
        }
        now = two.next_deadline().max(now + 1);
    }
    assert!((10..30).contains(&dials.len()), "{} dials in an hour", dials.len());
    assert!(dials[1] - dials[0] <= 3_000 && dials[dials.len() - 1] - dials[dials.len() - 2] >= 300_000);
}

/// Two processes with the key of node 2, of which the first has been a member for `age` milliseconds when the second starts from a copy
/// of its state, made before or after it spoke last; what each reports in the end. The first may have been put back before that, and
/// heard a word of its own that came late.
fn two_with_one_key(age: u64, fresh: bool, put_back: bool) -> [Vec<PeerEvent>; 2] {
    let twin = || {
        let mut twin = Peer::new(key(2), directory(2, member(2), 0), PeerConfig::default(), 2, at(0));
        twin.handle(at(0), Input::Announce(Announcement::default()));
        drain(&mut twin);
        twin
    };
    let mut twins = [twin(), twin()];
    let mut events = [Vec::new(), Vec::new()];
    twins[0].linked_at = Some(0);
    if put_back {
        twins[0].handle(at(1_000), Input::Learn(Box::new(state_record(2, 900))));
        drain(&mut twins[0]);
    }
    if !fresh {
        let more = Announcement { offered_bytes: 1 << 30, ..Announcement::default() };
        twins[0].handle(at(age), Input::Announce(more));
    }
    twins[1].linked_at = Some(age);
    twins[1].handle(at(age), Input::Announce(Announcement { offered_bytes: 2 << 30, ..Announcement::default() }));
    // Both are linked to others who tell each what the other has said.
    for step in 0..40 {
        let now = at(age + step * 5_000);
        for one in [0, 1] {
            let other = twins[1 - one].directory().state(&node(2)).cloned();
            let record = other.map(|state| DirectoryRecord::State(Box::new(state)));
            record.into_iter().for_each(|record| twins[one].handle(now, Input::Learn(Box::new(record))));
            twins[one].handle(now, Input::Wake);
            let reported = drain(&mut twins[one]).into_iter().filter_map(|output| match output {
                Output::Report(event @ PeerEvent::CopiedIdentity { .. }) => Some(event),
                _ => None,
            });
            events[one].extend(reported);
        }
    }
    events
}

#[test]
fn of_two_with_one_key_the_second_stops() {
    let yields = |events: &[PeerEvent]| events.contains(&PeerEvent::CopiedIdentity { yields: true });
    for age in [0, 40_000, 3_600_000, 40 * 86_400_000] {
        for fresh in [true, false] {
            let [first, second] = two_with_one_key(age, fresh, false);
            assert!(yields(&first) != yields(&second), "exactly one stops: {first:?}, {second:?}");
            assert!(age == 0 || yields(&second), "it is the second, where the first was there for {age} ms");
        }
    }
    for age in [2 * 3_600_000, 40 * 86_400_000] {
        let [first, second] = two_with_one_key(age, true, true);
        assert!(!yields(&first) && yields(&second), "an old contradiction counts after {age} ms: {first:?}, {second:?}");
    }
}

#[test]
fn a_state_that_came_back_from_an_older_copy_goes_on_alone() {
    let mut old = Peer::new(key(2), directory(2, member(2), 0), PeerConfig::default(), 2, at(0));
    // What it said before it was put back comes from several members, late and in any order.
    let mut reported = Vec::new();
    for (step, sequence) in [900, 870, 905, 3].into_iter().enumerate() {
        let now = at(1_000 * step as u64);
        old.handle(now, Input::Learn(Box::new(state_record(2, sequence))));
        old.handle(now, Input::Announce(Announcement { offered_bytes: step as u64, ..Announcement::default() }));
        old.handle(at(now.monotonic_ms + 500), Input::Wake);
        reported.extend(drain(&mut old));
    }
    assert!(!reported.iter().any(|output| matches!(output, Output::Report(PeerEvent::CopiedIdentity { .. }))));
    assert!(old.directory().state(&node(2)).is_some_and(|state| state.sequence > 905));
}

#[test]
fn contradictions_that_are_far_apart_do_not_add_up() {
    let mut server = Peer::new(key(2), directory(2, member(2), 0), PeerConfig::default(), 2, at(0));
    server.linked_at = Some(0);
    let mut reported = Vec::new();
    for year in 1..=6 {
        let now = at(year * 365 * 86_400_000);
        server.handle(now, Input::Announce(Announcement { offered_bytes: year, ..Announcement::default() }));
        // Its own word, from a member that was off since the last time that the server was put back.
        server.handle(now, Input::Learn(Box::new(state_record(2, (year << 24) + 1))));
        server.handle(at(now.monotonic_ms + 500), Input::Wake);
        assert!(server.directory().state(&node(2)).is_some_and(|state| state.sequence > (year << 24) + 1), "it is answered");
        reported.extend(drain(&mut server));
    }
    assert!(!reported.iter().any(|output| matches!(output, Output::Report(PeerEvent::CopiedIdentity { .. }))), "{reported:?}");
}
