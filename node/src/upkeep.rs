//! What the agent does between a person's commands: brings the rest of packs to holders that appear, gives them the newest head, and
//! tells the directory where the vault lies.

use crate::backup::{Given, send_head};
use crate::node::Node;
use backmesh_format::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the agent looks. A holder that comes back is served within this time.
const EVERY: Duration = Duration::from_secs(5);

/// Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let mut heads: HashMap<NodeId, u64> = HashMap::new();
    loop {
        if !node.taking_over {
            if !node.schedule.spares_network(&node) {
                node.outbox.retry();
            }
            bring_heads(&node, &mut heads).await;
            node.members.announce_vault(&node.vault, &node.sets);
        }
        node.members.announce_self(node.holder.offered_bytes(), node.holder.free_bytes());
        tokio::time::sleep(EVERY).await;
    }
}

/// Offers the newest head to each holder that has not had it from this agent, once per start and head.
async fn bring_heads(node: &Arc<Node>, given: &mut HashMap<NodeId, u64>) {
    let Some(head) = node.vault.head() else { return };
    for holder in node.sets.holders() {
        let due = given.get(&holder) != Some(&head.sequence) && node.members.is_connected(&holder);
        if due && !matches!(send_head(node, holder, &head).await, Given::Unreachable) {
            given.insert(holder, head.sequence);
        }
    }
}
