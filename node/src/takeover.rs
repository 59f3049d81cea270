//! Taking a vault over on a new machine: once a member can be asked, the newest head says which generation wrote last; this machine
//! becomes the next one, and goes on from that head's snapshots and segments.

use crate::fetch::{Fetcher, Prover};
use crate::node::Node;
use anyhow::Context;
use backmesh_format::vault::{Head, HeadBody};
use backmesh_format::{NodeId, Signed};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often members are asked while none that knows the vault can be reached.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Returns once the state folder holds the new generation; the node then starts again as its writer.
///
/// # Errors
/// Where the state cannot be written.
pub async fn settle(node: &Arc<Node>) -> anyhow::Result<()> {
    let fetcher = Fetcher::new(node.net.clone(), prover(node)?, node.vault.unsealing.clone(), node.vault.id_key.clone());
    let (mut known, mut quiet) = (None, 0);
    loop {
        tokio::time::sleep(if quiet == 0 { Duration::from_millis(500) } else { ASK_EVERY }).await;
        let asked = ask_everyone(&fetcher, node.net.peers()).await;
        // Asked twice with the same answer: those who joined late have been heard.
        if asked.answered > 0 && known.as_ref() == Some(&asked.newest()) {
            return adopt(node, &fetcher, asked).await;
        }
        known = (asked.answered > 0).then(|| asked.newest());
        quiet += 1;
    }
}

fn prover(node: &Node) -> anyhow::Result<Prover> {
    let certificate = node.files().takeover_writers()?.pop().context("no writer was prepared")?;
    Ok(Prover::writer(&certificate, node.vault.writer.key.clone()))
}

/// What members said of a vault.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) answered: usize,
    pub(crate) heads: Vec<Signed<Head>>,
    /// The highest generation of any writer seen, in heads, sets or pointers.
    pub(crate) generation: u64,
}

impl Asked {
    /// The newest head of each seat that has one, the newest of all first.
    pub(crate) fn newest_by_seat(&self) -> Vec<&Signed<Head>> {
        let mut seats: Vec<&Signed<Head>> = Vec::new();
        for head in &self.heads {
            match seats.iter_mut().find(|known| known.writer.seat == head.writer.seat) {
                Some(known) => {
                    if rank(head) > rank(known) {
                        *known = head;
                    }
                }
                None => seats.push(head),
            }
        }
        seats.sort_by_key(|head| std::cmp::Reverse(head.written_at));
        seats
    }

    fn newest(&self) -> (u64, u64) {
        (self.generation, self.heads.iter().map(|head| head.sequence).max().unwrap_or(0))
    }
}

fn rank(head: &Head) -> (u64, u64) {
    (head.writer.generation, head.sequence)
}

/// Asks members where the vault lies, and everyone they name for heads and copysets.
pub(crate) async fn ask_everyone(fetcher: &Fetcher, members: Vec<NodeId>) -> Asked {
    let mut asked = Asked::default();
    let (mut open, mut done) = (BTreeSet::from_iter(members), BTreeSet::new());
    while let Some(member) = open.pop_first() {
        if !done.insert(member) {
            continue;
        }
        if let Some((pointers, _)) = fetcher.locate(member).await {
            asked.answered += 1;
            for pointer in pointers {
                asked.generation = asked.generation.max(pointer.writer.generation);
                open.extend(pointer.holders.iter().filter(|holder| !done.contains(*holder)));
            }
        }
        for head in fetcher.heads_of(member).await.unwrap_or_default() {
            asked.generation = asked.generation.max(head.writer.generation);
            if !asked.heads.iter().any(|known| known.hash() == head.hash()) {
                asked.heads.push(head);
            }
        }
        fetcher.learn_sets_of(member).await;
    }
    asked
}

async fn adopt(node: &Arc<Node>, fetcher: &Fetcher, asked: Asked) -> anyhow::Result<()> {
    let newest = asked.newest_by_seat().first().map(|head| (*head).clone());
    let generation = asked.generation;
    if let Some(head) = newest {
        let body: HeadBody = fetcher.unsealing().open_head(&head).context("the newest head does not open")?;
        node.vault.adopt_head(&head, body)?;
        node.sets.adopt(fetcher.sets())?;
    }
    node.files().raise_generation(generation)?;
    tracing::info!(generation = generation + 1, "this machine is the vault's writer now");
    Ok(())
}
