//! Stories about workgroups, each with what must be true at its end. An error names what was not.

use crate::dice::Dice;
use crate::group::Group;
use crate::stage::{Stage, disagreement, ensure};
use crate::world::World;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Admission, MemberState, Seed};
use backmesh_format::{NodeId, Signed};
use backmesh_mesh::directory::{DirectoryEvent, DirectoryRecord, Kind};
use backmesh_mesh::message::{Message, RefusedReason, Standing};
use backmesh_mesh::peer::PeerEvent;
use std::fmt;

/// A day, in milliseconds.
pub const DAY_MS: u64 = 86_400_000;
/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// How a story went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Until everyone knew the same, in milliseconds.
    pub settled_ms: u64,
    /// Frames received by all nodes until then.
    pub frames: u64,
    /// Frames received by all nodes in the quiet hour after that.
    pub quiet_frames: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settled_ms, frames, quiet_frames } = self;
        write!(
            f,
            "settled after {}.{:03} s with {frames} frames; {quiet_frames} frames in a quiet hour",
            settled_ms / 1000,
            settled_ms % 1000
        )
    }
}

/// What was not as it must be.
pub type Failure = String;

/// Members join through one seed, know the same soon after, and are quiet then.
///
/// # Errors
/// What went wrong.
pub fn join_through_one_seed(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(members)?;
    let settled_ms = stage.settle(5 * MINUTE_MS)?;
    let frames = stage.frames();
    for number in 0..members {
        stage.everyone_thinks(number, Standing::Accepted)?;
        let known = stage
            .world
            .directory(number)
            .map_or(0, |directory| directory.members().filter(|member| member.state.is_some()).count());
        ensure(known == members, || format!("node {number} knows where {known} of {members} members are"))?;
        let admitted = members == 1 || stage.world.directory(number).is_some_and(|directory| directory.is_admitted());
        ensure(admitted, || format!("nobody countersigned node {number}"))?;
    }
    let quiet_frames = stage.quiet_hour();
    let pairs = (members * members.min(64)) as u64;
    ensure(quiet_frames <= 20 * pairs, || format!("{quiet_frames} frames in an hour in which nothing happened"))?;
    Ok(Verdict { settled_ms, frames, quiet_frames })
}

/// The network parts in the middle, both sides go on, people join on both, and after healing all know the same.
///
/// # Errors
/// What went wrong.
pub fn partition_heals(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(members)?;
    stage.settle(5 * MINUTE_MS)?;
    let invited = stage.invite(2, 0, &[0, 1]);
    let (left, right) = (stage.add(&invited), stage.add(&invited));
    stage.world.part(|number| u8::from(number % 2 == 1));
    debug_assert_eq!((left % 2, right % 2), (members % 2, (members + 1) % 2));
    stage.start(left)?;
    stage.start(right)?;
    stage.world.run(40 * MINUTE_MS);
    ensure(disagreement(&mut stage.world).is_some(), || "the partition parted nothing".to_owned())?;
    let before = stage.frames();
    stage.world.part(|_| 0);
    let settled_ms = stage.settle(30 * MINUTE_MS)?;
    for number in 0..members + 2 {
        stage.everyone_thinks(number, Standing::Accepted)?;
    }
    let frames = stage.frames() - before;
    Ok(Verdict { settled_ms, frames, quiet_frames: stage.quiet_hour() })
}

/// Two versions of the charter are written at once, on two sides; all settle on the same, which is the one with more signatures.
///
/// # Errors
/// What went wrong.
pub fn charters_settle(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 3);
    stage.populate(members)?;
    stage.settle(5 * MINUTE_MS)?;
    stage.world.part(|number| u8::from(number % 2 == 1));
    let first = stage.group.charter.clone();
    let two_signed = stage.group.next(&first, &[1, 2], |charter| charter.quota_bytes = 1);
    let one_signed = stage.group.next(&first, &[0], |charter| charter.quota_bytes = 2);
    let longer = stage.group.next(&one_signed, &[0], |charter| charter.quota_bytes = 3);
    stage.world.learn(0, DirectoryRecord::Charter(Box::new(two_signed.clone())));
    stage.world.learn(1, DirectoryRecord::Charter(Box::new(one_signed)));
    stage.world.learn(1, DirectoryRecord::Charter(Box::new(longer)));
    stage.world.run(20 * MINUTE_MS);
    let quota = |stage: &Stage, number| stage.world.directory(number).map(|directory| directory.charter().quota_bytes);
    ensure(quota(&stage, 2) == Some(1) && quota(&stage, 3) == Some(3), || "a side did not follow its own charter".to_owned())?;
    let before = stage.frames();
    stage.world.part(|_| 0);
    let settled_ms = stage.settle(30 * MINUTE_MS)?;
    for number in 0..members {
        let found = stage.world.directory(number).map(|directory| directory.charter().hash());
        ensure(found == Some(two_signed.hash()), || format!("node {number} follows another charter"))?;
        let told = stage.world.nodes[number]
            .events
            .iter()
            .any(|event| matches!(event, PeerEvent::Directory(DirectoryEvent::CharterFork { number: 2, .. })));
        ensure(told, || format!("node {number} did not report the fork"))?;
    }
    let frames = stage.frames() - before;
    Ok(Verdict { settled_ms, frames, quiet_frames: stage.quiet_hour() })
}

