//! A member's side of the mesh as a state machine: greets others, keeps the directory equal with theirs, decides whom to dial.
//!
//! Drive it with [`Peer::handle`], then [`Peer::poll`] until it has nothing more, and wake it at [`Peer::next_deadline`]. It sees
//! no clock and no socket. Everything it keeps for a link, and everything that a link can make it do, is bounded.

mod budget;
mod dial;
mod greet;
mod sync;
#[cfg(test)]
mod tests;

use crate::directory::{Change, Directory, DirectoryEvent, DirectoryRecord, Effects, ItemId};
use crate::message::{Message, RefusedReason, Standing};
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{MemberState, Seed};
use backmesh_format::{DecodeError, NodeId, Signed, UnixMillis};
use budget::{Budget, Dice};
use dial::Dialer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A moment by two clocks: timers run by one that never steps, judgements look at the one that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Milliseconds since any fixed moment; never goes back.
    pub monotonic_ms: u64,
    /// This machine's clock. It may be wrong and may step.
    pub unix_ms: UnixMillis,
}

/// A mesh stream. The driver numbers them; a number is not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Whom a dial is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialTarget {
    /// A member, at the addresses that it announced.
    Member(NodeId),
    /// Whoever answers at an address that an invitation, a person or the memory of former peers gave.
    Seed(String),
}

/// How a peer behaves.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The program and its version, for people.
    pub program: String,
    /// To how many members links are kept open. 64 by default: everyone in a small workgroup, and in a large one enough that a
    /// record reaches everybody in a few steps. Each costs some 100 KiB and a digest of 32 bytes every few minutes.
    pub links_wanted: usize,
    /// How many links are accepted in all, whoever opened them. 512 by default; further ones are told [`RefusedReason::Busy`].
    pub links_max: usize,
    /// How many links of nodes without a certificate are accepted. 32 by default.
    pub guests_max: usize,
    /// How long a link may take until both sides have greeted, in milliseconds. 20,000 by default.
    pub greeting_ms: u64,
    /// The shortest and the longest pause between two comparisons with one peer while nothing changes, in milliseconds. 15,000 and
    /// 600,000 by default; the pause doubles from one to the other.
    pub quiet_ms: (u64, u64),
    /// The shortest and the longest pause between two dials of one target, in milliseconds. 2,000 and 600,000 by default; the pause
    /// doubles with each failure, and each is spread over half to one and a half times its length.
    pub redial_ms: (u64, u64),
    /// How often a member is dialed beyond `links_wanted`, in milliseconds, so that two halves of a group that were parted meet again
    /// even if each has links enough. 300,000 by default.
    pub explore_ms: u64,
    /// Dials under way at once. 8 by default.
    pub dials_max: usize,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            program: format!("backmesh {}", env!("CARGO_PKG_VERSION")),
            links_wanted: 64,
            links_max: 512,
            guests_max: 32,
            greeting_ms: 20_000,
            quiet_ms: (15_000, 600_000),
            redial_ms: (2_000, 600_000),
            explore_ms: 300_000,
            dials_max: 8,
        }
    }
}

/// What this node says of itself; signing, numbering and spreading it is the peer's part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcement {
    /// Where it can be reached, at most [`backmesh_format::limits::ADDRESSES_MAX`]; further ones are left out.
    pub addresses: Vec<String>,
    /// How much disk space it offers to others, in bytes.
    pub offered_bytes: u64,
    /// How much of that is free, in bytes; announced rounded down to 64 MiB.
    pub free_bytes: u64,
    /// In how many of the last 1,000 hours it ran.
    pub uptime_permille: u16,
}

