//! Taking a vault over on a new machine: the newest head says which generation wrote last; this machine becomes the next one, and goes
//! on from that head's snapshots and segments. It waits until so many holders were heard that none newer can be hidden among the rest:
//! a writer that began too low, or from too old a head, would hide snapshots.

use crate::fetch::{Fetcher, Heads, Prover};
use crate::node::Node;
use crate::survey::{Asked, survey};
use anyhow::Context;
use backmesh_format::copyset::Copyset;
use backmesh_format::vault::{Head, HeadBody};
use backmesh_format::{NodeId, Signed};
use backmesh_policy::{Shape, enough};
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
        let asked = survey(&node.net, &fetcher, members, Heads::Newest).await;
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
    if heads.is_empty() || !heard_enough(&sets, asked) {
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

/// Whether no newer head can be hidden among those who were not heard: everyone whom the pointers name was, or of each of the newest
/// sets so many that a head which had enough holders to count is at one of them.
fn heard_enough(sets: &[Signed<Copyset>], asked: &Asked) -> bool {
    if !asked.named.is_empty() && asked.named.is_subset(&asked.heard) {
        return true;
    }
    let newest = sets.iter().map(|set| set.writer.generation).max();
    let mut newest = sets.iter().filter(|set| Some(set.writer.generation) == newest).peekable();
    newest.peek().is_some() && newest.all(|set| heard_enough_of(set, &asked.heard))
}

fn heard_enough_of(set: &Copyset, heard: &BTreeSet<NodeId>) -> bool {
    let shape = Shape { k: set.k, n: u8::try_from(set.slots.len()).unwrap_or(u8::MAX) };
    let needed = enough(shape) + 1 - usize::from(shape.k);
    set.slots.iter().filter(|slot| heard.contains(slot)).count() + needed > set.slots.len()
}

fn adopt(node: &Arc<Node>, fetcher: &Fetcher, head: &Signed<Head>, body: HeadBody, seen: u64) -> anyhow::Result<()> {
    node.vault.adopt_head(head, body)?;
    node.sets.adopt(fetcher.sets())?;
    node.files().raise_generation(seen)?;
    tracing::info!(generation = seen + 1, sequence = head.sequence, "this machine is the vault's writer now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::charter::Level;
    use backmesh_format::keys::{KeyPair, VaultSecret};
    use backmesh_format::stripe::Purpose;
    use backmesh_format::vault::WriterCert;
    use backmesh_format::{CopysetId, MachineId, SealingKey};

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn set(generation: u64, k: u8, slots: &[u8]) -> Signed<Copyset> {
        let (secret, key) = (VaultSecret::new([9; 32]), KeyPair::from_secret(&[8; 32]));
        let writer = WriterCert {
            vault: secret.vault(),
            seat: 0,
            generation,
            writer: key.public(),
            sealing: SealingKey([0; 32]),
            node: node(0),
            machine: MachineId([0; 32]),
            written_at: 0,
        };
        let set = Copyset {
            writer: Signed::new(writer, &[&secret.root()]),
            copyset: CopysetId([slots[0]; 32]),
            sequence: 1,
            purpose: Purpose::Data,
            level: Level::Standard,
            k,
            slots: slots.iter().map(|slot| node(*slot)).collect(),
            slot_bytes_max: 1,
            closed: false,
        };
        Signed::new(set, &[&key])
    }

    fn heard(named: &[u8], heard: &[u8]) -> Asked {
        let nodes = |numbers: &[u8]| numbers.iter().map(|number| node(*number)).collect();
        let mut asked = Asked::default();
        (asked.named, asked.heard) = (nodes(named), nodes(heard));
        asked
    }

    #[test]
    fn so_many_are_heard_that_none_newer_is_hidden() {
        // Of two in four a head needs two holders, so three of the four must have been heard.
        let sets = [set(2, 2, &[1, 2, 3, 4]), set(1, 2, &[5, 6, 7, 8])];
        assert!(!heard_enough(&sets, &heard(&[1, 2, 3, 4], &[1, 2])));
        assert!(heard_enough(&sets, &heard(&[1, 2, 3, 4], &[1, 2, 4])));
        assert!(!heard_enough(&sets, &heard(&[1, 2, 3, 4], &[5, 6, 7, 8])), "holders of an older generation do not count");
        let both = [set(2, 2, &[1, 2, 3, 4]), set(2, 2, &[5, 6, 7, 8])];
        assert!(!heard_enough(&both, &heard(&[1], &[2, 3, 4, 5, 6])), "each of the newest sets counts");
        assert!(heard_enough(&both, &heard(&[1, 5], &[1, 5])), "all whom the pointers name");
        assert!(!heard_enough(&[], &heard(&[], &[1, 2, 3])), "strangers alone say nothing");
    }
}