/// A one-use invitation is used on both sides of a partition: each side goes on with its own, refuses the other's uploads after
/// healing, and says so; all records are the same everywhere.
///
/// # Errors
/// What went wrong.
pub fn one_use_taken_twice(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(members)?;
    stage.settle(5 * MINUTE_MS)?;
    let once = stage.invite(1, 0, &[0, 1]);
    let (a, b) = (stage.add(&once), stage.add(&once));
    stage.world.part(|number| u8::from(number % 2 == 1));
    stage.start(a)?;
    stage.start(b)?;
    stage.world.run(20 * MINUTE_MS);
    let before = stage.frames();
    stage.world.part(|_| 0);
    let settled_ms = stage.settle(30 * MINUTE_MS)?;
    for observer in 0..members {
        let (mine, other) = if observer % 2 == a % 2 { (a, b) } else { (b, a) };
        let found = (stage.standing(observer, mine), stage.standing(observer, other));
        ensure(found == (Standing::Accepted, Standing::Spent), || {
            format!("node {observer} takes its own side's for {:?} and the other's for {:?}", found.0, found.1)
        })?;
        let other = stage.id(other);
        let told = stage.world.nodes[observer]
            .events
            .iter()
            .any(|event| matches!(event, PeerEvent::Directory(DirectoryEvent::Overused { node, uses: 1, .. }) if *node == other));
        ensure(told, || format!("node {observer} did not report that the invitation was overused"))?;
    }
    let order = |stage: &Stage| (0..members).map(|observer| stage.standing(observer, a)).collect::<Vec<_>>();
    let before_restart = order(&stage);
    for number in 0..members {
        stage.world.stop(number);
        stage.world.run(10);
        stage.start(number)?;
    }
    stage.settle(10 * MINUTE_MS)?;
    ensure(order(&stage) == before_restart, || "who was seen first was forgotten over a restart".to_owned())?;
    let third = stage.add(&once);
    stage.start(third)?;
    stage.world.run(5 * MINUTE_MS);
    ensure(stage.refusals(third).contains(&RefusedReason::Spent), || {
        "a third node was not told that the invitation is spent".to_owned()
    })?;
    stage.everyone_thinks(third, Standing::Guest).or_else(|_| stage.everyone_not_accepting(third))?;
    let frames = stage.frames() - before;
    Ok(Verdict { settled_ms, frames, quiet_frames: 0 })
}

/// A member replays every record that it ever saw, and sends forged ones: nobody's directory changes.
///
/// # Errors
/// What went wrong.
pub fn old_records_change_nothing(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(members)?;
    stage.settle(5 * MINUTE_MS)?;
    let old = all_records(&stage, 0);
    for number in 0..members {
        stage.world.stop(number);
        stage.world.run(20);
        stage.start(number)?;
    }
    let next = stage.group.next(&stage.group.charter.clone(), &[0], |charter| charter.quota_bytes = 9);
    stage.world.learn(0, DirectoryRecord::Charter(Box::new(next)));
    let settled_ms = stage.settle(10 * MINUTE_MS)?;
    stage.world.run(10 * MINUTE_MS);
    let before = snapshot(&mut stage);
    let before_frames = stage.frames();
    let newer = all_records(&stage, 0);
    for victim in 1..members {
        for records in [&old, &newer] {
            let raws = records.iter().map(DirectoryRecord::to_raw).collect();
            stage.world.forge(0, victim, &Message::Records { records: raws });
        }
    }
    stage.world.run(5 * MINUTE_MS);
    ensure(snapshot(&mut stage) == before, || "an old record changed a directory".to_owned())?;
    for victim in 1..members {
        let forged = newer.iter().map(|record| {
            let mut raw = record.to_raw();
            let last = raw.bytes.0.len() - 1;
            raw.bytes.0[last] ^= 1;
            raw
        });
        let records = forged.collect();
        stage.world.forge(0, victim, &Message::Records { records });
    }
    stage.world.run(20 * MINUTE_MS);
    ensure(snapshot(&mut stage) == before, || "a forged record changed a directory".to_owned())?;
    Ok(Verdict { settled_ms, frames: stage.frames() - before_frames, quiet_frames: 0 })
}