/// What happens to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A mesh stream is open. The side that dialed opens it.
    Connected {
        /// Its number.
        link: LinkId,
        /// The other side, as the encrypted connection proved.
        node: NodeId,
        /// Where the other side is seen; empty where the driver does not know.
        address: String,
        /// Whether this side dialed.
        outbound: bool,
    },
    /// A message came.
    Message {
        /// On which stream.
        link: LinkId,
        /// The message.
        message: Message,
    },
    /// A frame came that is no message, or is too long.
    Malformed {
        /// On which stream.
        link: LinkId,
        /// What was wrong.
        error: DecodeError,
    },
    /// A stream is gone.
    Disconnected {
        /// Which.
        link: LinkId,
    },
    /// A dial led nowhere.
    DialFailed {
        /// The target that [`Output::Dial`] named.
        target: DialTarget,
    },
    /// What this node says of itself from now on. Unchanged facts are said again only after six hours.
    Announce(Announcement),
    /// A record that was made here: a vault's pointer, or what an admin signed.
    Learn(Box<DirectoryRecord>),
    /// Further addresses to try while nobody is connected.
    Seeds(Vec<Seed>),
    /// A node is said to be on the local network, at these addresses. Anyone can have said so: it is a hint whom to dial, kept within
    /// bounds, and nothing follows from it but a dial.
    Nearby {
        /// Who, by its own word.
        node: NodeId,
        /// Where; the first four count.
        addresses: Vec<String>,
    },
    /// The person at this node says that a node is a member, as an invitation says it of the nodes that it names.
    Vouch(NodeId),
    /// [`Peer::next_deadline`] has come.
    Wake,
}

/// What is to be done for a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send {
        /// On which stream.
        link: LinkId,
        /// The message.
        message: Message,
    },
    /// Close a stream, once what was sent before is out. No `Disconnected` is needed for it.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Write changes to disk, in order. They are hints about others: losing the last ones does no harm.
    Store(Vec<Change>),
    /// Another node is connected and both sides have greeted.
    Up {
        /// The node.
        node: NodeId,
        /// What this node thinks of it: accepted, spent or guest.
        standing: Standing,
        /// What it thinks of this one.
        thinks: Standing,
    },
    /// The last link to a node is gone.
    Down {
        /// The node.
        node: NodeId,
    },
    /// Connect to a target: try all addresses, and expect the node where it is known.
    Dial {
        /// Named by [`Input::DialFailed`].
        target: DialTarget,
        /// Who must answer.
        node: Option<NodeId>,
        /// Where.
        addresses: Vec<String>,
    },
    /// Something that people should know.
    Report(PeerEvent),
}

/// What people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// The directory learned something.
    Directory(DirectoryEvent),
    /// A member countersigned this node's certificate: it has joined.
    Admitted,
    /// Another node does not take this one, although members did: it has not heard of that, or has just joined itself.
    DoubtedBy {
        /// Who.
        node: NodeId,
        /// Why.
        reason: RefusedReason,
    },
    /// Another node does not take this one. [`RefusedReason::advice`] says what to do.
    RefusedBy {
        /// Who.
        node: NodeId,
        /// Why.
        reason: RefusedReason,
        /// In its own words.
        text: String,
    },
    /// Another node was not taken.
    Refused {
        /// Who.
        node: NodeId,
        /// Why.
        reason: RefusedReason,
    },
    /// A member sent records that are forged or make no sense, and was cut off.
    Misbehaved {
        /// Who.
        node: NodeId,
    },
    /// Someone uses this node's key at the same time: the state folder was copied to another machine, or came to life twice. One of
    /// the two must join anew.
    CopiedIdentity {
        /// Whether it is this one that has to stop; the other one comes to another answer.
        yields: bool,
    },
    /// Another node sees this one at this address.
    Observed {
        /// The address.
        address: String,
    },
}

/// Who a link is with, and how far it has come.
#[derive(Debug)]
struct Link {
    node: NodeId,
    /// What was dialed to get it.
    targets: Vec<DialTarget>,
    outbound: bool,
    opened_at: u64,
    phase: Phase,
    /// What the other side thinks of this one, once it has said so.
    thinks: Option<Standing>,
    next_sync_at: u64,
    quiet_ms: u64,
    progress: bool,
    /// The bucket at which the next comparison goes on.
    cursor: usize,
    /// Ids that were asked for in this comparison.
    asked: BTreeSet<ItemId>,
    /// Records to be pushed at the end of this step.
    outbox: Vec<ItemId>,
    offences: u32,
    messages: Budget,
    verifications: Budget,
    bytes_out: Budget,
    relays: Budget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The other side's hello has not come.
    Greeting,
    /// A member.
    Member,
    /// A node without certificate.
    Guest,
}

