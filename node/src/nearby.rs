//! Members on the local network, found by mDNS: how a node that knows nobody's address joins, how a group whose addresses all changed
//! meets again, and how a machine with nothing but the phrase recovers. What is found is only where to dial; who is there the
//! connection proves.

use crate::node::Node;
use crate::report::Report;
use backmesh_control::{ExitCode, Failure, Phase, Progress};
use backmesh_format::NodeId;
use backmesh_net::{Nearby, Net, Seeking};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The shortest and the longest pause between two questions while a member is missing; it doubles, and begins anew when someone goes.
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
    let mut pause = PAUSES.0;
    let mut ask_at = Instant::now() + pause;
    let mut missing_before = BTreeSet::new();
    loop {
        tokio::select! {
            () = sleep_until(ask_at) => {
                let missing = missing(&node);
                pause = if missing.is_subset(&missing_before) { (pause * 2).min(PAUSES.1) } else { PAUSES.0 };
                if !missing.is_empty() || node.members.view().peers.len() < 2 {
                    nearby.ask();
                }
                missing_before = missing;
                // Alone is a state that should not last.
                let longest = if node.net.peers().is_empty() { 2 * PAUSES.0 } else { PAUSES.1 };
                ask_at = Instant::now() + pause.min(longest);
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

fn missing(node: &Node) -> BTreeSet<NodeId> {
    let view = node.members.view();
    view.peers.iter().filter(|peer| !peer.me && !node.members.is_connected(&peer.node)).map(|peer| peer.node).collect()
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
                nearby.ask();
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
    timeout_at(Instant::now() + LOOK_LIMIT, net.dial(&address, None)).await.ok()?.ok()
}