fn all_records(stage: &Stage, number: usize) -> Vec<DirectoryRecord> {
    let Some(directory) = stage.world.directory(number) else { return Vec::new() };
    let ids = Kind::ALL.into_iter().flat_map(|kind| (0..64).flat_map(move |bucket| directory.bucket_ids(kind, bucket)));
    ids.filter_map(|id| directory.record(&id)).collect()
}

fn snapshot(stage: &mut Stage) -> Vec<Option<[u8; 32]>> {
    let peers = stage.world.nodes.iter_mut().map(|node| node.peer.as_mut());
    peers.map(|peer| peer.map(|peer| peer.digest_root())).collect()
}

/// Who is refused learns why: expired, spent, revoked, another workgroup's.
///
/// # Errors
/// What went wrong.
pub fn refusals_are_told(seed: u64) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(4)?;
    stage.settle(5 * MINUTE_MS)?;
    let expired = stage.invite(1, stage.world.unix_ms() - 2 * DAY_MS, &[0]);
    let late = stage.add(&expired);
    let mut dice = Dice::new(seed ^ 1);
    let now = stage.world.unix_ms();
    let others = Group::found(1, &mut dice, now);
    let foreign = others.invite(0, 1, 0, vec![stage.seed(0)], &mut dice);
    let key = KeyPair::from_secret(&dice.bytes());
    let certificate = foreign.certificate(&key, "stranger", now);
    let stranger = stage.world.add(key, others.charter.clone(), certificate, 0);
    for number in [late, stranger] {
        stage.start(number)?;
    }
    stage.world.run(5 * MINUTE_MS);
    let expected = [(late, RefusedReason::Expired), (stranger, RefusedReason::OtherWorkgroup)];
    for (number, reason) in expected {
        let told = stage.refusals(number);
        ensure(told.contains(&reason), || format!("node {number} was told {told:?}, not {reason:?}"))?;
    }
    let thief = 3;
    let revocation = stage.group.revoke(0, stage.id(thief));
    stage.world.learn(1, DirectoryRecord::Revocation(Box::new(revocation)));
    stage.world.run(15 * MINUTE_MS);
    for observer in 0..3 {
        ensure(stage.standing(observer, thief) == Standing::Revoked, || {
            format!("node {observer} does not know of the revocation")
        })?;
    }
    let told = stage.refusals(thief).contains(&RefusedReason::Revoked)
        || stage.world.nodes[thief]
            .events
            .iter()
            .any(|event| matches!(event, PeerEvent::Directory(DirectoryEvent::Revoked { .. })));
    ensure(told, || "the revoked node was not told".to_owned())?;
    Ok(Verdict { settled_ms: 0, frames: stage.frames(), quiet_frames: 0 })
}

/// The founder is gone for good and its invitation long expired; who joins a month later through someone else still knows all.
///
/// # Errors
/// What went wrong.
pub fn group_outlives_its_founder(seed: u64) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    let expires_at = stage.world.unix_ms() + DAY_MS;
    let first = stage.invite(1, expires_at, &[]);
    let founder = stage.add(&first);
    stage.start(founder)?;
    let invited = stage.invite(3, expires_at, &[founder]);
    for _ in 0..3 {
        let number = stage.add(&invited);
        stage.start(number)?;
        stage.world.run(MINUTE_MS);
    }
    stage.settle(5 * MINUTE_MS)?;
    stage.world.stop(founder);
    stage.world.run(30 * DAY_MS);
    let unnamed = stage.group.invite(0, 1, 0, vec![Seed { address: World::address(2), node: None }], &mut stage.world.dice);
    let lost = stage.add(&unnamed);
    stage.start(lost)?;
    stage.world.run(5 * MINUTE_MS);
    let told = stage.refusals(lost);
    ensure(told.contains(&RefusedReason::Unvouched), || format!("who cannot tell members from others was told {told:?}"))?;
    stage.world.stop(lost);
    let late = stage.invite(2, 0, &[2]);
    let (a, b) = (stage.add(&late), stage.add(&late));
    stage.start(a)?;
    stage.start(b)?;
    let settled_ms = stage.settle(10 * MINUTE_MS)?;
    for number in [0, 1, 2, 3, a, b] {
        stage.everyone_thinks(number, Standing::Accepted)?;
    }
    stage.start(founder)?;
    stage.settle(30 * MINUTE_MS)?;
    stage.everyone_thinks(founder, Standing::Accepted)?;
    Ok(Verdict { settled_ms, frames: stage.frames(), quiet_frames: 0 })
}