/// A member's side of the mesh.
#[derive(Debug)]
pub struct Peer {
    key: KeyPair,
    me: NodeId,
    config: PeerConfig,
    directory: Directory,
    links: BTreeMap<LinkId, Link>,
    up: BTreeMap<NodeId, LinkId>,
    dialer: Dialer,
    dice: Dice,
    outputs: VecDeque<Output>,
    announced: Option<(Announcement, u64)>,
    announcement: Option<Announcement>,
    /// How often someone else who has this node's key contradicted it.
    overtaken: u32,
    /// How many of these contradictions it has answered.
    answered: u32,
    /// After how many contradictions it stops.
    yields_after: u32,
    /// When the last one came.
    contradicted_at: u64,
    /// When it met the first member.
    linked_at: Option<u64>,
    reannounce_at: Option<u64>,
    orphans_at: u64,
    admitted: bool,
}

/// How often certificates that wait for someone's word are looked at, in milliseconds.
const ORPHANS_MS: u64 = 30_000;
/// How long unchanged facts about oneself stay announced, in milliseconds.
const ANNOUNCE_MS: u64 = 6 * 3_600_000;
/// Free space is told in steps of so many bytes.
const FREE_STEP_BYTES: u64 = 64 << 20;
/// And told anew once it has changed by more than this part: a disk in use never rests, and every member writes down what all others say.
const FREE_PART: u64 = 8;
/// How long a node waits before it says again what someone else with its key contradicted, in milliseconds: the first time, the second
/// time, and from then on.
const REANNOUNCE_MS: [u64; 3] = [0, 2_000, 60_000];
/// By how much a node that was contradicted raises its number: further than it ever came by itself, so that what contradicts it once
/// more was said in answer to this, and is no older word of its own that comes late.
const CONTRADICTED_STEP: u64 = 1 << 20;
/// After how many contradictions a node stops, by how long it had been among the members when the first came, in milliseconds: whoever
/// came second hears the other's answer at once. Each contradicts the other in turn, and whoever begins is one behind.
const YIELDS_AFTER: [(u64, u32); 3] = [(30_000, 2), (600_000, 3), (u64::MAX, 4)];
/// After how long without a contradiction the earlier ones mean nothing any more, in milliseconds: two processes that run at the same
/// time answer each other within a minute, and between two that do not run at the same time nothing has to be decided.
const CONTRADICTED_KEPT_MS: u64 = 3_600_000;
/// To how many others a record that came unasked is passed on; a group of up to two more is told completely.
const RELAYS: usize = 6;

impl Peer {
    /// A peer for the node whose key is `key`, with the directory it has. The invitation's seeds are tried at once; `seed` spreads
    /// its pauses and choices.
    pub fn new(key: KeyPair, directory: Directory, config: PeerConfig, seed: u64, now: Moment) -> Self {
        let me = NodeId(key.public().0);
        let invitation = directory.own_certificate().and_then(|own| own.invitation.as_ref());
        let seeds = invitation.map(|invitation| invitation.seeds.clone()).unwrap_or_default();
        let admitted = directory.is_admitted();
        let mut dice = Dice::new(seed);
        let orphans_at = now.monotonic_ms + dice.below(ORPHANS_MS);
        let dialer = Dialer::new(seeds, now.monotonic_ms);
        Self {
            key,
            me,
            config,
            directory,
            links: BTreeMap::new(),
            up: BTreeMap::new(),
            dialer,
            dice,
            outputs: VecDeque::new(),
            announced: None,
            announcement: None,
            overtaken: 0,
            answered: 0,
            yields_after: 0,
            contradicted_at: 0,
            linked_at: None,
            reannounce_at: None,
            orphans_at,
            admitted,
        }
    }

    /// What this node knows of the workgroup.
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// One hash over everything that is exchanged; equal for peers that know the same.
    pub fn digest_root(&mut self) -> [u8; 32] {
        self.directory.digest_root()
    }

