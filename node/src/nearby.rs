//! Members on the local network, found by mDNS: how a node that knows nobody's address joins, how a group whose addresses all changed
//! meets again, and how a machine with nothing but the phrase recovers. What is found is only where to dial; who is there the
//! connection proves.

use crate::members::Peer;
use crate::node::Node;
use crate::report::Report;
use backmesh_control::{ExitCode, Failure, Phase, Progress, Standing};
use backmesh_format::NodeId;
use backmesh_mesh::peer::PeerConfig;
use backmesh_net::{Nearby, Net, Seeking};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// The shortest and the longest pause between two questions while a member is missing; it doubles, and begins anew when someone goes.
/// Each is spread over half to one and a half times its length, and who hears someone else ask does not ask in the half after it: in a
/// large group one question, and all the answers to it, serve everybody.
const PAUSES: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// How long a recovery looks for anyone, and for more once it has met someone.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
const LOOK_FOR_MORE: Duration = Duration::from_secs(3);
/// How often a recovery asks.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Addresses that a recovery tries, and at once: whoever fills the network with false ones makes it slow, and no more.
const TRIED_MAX: usize = 256;
const TRIED_AT_ONCE: usize = 32;

/// Passes on where members are said to be, and asks while one is missing. Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let (nearby, mut sightings) = match Nearby::start(&node.net, Seeking::Workgroup(node.members.view().workgroup)) {
        Ok(started) => started,
        Err(error) => {
            tracing::warn!("members on the local network are not looked for: mDNS cannot be used: {error}");
            return std::future::pending().await;
        }
    };
    let mut look = Look::new(PeerConfig::default().links_wanted);
    let mut ask_at = Instant::now() + spread(PAUSES.0);
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = sleep_until(ask_at) => {
                if look.asks(&node.members.view().peers, |member| node.members.is_connected(member)) {
                    nearby.ask(pause / 2);
                }
                // Alone is a state that should not last.
                let longest = if node.net.peers().is_empty() { 2 * PAUSES.0 } else { PAUSES.1 };
                pause = look.pause.min(longest);
                ask_at = Instant::now() + spread(pause);
            }
            sighting = sightings.recv() => match sighting {
                Some(sighting) => {
                    if let Some(seen) = sighting.node {
                        node.members.hear_of(seen, sighting.addresses);
                    }
                }
                None => return std::future::pending().await,
            },
        }
    }
}

/// What the last look at the members came to.
struct Look {
    /// Links that are enough for a member of a larger group: over these it hears where everyone else is.
    links_enough: usize,
    missing: BTreeSet<NodeId>,
    pause: Duration,
}

impl Look {
    const fn new(links_enough: usize) -> Self {
        Self { links_enough, missing: BTreeSet::new(), pause: PAUSES.0 }
    }

    /// Whether to ask now: only while there are fewer links than there should be. Every question makes everyone on the network answer,
    /// and in a large group most members are never connected.
    fn asks(&mut self, peers: &[Peer], is_connected: impl Fn(&NodeId) -> bool) -> bool {
        let others = peers.iter().filter(|peer| !peer.me && matches!(peer.standing, Standing::Accepted | Standing::Spent));
        let (linked, missing): (BTreeSet<NodeId>, BTreeSet<NodeId>) = others.map(|peer| peer.node).partition(&is_connected);
        let alone = linked.is_empty() && missing.is_empty();
        let enough = !alone && (missing.is_empty() || linked.len() >= self.links_enough);
        let gone = !enough && !missing.is_subset(&self.missing);
        self.pause = if gone { PAUSES.0 } else { (self.pause * 2).min(PAUSES.1) };
        self.missing = missing;
        !enough
    }
}

/// Half to one and a half times as long.
fn spread(pause: Duration) -> Duration {
    pause / 2 + pause * u32::from(rand::random::<u8>()) / 255
}

