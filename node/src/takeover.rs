//! Taking a vault over on a new machine: the newest head says which generation wrote last; this machine becomes the next one, and goes
//! on from that head's snapshots and segments. It waits until so many holders were heard that none newer can be hidden among the rest:
//! a writer that began too low, or from too old a head, would hide snapshots.

use crate::fetch::{Fetcher, Heads, Prover};
use crate::node::Node;
use crate::survey::{Asked, survey};
use anyhow::Context;
use backmesh_format::vault::{Head, HeadBody};
use backmesh_format::{NodeId, Signed};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often members are asked while too few holders can be reached.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How soon they are asked at first, and once more when enough were heard.
const ASK_SOON: Duration = Duration::from_millis(500);

/// Returns once the state folder holds the new generation; the node then starts again as its writer.
///
/// # Errors
/// Where the state cannot be written.
pub async fn settle(node: &Arc<Node>) -> anyhow::Result<()> {
    let fetcher = Fetcher::new(node.net.clone(), prover(node)?, node.vault.unsealing.clone(), node.vault.id_key.clone());
    let (mut known, mut told, mut pause) = (None, None, ASK_SOON);
    loop {
        tokio::time::sleep(pause).await;
        fetcher.name_holders(node.members.view().peers.iter().map(|peer| (peer.node, peer.name.clone())));
        let members = node.net.peers().into_iter().filter(|peer| node.members.is_member(peer));
        let asked = survey(&node.net, &fetcher, members, Heads::Newest, |_| false).await;
        match judge(&fetcher, &asked) {
            // Asked twice with the same answer: those who joined late have been heard.
            Ok((head, body)) if known.as_ref() == Some(&asked.outcome()) => {
                return adopt(node, &fetcher, &head, body, asked.generation);
            }
            Ok(_) => {
                known = Some(asked.outcome());
                pause = ASK_SOON;
            }
            Err(waits) => {
                let text = format!("the vault is not taken over yet: {waits}");
                if told.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                    told = Some(text.clone());
                }
                node.members.set_notice(text);
                (known, pause) = (None, ASK_EVERY);
            }
        }
    }
}

fn prover(node: &Node) -> anyhow::Result<Prover> {
    let certificate = node.files().takeover_writers()?.pop().context("no writer was prepared")?;
    Ok(Prover::writer(&certificate, node.vault.writer.key.clone()))
}

/// The head to go on from, or what is waited for.
fn judge(fetcher: &Fetcher, asked: &Asked) -> Result<(Signed<Head>, HeadBody), String> {
    if asked.answered.is_empty() {
        return Err("no member can be reached".to_owned());
    }
    let heads = asked.newest_first();
    if heads.is_empty() && asked.generation == 0 {
        return Err("no member knows this vault: check the phrase, and that it is of this workgroup".to_owned());
    }
    let sets = fetcher.sets();
    if heads.is_empty() || !asked.is_enough(&sets) {
        let holders: BTreeSet<NodeId> = asked.named.iter().copied().chain(fetcher.holders()).collect();
        let silent: Vec<String> = holders.difference(&asked.heard).map(|holder| fetcher.name_of(holder)).collect();
        let count = format!("{} of its {} holders were heard", holders.intersection(&asked.heard).count(), holders.len());
        return Err(match (heads.is_empty(), silent.is_empty()) {
            (true, true) => format!("{count}, and none has a state of it: did a backup ever reach its end?"),
            (_, true) => format!("{count}, and nobody says who the others are"),
            (_, false) => format!("{count}, and a newer state may be at the others: {}", silent.join(", ")),
        });
    }
    let mut failed = String::new();
    for head in heads {
        match fetcher.unsealing().open_head(head) {
            Ok(body) => return Ok((head.clone(), body)),
            Err(error) => {
                tracing::warn!(generation = head.writer.generation, sequence = head.sequence, "a head is passed over: {error}");
                failed = error.to_string();
            }
        }
    }
    Err(failed)
}

fn adopt(node: &Arc<Node>, fetcher: &Fetcher, head: &Signed<Head>, body: HeadBody, seen: u64) -> anyhow::Result<()> {
    node.vault.adopt_head(head, body)?;
    node.sets.adopt(fetcher.sets())?;
    node.files().raise_generation(seen)?;
    tracing::info!(generation = seen + 1, sequence = head.sequence, "this machine is the vault's writer now");
    Ok(())
}