    /// The nodes that are connected and greeted, guests included.
    pub fn connected(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.up.keys().copied()
    }

    /// Takes in what happened. Call [`Peer::poll`] until it has nothing more afterwards.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Connected { link, node, address, outbound } => self.connected_to(now, link, node, address, outbound),
            Input::Message { link, message } => self.message(now, link, message),
            Input::Malformed { link, error } => self.malformed(now, link, &error),
            Input::Disconnected { link } => self.drop_link(now, link),
            Input::DialFailed { target } => self.dialer.failed(&target, now.monotonic_ms, &self.config, &mut self.dice),
            Input::Announce(announcement) => self.announce(now, announcement),
            Input::Learn(record) => {
                self.directory.insert(*record, now.unix_ms);
            }
            Input::Seeds(seeds) => self.dialer.add_seeds(seeds),
            Input::Nearby { node, addresses } => self.hear_of(now.monotonic_ms, node, addresses),
            Input::Vouch(node) => self.directory.vouch(node, now.unix_ms),
            Input::Wake => {}
        }
        self.drain_directory(now, None);
        self.timers(now);
        self.drain_directory(now, None);
        self.flush(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to wake the peer, by [`Moment::monotonic_ms`], if nothing happens before.
    pub fn next_deadline(&self) -> u64 {
        let links = self.links.values().map(|link| match link.phase {
            Phase::Greeting => link.opened_at + self.config.greeting_ms,
            Phase::Member => link.next_sync_at,
            Phase::Guest => u64::MAX,
        });
        let others = [self.orphans_at, self.dialer.next_at(), self.reannounce_at.unwrap_or(u64::MAX)];
        links.chain(others).min().unwrap_or(u64::MAX)
    }

    fn timers(&mut self, now: Moment) {
        let at = now.monotonic_ms;
        let late =
            self.links.iter().filter(|(_, link)| link.phase == Phase::Greeting && link.opened_at + self.config.greeting_ms <= at);
        for link in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.refuse(now, link, RefusedReason::Protocol, "the greeting took too long");
        }
        let due = self.links.iter().filter(|(_, link)| link.phase == Phase::Member && link.next_sync_at <= at);
        for link in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.compare(at, link);
        }
        if self.orphans_at <= at {
            self.orphans_at = at + ORPHANS_MS / 2 + self.dice.below(ORPHANS_MS);
            self.directory.judge_lingering(now.unix_ms, 2 * ORPHANS_MS);
            self.directory.countersign_orphans(&self.key, now.unix_ms);
        }
        if self.reannounce_at.is_some_and(|due| due <= at) {
            self.reannounce_at = None;
            self.say(now);
        }
        self.dial(at);
    }

    fn announce(&mut self, now: Moment, mut announcement: Announcement) {
        announcement.addresses.truncate(backmesh_format::limits::ADDRESSES_MAX);
        announcement.free_bytes -= announcement.free_bytes % FREE_STEP_BYTES;
        let unchanged = self.announced.as_ref().is_some_and(|(said, at)| {
            let is_near = said.free_bytes.abs_diff(announcement.free_bytes) <= said.free_bytes / FREE_PART;
            let others = Announcement { free_bytes: announcement.free_bytes, ..said.clone() };
            is_near && others == announcement && now.monotonic_ms.saturating_sub(*at) < ANNOUNCE_MS
        });
        self.announcement = Some(announcement);
        if !unchanged && !self.yields() {
            self.say(now);
        }
    }

    /// Signs what this node says of itself, under a higher number than any that is known.
    fn say(&mut self, now: Moment) {
        let Some(announcement) = self.announcement.clone() else { return };
        let step = if std::mem::replace(&mut self.answered, self.overtaken) < self.overtaken { CONTRADICTED_STEP } else { 1 };
        let state = MemberState {
            workgroup: self.directory.workgroup(),
            node: self.me,
            sequence: self.directory.state(&self.me).map_or(0, |state| state.sequence).saturating_add(step),
            addresses: announcement.addresses.clone(),
            offered_bytes: announcement.offered_bytes,
            free_bytes: announcement.free_bytes,
            uptime_permille: announcement.uptime_permille,
            program: self.config.program.clone(),
            written_at: now.unix_ms,
        };
        self.drain_directory(now, None);
        self.announced = Some((announcement, now.monotonic_ms));
        let record = DirectoryRecord::State(Box::new(Signed::new(state, &[&self.key])));
        self.directory.insert(record, now.unix_ms);
        let mut effects = self.directory.take_effects();
        effects.events.retain(|event| !matches!(event, DirectoryEvent::OwnStateElsewhere { .. }));
        self.spread(now, effects, None);
    }

    fn drain_directory(&mut self, now: Moment, origin: Option<LinkId>) {
        let effects = self.directory.take_effects();
        self.spread(now, effects, origin);
    }

    /// Writes, passes on and tells what the directory learned. What was asked for in a comparison is not pushed further: the others
    /// are compared with soon instead.
    fn spread(&mut self, now: Moment, effects: Effects, origin: Option<LinkId>) {
        if !effects.changes.is_empty() {
            self.outputs.push_back(Output::Store(effects.changes));
        }
        if !effects.fresh.is_empty() {
            self.dialer.look_again();
            self.push(now.monotonic_ms, &effects.fresh, origin);
        }
        let standings_changed = effects
            .events
            .iter()
            .any(|event| matches!(event, DirectoryEvent::Revoked { .. } | DirectoryEvent::CharterChanged { .. }));
        for event in effects.events {
            if matches!(event, DirectoryEvent::OwnStateElsewhere { .. }) {
                self.contradicted(now);
            }
            self.outputs.push_back(Output::Report(PeerEvent::Directory(event)));
        }
        if standings_changed {
            self.review_links(now);
        }
        if !self.admitted && self.directory.is_admitted() {
            self.admitted = true;
            self.outputs.push_back(Output::Report(PeerEvent::Admitted));
        }
    }

    /// Someone else's announcement under this node's key. Once is a folder that came back from an old copy; what contradicts the answer
    /// too is another process with the same key, at this moment. Each contradicts the other in turn, so that exactly one comes to its
    /// limit first: whoever has just started, where the other has been there for long.
    fn contradicted(&mut self, now: Moment) {
        if self.yields() {
            return;
        }
        if now.monotonic_ms.saturating_sub(self.contradicted_at) > CONTRADICTED_KEPT_MS {
            (self.overtaken, self.answered) = (0, 0);
        }
        self.contradicted_at = now.monotonic_ms;
        self.overtaken += 1;
        if self.overtaken == 1 {
            let age = now.monotonic_ms.saturating_sub(self.linked_at.unwrap_or(now.monotonic_ms));
            let limit = YIELDS_AFTER.iter().find(|(below, _)| age < *below);
            self.yields_after = limit.map_or(YIELDS_AFTER.len() as u32 + 1, |(_, count)| *count);
        }
        let yields = self.yields();
        if self.overtaken == 2 || yields {
            self.outputs.push_back(Output::Report(PeerEvent::CopiedIdentity { yields }));
        }
        if !yields {
            let pause = REANNOUNCE_MS[(self.overtaken as usize - 1).min(REANNOUNCE_MS.len() - 1)];
            self.reannounce_at.get_or_insert(now.monotonic_ms.saturating_add(pause));
        }
    }

    /// Whether this process leaves the node's name to the other one that has its key, and says no more.
    fn yields(&self) -> bool {
        self.overtaken > 0 && self.overtaken >= self.yields_after
    }

    /// Ends links to those who are no longer members.
    fn review_links(&mut self, now: Moment) {
        let members = self.links.iter().filter(|(_, link)| link.phase == Phase::Member);
        let gone = members.filter_map(|(id, link)| match self.directory.standing(&link.node) {
            Standing::Accepted | Standing::Spent => None,
            Standing::Revoked => Some((*id, RefusedReason::Revoked)),
            _ => Some((*id, RefusedReason::UnknownAdmin)),
        });
        for (link, reason) in gone.collect::<Vec<_>>() {
            self.refuse(now, link, reason, reason.advice());
        }
    }
}