/// A removed admin invites and revokes: nothing comes of it, while those whom it invited before stay.
///
/// # Errors
/// What went wrong.
pub fn removed_admin_has_no_power(seed: u64) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 2);
    stage.populate(4)?;
    stage.settle(5 * MINUTE_MS)?;
    let seeds = vec![stage.seed(0)];
    let before = stage.group.invite(1, 5, 0, seeds.clone(), &mut stage.world.dice);
    let early = stage.add(&before);
    stage.start(early)?;
    stage.settle(5 * MINUTE_MS)?;
    let first = stage.group.charter.clone();
    let kept = stage.group.admins_without(&[1]);
    let second = stage.group.next(&first, &[0], |charter| charter.admins = kept);
    stage.world.learn(2, DirectoryRecord::Charter(Box::new(second.clone())));
    let settled_ms = stage.settle(5 * MINUTE_MS)?;
    let fork = stage.group.next(&first, &[1], |charter| charter.quota_bytes = 666);
    let on_top = stage.group.next(&second, &[1], |charter| charter.quota_bytes = 667);
    let revocation = stage.group.revoke(1, stage.id(1));
    stage.world.learn(3, DirectoryRecord::Charter(Box::new(fork)));
    stage.world.learn(3, DirectoryRecord::Charter(Box::new(on_top)));
    stage.world.learn(3, DirectoryRecord::Revocation(Box::new(revocation)));
    let after = stage.group.invite(1, 5, 0, seeds, &mut stage.world.dice);
    let late = stage.add(&after);
    let later = stage.add(&before);
    stage.start(late)?;
    stage.start(later)?;
    stage.world.run(10 * MINUTE_MS);
    for observer in 0..=early {
        let charter = stage.world.directory(observer).map(|directory| directory.charter().hash());
        ensure(charter == Some(second.hash()), || format!("node {observer} follows a removed admin"))?;
        for member in (0..=early).filter(|member| *member != observer) {
            let found = stage.standing(observer, member);
            ensure(found == Standing::Accepted, || format!("node {observer} takes node {member} for {found:?}"))?;
        }
        for refused in [late, later] {
            let found = stage.standing(observer, refused);
            ensure(found != Standing::Accepted, || format!("node {observer} accepts node {refused} of a removed admin"))?;
        }
    }
    Ok(Verdict { settled_ms, frames: stage.frames(), quiet_frames: 0 })
}

/// A node comes back from an old copy of its disk, then a second machine runs the same copy.
///
/// # Errors
/// What went wrong.
pub fn copied_machine_is_noticed(seed: u64) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(5)?;
    stage.settle(5 * MINUTE_MS)?;
    let old = stage.world.disk(2);
    for _ in 0..3 {
        stage.world.stop(2);
        stage.world.run(1_000);
        stage.start(2)?;
        stage.settle(5 * MINUTE_MS)?;
    }
    stage.world.stop(2);
    stage.world.set_disk(2, old.clone());
    stage.world.run(MINUTE_MS);
    stage.start(2)?;
    let settled_ms = stage.settle(5 * MINUTE_MS)?;
    let copied = |stage: &Stage| {
        let events = stage.world.nodes.iter().flat_map(|node| node.events.iter());
        events.filter(|event| matches!(event, PeerEvent::CopiedIdentity { .. })).count()
    };
    ensure(copied(&stage) == 0, || "a restored folder was taken for a copied machine".to_owned())?;
    let (key, certificate) = (stage.world.nodes[2].key.clone(), stage.world.nodes[2].certificate.clone());
    let twin = stage.world.add(key, stage.group.charter.clone(), certificate, 0);
    stage.world.set_disk(twin, old);
    stage.start(twin)?;
    stage.world.run(30 * MINUTE_MS);
    ensure(copied(&stage) > 0, || "nobody noticed that two machines use one key".to_owned())?;
    Ok(Verdict { settled_ms, frames: stage.frames(), quiet_frames: 0 })
}

