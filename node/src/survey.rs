//! Finds everyone who holds something of a vault, and asks them for heads and copysets: what a recovery and a takeover begin with.

use crate::fetch::{Fetcher, Heads};
use backmesh_format::copyset::Copyset;
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, RecordHash, Signed};
use backmesh_net::Net;
use backmesh_policy::{Shape, enough};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// How long holders may take to be connected before the work goes on without them.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long one address may take before the next is tried.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// How often those who were asked may name others.
const ROUNDS_MAX: usize = 4;
/// Members asked where no pointer says who holds the vault.
const GUESSES_MAX: usize = 64;
/// How long the others are waited for once all that is needed was heard: who sleeps answers within seconds, who is gone never does.
const FURTHER_LIMIT: Duration = Duration::from_secs(3);
/// Members asked side by side.
const ASKED_AT_ONCE: usize = 32;
/// Addresses of one member that are tried.
const ADDRESSES_MAX: usize = 8;

/// What members said of a vault.
#[derive(Default)]
pub(crate) struct Asked {
    /// Who answered as a member does.
    pub(crate) answered: BTreeSet<NodeId>,
    /// Who was asked for heads and answered, if only that there are none.
    pub(crate) heard: BTreeSet<NodeId>,
    /// Who was asked, and was not waited for to the end.
    pub(crate) left: BTreeSet<NodeId>,
    /// Whom the vault's pointers name.
    pub(crate) named: BTreeSet<NodeId>,
    /// Where members are.
    pub(crate) addresses: Addresses,
    /// All heads, in no order, each once.
    pub(crate) heads: Vec<Signed<Head>>,
    /// The highest generation of any writer seen, in heads, sets or pointers.
    pub(crate) generation: u64,
    seen: HashSet<RecordHash>,
}

/// Where members are, as they say themselves.
pub(crate) type Addresses = HashMap<NodeId, Vec<String>>;

impl Asked {
    /// The heads, the newest first: by generation and sequence, which no clock moves.
    pub(crate) fn newest_first(&self) -> Vec<&Signed<Head>> {
        let mut heads: Vec<&Signed<Head>> = self.heads.iter().collect();
        heads.sort_by_key(|head| std::cmp::Reverse((head.writer.generation, head.sequence)));
        heads
    }

    /// What two surveys with the same outcome have in common.
    pub(crate) fn outcome(&self) -> (u64, Option<RecordHash>, usize) {
        (self.generation, self.newest_first().first().map(|head| head.hash()), self.heard.len())
    }

    /// Whether no newer head can be hidden among those who were not heard: everyone whom the pointers name was, or of each of the newest
    /// sets so many that a head which had enough holders to count is at one of them.
    pub(crate) fn is_enough(&self, sets: &[Signed<Copyset>]) -> bool {
        if !self.named.is_empty() && self.named.is_subset(&self.heard) {
            return true;
        }
        let newest = sets.iter().map(|set| set.writer.generation).max();
        let mut newest = sets.iter().filter(|set| Some(set.writer.generation) == newest).peekable();
        newest.peek().is_some() && newest.all(|set| self.is_enough_of(set))
    }

    fn is_enough_of(&self, set: &Copyset) -> bool {
        let shape = Shape { k: set.k, n: u8::try_from(set.slots.len()).unwrap_or(u8::MAX) };
        let needed = enough(shape) + 1 - usize::from(shape.k);
        set.slots.iter().filter(|slot| self.heard.contains(slot)).count() + needed > set.slots.len()
    }

    fn take_in(&mut self, member: NodeId, said: Said) {
        let Said { located, heads } = said;
        if let Some((pointers, states)) = located {
            self.answered.insert(member);
            for pointer in pointers {
                self.generation = self.generation.max(pointer.writer.generation);
                self.named.extend(pointer.holders.iter().copied());
            }
            for state in states {
                let known = self.addresses.entry(state.node).or_default();
                for address in &state.addresses {
                    if known.len() < ADDRESSES_MAX && !known.contains(address) {
                        known.push(address.clone());
                    }
                }
            }
        }
        if let Some(heads) = heads {
            self.heard.insert(member);
            for head in heads {
                self.generation = self.generation.max(head.writer.generation);
                if self.seen.insert(head.hash()) {
                    self.heads.push(head);
                }
            }
        }
    }
}

