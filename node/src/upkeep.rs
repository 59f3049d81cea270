//! What the agent does between a person's commands: brings the rest of packs to holders that appear, gives them the newest head, and
//! tells the directory where the vault lies.

use crate::backup::{Given, send_head};
use crate::catch_up::{catch_up, is_due};
use crate::node::Node;
use backmesh_format::NodeId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How often the agent looks. A holder that comes back is served within this time.
const EVERY: Duration = Duration::from_secs(5);
/// How long after a failed look at what holders know the next one is.
const FAILED_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long a holder may take to accept a head here; it is offered again after that.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    tokio::join!(look(&node), bring_heads(&node));
}

async fn look(node: &Arc<Node>) {
    loop {
        if !node.taking_over {
            if !node.schedule.spares_network(node) {
                node.outbox.retry();
            }
            node.members.announce_vault(&node.vault, &node.sets);
        }
        save_conduct(node).await;
        node.members.announce_self(node.holder.offered_bytes(), node.holder.free_bytes());
        tokio::time::sleep(EVERY).await;
    }
}

/// Writes what members have done since the last look. The disk may be full or asleep; then it is written later.
pub(crate) async fn save_conduct(node: &Arc<Node>) {
    let conducts = Arc::clone(node.members.conducts());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || conducts.save()).await {
        tracing::warn!("what members did wrong cannot be kept now: {error}");
    }
}

/// This state may be older than what its holders know. A backup that runs finds that out by itself.
async fn catch_up_alone(node: &Arc<Node>, pause: &mut Pause) {
    if Instant::now() < pause.until {
        return;
    }
    let Some(_run) = node.backing_up.begin_quietly() else { return };
    if let Err(error) = catch_up(node).await {
        pause.until = Instant::now() + FAILED_PAUSE;
        let text = error.to_string();
        if pause.told != text {
            tracing::warn!("{text}");
            pause.told = text;
        }
    }
}

/// After a failure that a person has to do something about, as to unlock the key.
struct Pause {
    until: Instant,
    told: String,
}

/// Offers the newest head to each holder that has not had it from this agent, once per start and head. Holders are asked side by side:
/// one that does not answer keeps the head from nobody.
async fn bring_heads(node: &Arc<Node>) {
    let mut given: HashMap<NodeId, u64> = HashMap::new();
    let mut pause = Pause { until: Instant::now(), told: String::new() };
    loop {
        // Before it is given a newer head, which it would keep as the newest.
        if !node.taking_over && !node.schedule.spares_network(node) && is_due(node) {
            catch_up_alone(node, &mut pause).await;
        }
        if let Some(head) = node.vault.head().filter(|_| !node.taking_over) {
            let due = node.sets.holders().into_iter();
            let due = due.filter(|holder| given.get(holder) != Some(&head.sequence) && node.members.is_connected(holder));
            let giving = due.map(|holder| {
                let head = &head;
                async move { (holder, timeout(HEAD_LIMIT, send_head(node, holder, head)).await) }
            });
            let mut giving: FuturesUnordered<_> = giving.collect();
            while let Some((holder, answer)) = giving.next().await {
                match answer {
                    Err(_) | Ok(Given::Unreachable) => continue,
                    Ok(Given::Outdated(_)) => catch_up_alone(node, &mut pause).await,
                    Ok(Given::Accepted | Given::Refused(_)) => {}
                }
                given.insert(holder, head.sequence);
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
