//! What every story begins with: a group, its members, and questions about them.

use crate::group::{Group, Invited};
use crate::scenario::{DAY_MS, Failure, MINUTE_MS};
use crate::world::World;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::Seed;
use backmesh_format::{NodeId, UnixMillis};
use backmesh_mesh::message::{RefusedReason, Standing};
use backmesh_mesh::peer::PeerEvent;

/// A group in its world.
#[derive(Debug)]
pub struct Stage {
    /// The world.
    pub world: World,
    /// The admins.
    pub group: Group,
}

impl Stage {
    /// A workgroup with so many admins, and nobody in it.
    pub fn new(seed: u64, admins: usize) -> Self {
        let mut world = World::new(seed);
        let now = world.unix_ms();
        let group = Group::found(admins, &mut world.dice, now);
        Self { world, group }
    }

    /// An invitation by the first admin, whose seeds are some nodes.
    pub fn invite(&mut self, uses: u32, expires_at: UnixMillis, seeds: &[usize]) -> Invited {
        let seeds = seeds.iter().map(|seed| self.seed(*seed)).collect();
        self.group.invite(0, uses, expires_at, seeds, &mut self.world.dice)
    }

    pub(crate) fn seed(&self, number: usize) -> Seed {
        Seed { address: World::address(number), node: self.world.nodes.get(number).map(|node| node.id) }
    }

    /// Adds a node with an invitation, its clock off by up to an hour, and leaves it switched off.
    pub fn add(&mut self, invited: &Invited) -> usize {
        let key = KeyPair::from_secret(&self.world.dice.bytes());
        let skew = self.world.dice.below(7_200_000) as i64 - 3_600_000;
        self.add_with(invited, key, skew)
    }

    pub(crate) fn add_with(&mut self, invited: &Invited, key: KeyPair, skew_ms: i64) -> usize {
        let certificate = invited.certificate(&key, &format!("node {}", self.world.nodes.len()), self.world.unix_ms());
        self.world.add(key, self.group.charter.clone(), certificate, skew_ms)
    }

    /// Switches a node on.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(&mut self, number: usize) -> Result<(), Failure> {
        self.world.start(number).map_err(|error| format!("node {number} does not start: {error}"))
    }

    /// A founder and others who join through it one after another within some seconds.
    ///
    /// # Errors
    /// Where one does not start.
    pub fn populate(&mut self, members: usize) -> Result<(), Failure> {
        let first = self.invite(1, 0, &[]);
        let founder = self.add(&first);
        self.start(founder)?;
        let expires_at = self.world.unix_ms() + 7 * DAY_MS;
        let invited = self.invite(members as u32, expires_at, &[founder]);
        for _ in 1..members {
            let pause = self.world.dice.below(400);
            self.world.run(pause);
            let number = self.add(&invited);
            self.start(number)?;
        }
        Ok(())
    }

    pub(crate) fn settle(&mut self, limit_ms: u64) -> Result<u64, Failure> {
        match self.world.run_until(limit_ms, |world| disagreement(world).is_none()) {
            Some(took) => Ok(took),
            None => Err(disagreement(&mut self.world).unwrap_or_else(|| "it settled too late".to_owned())),
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.world.nodes.iter().map(|node| node.frames).sum()
    }

    pub(crate) fn id(&self, number: usize) -> NodeId {
        self.world.nodes[number].id
    }

    pub(crate) fn standing(&self, observer: usize, subject: usize) -> Standing {
        self.world.directory(observer).map_or(Standing::Guest, |directory| directory.standing(&self.id(subject)))
    }

    /// What everyone who is on must think of a node, but itself.
    pub(crate) fn everyone_thinks(&self, subject: usize, standing: Standing) -> Result<(), Failure> {
        for observer in (0..self.world.nodes.len()).filter(|observer| *observer != subject) {
            let found = self.standing(observer, subject);
            if self.world.directory(observer).is_some() && found != standing {
                return Err(format!("node {observer} takes node {subject} for {found:?}, not {standing:?}"));
            }
        }
        Ok(())
    }

    pub(crate) fn refusals(&self, number: usize) -> Vec<RefusedReason> {
        let events = self.world.nodes[number].events.iter();
        events
            .filter_map(|event| match event {
                PeerEvent::RefusedBy { reason, .. } | PeerEvent::Refused { reason, .. } => Some(*reason),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn quiet_hour(&mut self) -> u64 {
        self.world.run(30 * MINUTE_MS);
        let before = self.frames();
        self.world.run(60 * MINUTE_MS);
        self.frames() - before
    }

    pub(crate) fn everyone_not_accepting(&self, subject: usize) -> Result<(), Failure> {
        let observers = (0..self.world.nodes.len()).filter(|observer| *observer != subject);
        match observers.clone().find(|observer| self.standing(*observer, subject) == Standing::Accepted) {
            Some(observer) => Err(format!("node {observer} accepts node {subject}")),
            None => Ok(()),
        }
    }

    /// What must be true at any moment: who published a revocation never takes the node back, and nobody has more members than exist.
    pub(crate) fn safe(&self, revoked: &[usize]) -> Result<(), Failure> {
        for observer in 0..self.world.nodes.len() {
            let Some(directory) = self.world.directory(observer) else { continue };
            ensure(directory.member_count() <= self.world.nodes.len(), || {
                format!("node {observer} knows members that do not exist")
            })?;
            for number in revoked {
                let known = directory.revocation(&self.id(*number)).is_some();
                let taken = matches!(directory.standing(&self.id(*number)), Standing::Accepted | Standing::Spent);
                ensure(!(known && taken), || format!("node {observer} took node {number} back"))?;
            }
            if observer == 0 {
                let forgotten = revoked.iter().find(|number| directory.revocation(&self.id(**number)).is_none());
                ensure(forgotten.is_none(), || "node 0 forgot a revocation over a restart".to_owned())?;
            }
        }
        Ok(())
    }
}

/// What nodes that are on do not agree about.
pub(crate) fn disagreement(world: &mut World) -> Option<Failure> {
    let mut first: Option<(usize, [u8; 32])> = None;
    for number in 0..world.nodes.len() {
        let Some(peer) = &mut world.nodes[number].peer else { continue };
        let root = peer.digest_root();
        match first {
            None => first = Some((number, root)),
            Some((other, expected)) if expected != root => {
                return Some(format!("nodes {other} and {number} do not know the same"));
            }
            Some(_) => {}
        }
    }
    None
}

pub(crate) fn ensure(holds: bool, failure: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(failure()) }
}
