//! The world: nodes with disks and clocks, streams between them, and time.

use crate::dice::Dice;
use backmesh_format::charter::Charter;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::Certificate;
use backmesh_format::{NodeId, Signed, UnixMillis};
use backmesh_mesh::directory::{Change, Directory, DirectoryError, DirectoryRecord};
use backmesh_mesh::peer::{Announcement, DialTarget, Input, LinkId, Moment, Output, Peer, PeerConfig, PeerEvent};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The virtual year begins here: 2026-01-01 UTC.
pub const EPOCH: UnixMillis = 1_767_225_600_000;

/// How the network behaves.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// The shortest and the longest time that a message is under way, in milliseconds.
    pub delay_ms: (u64, u64),
    /// A stream breaks once in so many messages; 0 for never.
    pub break_one_in: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay_ms: (1, 60), break_one_in: 0 }
    }
}

/// A node: what survives a restart, and what does not.
#[derive(Debug)]
pub struct Node {
    /// Its key.
    pub key: KeyPair,
    /// Its name in the mesh.
    pub id: NodeId,
    /// Its own certificate.
    pub certificate: Signed<Certificate>,
    /// The running peer, while it is switched on.
    pub peer: Option<Peer>,
    /// What it reported, in order.
    pub events: Vec<PeerEvent>,
    /// Frames that it was sent.
    pub frames: u64,
    charter: Signed<Charter>,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    side: u8,
    skew_ms: i64,
    woken_at: u64,
    starts: u64,
}