#[derive(Default)]
struct Said {
    located: Option<Located>,
    heads: Option<Vec<Signed<Head>>>,
}

type Located = (Vec<Signed<backmesh_format::vault::VaultPointer>>, Vec<Signed<backmesh_format::membership::MemberState>>);

/// Asks `first` where the vault lies, and everyone whom they, the pointers or the copysets name for heads and copysets, side by side.
/// Once what was heard is enough for `is_enough`, the others have a few seconds left.
pub(crate) async fn survey(
    net: &Net,
    fetcher: &Fetcher,
    first: impl IntoIterator<Item = NodeId>,
    wanted: Heads,
    is_enough: impl Fn(&Asked) -> bool,
) -> Asked {
    let mut asked = Asked::default();
    let mut open = BTreeSet::from_iter(first);
    let mut done = BTreeSet::from([net.local()]);
    let mut until = None;
    let turns = Semaphore::new(ASKED_AT_ONCE);
    for _ in 0..ROUNDS_MAX {
        let mut fresh: BTreeSet<NodeId> = open.difference(&done).copied().collect();
        if fresh.is_empty() {
            break;
        }
        done.extend(&fresh);
        let addresses = asked.addresses.clone();
        let (addresses, turns) = (&addresses, &turns);
        let asking = fresh.iter().copied().map(|member| async move {
            timeout(CONNECT_LIMIT, reach(net, member, addresses)).await.ok();
            let _turn = turns.acquire().await;
            (member, if net.peers().contains(&member) { ask(fetcher, member, wanted).await } else { Said::default() })
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        while let Ok(Some((member, said))) = timeout_at(until.unwrap_or_else(far), asking.next()).await {
            fresh.remove(&member);
            asked.take_in(member, said);
            if until.is_none() && is_enough(&asked) {
                until = Some(Instant::now() + FURTHER_LIMIT);
            }
        }
        drop(asking);
        asked.left.extend(fresh);
        open.extend(&asked.named);
        open.extend(fetcher.holders());
        if asked.named.is_empty() {
            open.extend(asked.addresses.keys().take(GUESSES_MAX));
        }
    }
    let sets = fetcher.sets();
    asked.generation = sets.iter().map(|set| set.writer.generation).fold(asked.generation, u64::max);
    asked
}

/// No end of its own: every question has one.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

async fn ask(fetcher: &Fetcher, member: NodeId, wanted: Heads) -> Said {
    let located = fetcher.locate(member).await;
    if located.is_none() {
        return Said { located, heads: None };
    }
    let (_, heads) = tokio::join!(fetcher.learn_sets_of(member), fetcher.heads_of(member, wanted));
    Said { located, heads }
}

/// Connects to all of `members` at once, each at the first of its addresses that answers.
pub(crate) async fn connect(net: &Net, members: &BTreeSet<NodeId>, addresses: &Addresses) {
    let dialling = members.iter().map(|member| reach(net, *member, addresses));
    let all = dialling.collect::<FuturesUnordered<_>>().collect::<Vec<()>>();
    timeout(CONNECT_LIMIT, all).await.ok();
}

async fn reach(net: &Net, member: NodeId, addresses: &Addresses) {
    if net.peers().contains(&member) {
        return;
    }
    for address in addresses.get(&member).into_iter().flatten() {
        if matches!(timeout(DIAL_LIMIT, net.dial(address, Some(member))).await, Ok(Ok(_))) {
            return;
        }
    }
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
        assert!(!heard(&[1, 2, 3, 4], &[1, 2]).is_enough(&sets));
        assert!(heard(&[1, 2, 3, 4], &[1, 2, 4]).is_enough(&sets));
        assert!(!heard(&[1, 2, 3, 4], &[5, 6, 7, 8]).is_enough(&sets), "holders of an older generation do not count");
        let both = [set(2, 2, &[1, 2, 3, 4]), set(2, 2, &[5, 6, 7, 8])];
        assert!(!heard(&[1], &[2, 3, 4, 5, 6]).is_enough(&both), "each of the newest sets counts");
        assert!(heard(&[1, 5], &[1, 5]).is_enough(&both), "all whom the pointers name");
        assert!(!heard(&[], &[1, 2, 3]).is_enough(&[]), "strangers alone say nothing");
    }
}