/// Of a large group only a founder and one more are switched on; a newcomer learns all of it from them.
///
/// # Errors
/// What went wrong.
pub fn newcomer_learns_a_large_group(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 1);
    stage.populate(2)?;
    stage.settle(5 * MINUTE_MS)?;
    let invited = stage.invite(members as u32, 0, &[0]);
    let workgroup = stage.group.workgroup();
    let admitted_by = stage.id(0);
    for number in 2..members {
        let key = KeyPair::from_secret(&stage.world.dice.bytes());
        let node = NodeId(key.public().0);
        let certificate = invited.certificate(&key, &format!("node {number}"), stage.world.unix_ms());
        let admission = Admission { workgroup, certificate: certificate.hash(), node, admitted_by, admitted_at: 1 };
        let state = MemberState {
            workgroup,
            node,
            sequence: 1,
            addresses: vec![format!("/ip4/10.1.{}.{}/tcp/47770", number / 250, number % 250)],
            offered_bytes: 1 << 40,
            free_bytes: 1 << 40,
            uptime_permille: 500,
            program: "simulated".to_owned(),
            written_at: 1,
        };
        let admission = Signed::new(admission, &[&stage.world.nodes[0].key]);
        stage.world.learn(0, DirectoryRecord::Certificate(Box::new(certificate)));
        stage.world.learn(0, DirectoryRecord::Admission(Box::new(admission)));
        stage.world.learn(0, DirectoryRecord::State(Box::new(Signed::new(state, &[&key]))));
    }
    stage.settle(10 * MINUTE_MS)?;
    let seed_of_second = vec![stage.seed(1)];
    let late = stage.group.invite(0, 1, 0, seed_of_second, &mut stage.world.dice);
    let newcomer = stage.add(&late);
    let before = stage.frames();
    stage.start(newcomer)?;
    let settled_ms = stage.settle(10 * MINUTE_MS)?;
    let known = stage.world.directory(newcomer).map_or(0, |directory| directory.member_count());
    ensure(known == members + 1, || format!("the newcomer knows {known} of {} members", members + 1))?;
    let frames = stage.frames() - before;
    Ok(Verdict { settled_ms, frames, quiet_frames: stage.quiet_hour() })
}

/// Everything at once: first a time in which anything may happen and nothing may become wrong, then a time in which everything works
/// and all must become equal.
///
/// # Errors
/// What went wrong.
pub fn anything_may_happen(seed: u64, members: usize) -> Result<Verdict, Failure> {
    let mut stage = Stage::new(seed, 2);
    stage.populate(3)?;
    stage.world.run(MINUTE_MS);
    stage.world.weather.break_one_in = 200;
    stage.world.weather.delay_ms = (1, 2_000);
    let invited = stage.invite(members as u32, 0, &[0, 1, 2]);
    let mut revoked: Vec<usize> = Vec::new();
    for _ in 0..members * 3 {
        stage.world.run(20_000);
        match stage.world.dice.below(8) {
            0..=2 if stage.world.nodes.len() < members => {
                let number = stage.add(&invited);
                stage.start(number)?;
            }
            3 => {
                let number = stage.world.dice.below(stage.world.nodes.len() as u64) as usize;
                stage.world.stop(number);
            }
            4 | 5 => {
                let off = (0..stage.world.nodes.len()).find(|number| stage.world.nodes[*number].peer.is_none());
                if let Some(number) = off {
                    stage.start(number)?;
                }
            }
            6 => {
                let cut = stage.world.dice.next();
                stage.world.part(|number| (cut >> (number % 64) & 1) as u8);
            }
            7 if revoked.len() < members / 8 => {
                let number = 3 + stage.world.dice.below(stage.world.nodes.len() as u64) as usize;
                if number < stage.world.nodes.len() && !revoked.contains(&number) {
                    let revocation = stage.group.revoke(0, stage.id(number));
                    revoked.push(number);
                    stage.world.learn(0, DirectoryRecord::Revocation(Box::new(revocation)));
                    if stage.world.nodes[0].peer.is_none() {
                        stage.start(0)?;
                        let revocation = stage.group.revoke(0, stage.id(number));
                        stage.world.learn(0, DirectoryRecord::Revocation(Box::new(revocation)));
                    }
                }
            }
            _ => stage.world.part(|_| 0),
        }
        stage.safe(&revoked)?;
    }
    stage.world.weather.break_one_in = 0;
    stage.world.weather.delay_ms = (1, 60);
    stage.world.part(|_| 0);
    for number in 0..stage.world.nodes.len() {
        if revoked.contains(&number) {
            stage.world.stop(number);
        } else if stage.world.nodes[number].peer.is_none() {
            stage.start(number)?;
        }
    }
    let before = stage.frames();
    let settled_ms = stage.settle(60 * MINUTE_MS)?;
    let frames = stage.frames() - before;
    for number in 0..stage.world.nodes.len() {
        let expected = if revoked.contains(&number) { Standing::Revoked } else { Standing::Accepted };
        stage.everyone_thinks(number, expected)?;
    }
    Ok(Verdict { settled_ms, frames, quiet_frames: stage.quiet_hour() })
}