/// Connects to whoever is on the local network, as a stranger.
///
/// # Errors
/// Where nobody is found.
pub(crate) async fn meet(net: &Net, report: &Report) -> Result<Vec<NodeId>, Failure> {
    let hint = "give the address of any member that is on, as `backmesh status` shows it there: --seed ADDR";
    let failed = |what: String| Failure::new(ExitCode::TooFew, what).with_hint(hint);
    let (nearby, mut sightings) = Nearby::start(net, Seeking::Anyone)
        .map_err(|error| failed(format!("members on the local network cannot be looked for: mDNS cannot be used: {error}")))?;
    report
        .progress(Progress::new(Phase::Connecting).with_message("no address is given: looking for members on the local network"));
    let mut deadline = Instant::now() + LOOK_LIMIT;
    let mut ask_at = Instant::now() + ASK_EVERY;
    let (mut seen, mut open, mut met) = (HashSet::new(), Vec::new(), BTreeSet::new());
    let mut dialling = FuturesUnordered::new();
    while Instant::now() < deadline && !report.is_stopped() {
        while dialling.len() < TRIED_AT_ONCE
            && let Some(address) = open.pop()
        {
            dialling.push(dial(net, address));
        }
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = sleep_until(ask_at) => {
                nearby.ask(Duration::ZERO);
                ask_at = Instant::now() + ASK_EVERY;
            }
            Some(dialled) = dialling.next() => {
                if let Some(node) = dialled && met.insert(node) && met.len() == 1 {
                    deadline = Instant::now() + LOOK_FOR_MORE;
                }
            }
            Some(sighting) = sightings.recv() => {
                // The last is tried first: where it spoke from.
                let fresh = sighting.addresses.into_iter().rev();
                open.extend(fresh.filter(|address| seen.len() < TRIED_MAX && seen.insert(address.clone())));
            }
        }
    }
    if met.is_empty() {
        let tried = if seen.is_empty() { "nobody answers".to_owned() } else { format!("{} addresses lead nowhere", seen.len()) };
        return Err(failed(format!("no member is found on the local network: {tried}")));
    }
    Ok(met.into_iter().collect())
}

async fn dial(net: &Net, address: String) -> Option<NodeId> {
    timeout(LOOK_LIMIT, net.dial(&address, None)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(standing: Standing, numbers: std::ops::Range<u16>) -> Vec<Peer> {
        let node = |number: u16| NodeId(std::array::from_fn(|at| number.to_le_bytes().get(at).copied().unwrap_or_default()));
        let peer = |number| Peer {
            node: node(number),
            name: String::new(),
            site: String::new(),
            me: number == 0,
            standing,
            addresses: Vec::new(),
            offered_bytes: 0,
            free_bytes: 0,
            seen_at: None,
        };
        numbers.map(peer).collect()
    }

    #[test]
    fn a_member_of_a_large_group_with_links_enough_does_not_ask() {
        let peers = members(Standing::Accepted, 0..1_000);
        let mut look = Look::new(64);
        for round in 0..20 {
            // Some links go and others come, as a large group explores itself.
            let linked: BTreeSet<NodeId> = peers.iter().skip(1 + 3 * round).take(70).map(|peer| peer.node).collect();
            assert!(!look.asks(&peers, |node| linked.contains(node)));
        }
        assert_eq!(look.pause, PAUSES.1);
        assert!(look.asks(&peers, |_| false), "it has lost all links");
        assert_eq!(look.pause, PAUSES.0);
    }

    #[test]
    fn a_missing_member_of_a_small_group_is_asked_for_at_growing_pauses() {
        let mut peers = members(Standing::Accepted, 0..6);
        let mut look = Look::new(64);
        let missing = [peers[2].node, peers[4].node];
        assert!(!look.asks(&peers, |_| true));
        assert!(look.asks(&peers, |node| *node != missing[0]));
        assert_eq!(look.pause, PAUSES.0);
        assert!(look.asks(&peers, |node| *node != missing[0]));
        assert_eq!(look.pause, 2 * PAUSES.0);
        assert!(look.asks(&peers, |node| !missing.contains(node)), "another one has gone");
        assert_eq!(look.pause, PAUSES.0);
        // Who is no member any more, or not yet, is not waited for.
        for (at, standing) in [(2, Standing::Revoked), (4, Standing::Waiting)] {
            peers[at].standing = standing;
        }
        assert!(!look.asks(&peers, |node| !missing.contains(node)));
        // Nobody is known yet: there must be someone.
        assert!(look.asks(&peers[..1], |_| false));
    }
}