#[derive(Debug)]
struct End {
    node: usize,
    other: LinkId,
    /// Messages of one direction keep their order.
    last_at: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Frame { link: LinkId, bytes: Vec<u8> },
    Closed { link: LinkId },
    Dialed { node: usize, starts: u64, target: DialTarget, expect: Option<NodeId>, addresses: Vec<String> },
    Wake { node: usize, at: u64 },
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// Chance.
    pub dice: Dice,
    /// The nodes, by number.
    pub nodes: Vec<Node>,
    /// The network.
    pub weather: Weather,
    /// How peers behave.
    pub config: PeerConfig,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    counter: u64,
    ends: BTreeMap<LinkId, End>,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            nodes: Vec::new(),
            weather: Weather::default(),
            config: PeerConfig { program: "simulated".to_owned(), ..PeerConfig::default() },
            now_ms: 1_000,
            events: BinaryHeap::new(),
            counter: 0,
            ends: BTreeMap::new(),
        }
    }

    /// Milliseconds since the world began.
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The true time.
    pub const fn unix_ms(&self) -> UnixMillis {
        EPOCH + self.now_ms
    }

    /// The address at which a node answers.
    pub fn address(node: usize) -> String {
        format!("/sim/{node}/")
    }

    /// Adds a node that is switched off. `skew_ms` is how far its clock is ahead.
    pub fn add(&mut self, key: KeyPair, charter: Signed<Charter>, certificate: Signed<Certificate>, skew_ms: i64) -> usize {
        let id = NodeId(key.public().0);
        let node = Node {
            key,
            id,
            certificate,
            peer: None,
            events: Vec::new(),
            frames: 0,
            charter,
            disk: BTreeMap::new(),
            side: 0,
            skew_ms,
            woken_at: u64::MAX,
            starts: 0,
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Switches a node on: it finds what is on its disk.
    ///
    /// # Errors
    /// Where its directory does not open.
    pub fn start(&mut self, number: usize) -> Result<(), DirectoryError> {
        let moment = self.moment(number);
        let seed = self.dice.next();
        let config = self.config.clone();
        let node = &mut self.nodes[number];
        let entries = node.disk.clone();
        let directory = Directory::load(node.id, node.charter.clone(), node.certificate.clone(), moment.unix_ms, entries)?;
        node.peer = Some(Peer::new(node.key.clone(), directory, config, seed, moment));
        node.starts += 1;
        node.woken_at = u64::MAX;
        let announcement = Announcement {
            addresses: vec![Self::address(number)],
            offered_bytes: 1 << 40,
            free_bytes: 1 << 40,
            uptime_permille: 500,
        };
        self.input(number, Input::Announce(announcement));
        Ok(())
    }

    /// Switches a node off without warning.
    pub fn stop(&mut self, number: usize) {
        let mine: Vec<LinkId> = self.ends.iter().filter(|(_, end)| end.node == number).map(|(link, _)| *link).collect();
        for link in mine {
            self.close(link);
        }
        self.nodes[number].peer = None;
    }

    /// Takes everything off a node's disk but its key, certificate and charter.
    pub fn wipe(&mut self, number: usize) {
        self.nodes[number].disk.clear();
    }

    /// What is on a node's disk.
    pub fn disk(&self, number: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.nodes[number].disk.clone()
    }

    /// Puts an older copy of a disk back.
    pub fn set_disk(&mut self, number: usize, disk: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.nodes[number].disk = disk;
    }

    /// Parts the network: nodes reach only those on the same side. Streams across break.
    pub fn part(&mut self, side_of: impl Fn(usize) -> u8) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.side = side_of(number);
        }
        let across: Vec<LinkId> = self
            .ends
            .iter()
            .filter(|(_, end)| self.ends.get(&end.other).is_some_and(|other| !self.reach(end.node, other.node)))
            .map(|(link, _)| *link)
            .collect();
        for link in across {
            self.close(link);
        }
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        self.nodes[a].side == self.nodes[b].side
    }

    /// Tells a node's peer something.
    pub fn input(&mut self, number: usize, input: Input) {
        let moment = self.moment(number);
        let Some(peer) = &mut self.nodes[number].peer else { return };
        peer.handle(moment, input);
        let mut outputs = Vec::new();
        while let Some(output) = peer.poll() {
            outputs.push(output);
        }
        let wake_at = peer.next_deadline().max(self.now_ms + 1);
        for output in outputs {
            self.perform(number, output);
        }
        if wake_at < self.nodes[number].woken_at {
            self.nodes[number].woken_at = wake_at;
            self.push(wake_at, Event::Wake { node: number, at: wake_at });
        }
    }

    /// Gives a node a record that was made there.
    pub fn learn(&mut self, number: usize, record: DirectoryRecord) {
        self.input(number, Input::Learn(Box::new(record)));
    }

    fn perform(&mut self, number: usize, output: Output) {
        match output {
            Output::Send { link, message } => self.send(link, message.encode()),
            Output::Close { link } => self.close_behind(link),
            Output::Store(changes) => {
                let disk = &mut self.nodes[number].disk;
                for change in changes {
                    match change {
                        Change::Put { key, value } => {
                            disk.insert(key, value);
                        }
                        Change::Remove { key } => {
                            disk.remove(&key);
                        }
                    }
                }
            }
            Output::Dial { target, node, addresses } => {
                let at = self.now_ms + self.delay();
                let starts = self.nodes[number].starts;
                self.push(at, Event::Dialed { node: number, starts, target, expect: node, addresses });
            }
            Output::Report(event) => self.nodes[number].events.push(event),
            Output::Up { .. } | Output::Down { .. } => {}
        }
    }

    fn send(&mut self, link: LinkId, bytes: Vec<u8>) {
        if self.weather.break_one_in > 0 && self.dice.one_in(self.weather.break_one_in) {
            let other = self.ends.get(&link).map(|end| end.other);
            self.close(link);
            if let Some(other) = other {
                self.push(self.now_ms, Event::Closed { link: other });
            }
            self.push(self.now_ms, Event::Closed { link });
            return;
        }
        let delay = self.delay();
        let Some(end) = self.ends.get_mut(&link) else { return };
        end.last_at = end.last_at.max(self.now_ms + delay);
        let (at, other) = (end.last_at, end.other);
        self.push(at, Event::Frame { link: other, bytes });
    }

    /// Makes one node send another a message that its peer would not send. Says whether a stream is open between them.
    pub fn forge(&mut self, from: usize, to: usize, message: &backmesh_mesh::message::Message) -> bool {
        let open =
            self.ends.iter().find(|(_, end)| end.node == from && self.ends.get(&end.other).is_some_and(|other| other.node == to));
        let Some(link) = open.map(|(link, _)| *link) else { return false };
        self.send(link, message.encode());
        true
    }

    /// The stream ends for the other side after what was sent before.
    fn close_behind(&mut self, link: LinkId) {
        if let Some(end) = self.ends.remove(&link) {
            self.push(end.last_at.max(self.now_ms), Event::Closed { link: end.other });
        }
    }

    /// The stream breaks for both sides at once.
    fn close(&mut self, link: LinkId) {
        if let Some(end) = self.ends.get(&link) {
            let other = end.other;
            self.push(self.now_ms, Event::Closed { link });
            self.push(self.now_ms, Event::Closed { link: other });
        }
    }

    fn dialed(&mut self, number: usize, target: DialTarget, expect: Option<NodeId>, addresses: &[String]) {
        let found = addresses.iter().filter_map(|address| (0..self.nodes.len()).find(|node| *address == Self::address(*node)));
        let found: Vec<usize> = found.collect();
        let answers = found.into_iter().find(|other| {
            let node = &self.nodes[*other];
            *other != number && node.peer.is_some() && self.reach(number, *other) && expect.is_none_or(|expect| expect == node.id)
        });
        let Some(other) = answers else { return self.input(number, Input::DialFailed { target }) };
        self.counter += 2;
        let (mine, theirs) = (LinkId(self.counter), LinkId(self.counter + 1));
        self.ends.insert(mine, End { node: number, other: theirs, last_at: self.now_ms });
        self.ends.insert(theirs, End { node: other, other: mine, last_at: self.now_ms });
        let (my_id, their_id) = (self.nodes[number].id, self.nodes[other].id);
        let (mine_at, theirs_at) = (Self::address(other), Self::address(number));
        self.input(number, Input::Connected { link: mine, node: their_id, address: mine_at, outbound: true });
        self.input(other, Input::Connected { link: theirs, node: my_id, address: theirs_at, outbound: false });
    }

    fn delay(&mut self) -> u64 {
        let (shortest, longest) = self.weather.delay_ms;
        shortest + self.dice.below(longest.saturating_sub(shortest) + 1)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.counter += 2;
        self.events.push(Reverse((at, self.counter, event)));
    }

    /// Lets so many milliseconds pass.
    pub fn run(&mut self, duration_ms: u64) {
        let end = self.now_ms + duration_ms;
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at <= end
        {
            if let Some(Reverse((at, _, event))) = self.events.pop() {
                self.now_ms = self.now_ms.max(at);
                self.happen(event);
            }
        }
        self.now_ms = end;
    }

    /// Lets time pass until `done`, at most so many milliseconds. Says how long it took.
    pub fn run_until(&mut self, limit_ms: u64, done: impl Fn(&mut Self) -> bool) -> Option<u64> {
        let begun = self.now_ms;
        while self.now_ms - begun < limit_ms {
            self.run(500);
            if done(self) {
                return Some(self.now_ms - begun);
            }
        }
        None
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame { link, bytes } => {
                if let Some(number) = self.ends.get(&link).map(|end| end.node) {
                    self.nodes[number].frames += 1;
                    self.input(number, Input::from_frame(link, &bytes));
                }
            }
            Event::Closed { link } => {
                if let Some(end) = self.ends.remove(&link) {
                    self.input(end.node, Input::Disconnected { link });
                }
            }
            Event::Dialed { node, starts, target, expect, addresses } => {
                if self.nodes[node].peer.is_some() && self.nodes[node].starts == starts {
                    self.dialed(node, target, expect, &addresses);
                }
            }
            Event::Wake { node, at } => {
                if self.nodes[node].woken_at == at {
                    self.nodes[node].woken_at = u64::MAX;
                    self.input(node, Input::Wake);
                }
            }
        }
    }

    fn moment(&self, number: usize) -> Moment {
        Moment { monotonic_ms: self.now_ms, unix_ms: self.unix_ms().saturating_add_signed(self.nodes[number].skew_ms) }
    }

    /// The directory of a node that is on.
    pub fn directory(&self, number: usize) -> Option<&Directory> {
        self.nodes[number].peer.as_ref().map(Peer::directory)
    }
}
