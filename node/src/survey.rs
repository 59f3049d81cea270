//! Finds everyone who holds something of a vault, and asks them for heads and copysets: what a recovery and a takeover begin with.

use crate::fetch::{Fetcher, Heads};
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, RecordHash, Signed};
use backmesh_net::Net;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// How long holders may take to be connected before the work goes on without them.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long one address may take before the next is tried.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// How often those who were asked may name others.
const ROUNDS_MAX: usize = 4;
/// Members asked where no pointer says who holds the vault.
const GUESSES_MAX: usize = 64;
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

struct Said {
    located: Option<Located>,
    heads: Option<Vec<Signed<Head>>>,
}

type Located = (Vec<Signed<backmesh_format::vault::VaultPointer>>, Vec<Signed<backmesh_format::membership::MemberState>>);

/// Asks `first` where the vault lies, and everyone whom they, the pointers or the copysets name for heads and copysets.
pub(crate) async fn survey(net: &Net, fetcher: &Fetcher, first: impl IntoIterator<Item = NodeId>, wanted: Heads) -> Asked {
    let mut asked = Asked::default();
    let mut open = BTreeSet::from_iter(first);
    let mut done = BTreeSet::from([net.local()]);
    for _ in 0..ROUNDS_MAX {
        let fresh: BTreeSet<NodeId> = open.difference(&done).copied().collect();
        if fresh.is_empty() {
            break;
        }
        connect(net, &fresh, &asked.addresses).await;
        done.extend(&fresh);
        let reached: HashSet<NodeId> = net.peers().into_iter().collect();
        let mut asking = futures::stream::iter(fresh.into_iter().filter(|member| reached.contains(member)))
            .map(|member| async move { (member, ask(fetcher, member, wanted).await) })
            .buffer_unordered(ASKED_AT_ONCE);
        while let Some((member, said)) = asking.next().await {
            asked.take_in(member, said);
        }
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

async fn ask(fetcher: &Fetcher, member: NodeId, wanted: Heads) -> Said {
    let located = fetcher.locate(member).await;
    if located.is_none() {
        return Said { located, heads: None };
    }
    fetcher.learn_sets_of(member).await;
    Said { located, heads: fetcher.heads_of(member, wanted).await }
}

/// Connects to all of `members` at once, each at the first of its addresses that answers.
pub(crate) async fn connect(net: &Net, members: &BTreeSet<NodeId>, addresses: &Addresses) {
    let connected: HashSet<NodeId> = net.peers().into_iter().collect();
    let dialling = members.iter().filter(|member| !connected.contains(member)).map(|member| async move {
        for address in addresses.get(member).into_iter().flatten() {
            if matches!(tokio::time::timeout(DIAL_LIMIT, net.dial(address, Some(*member))).await, Ok(Ok(_))) {
                return;
            }
        }
    });
    let all = dialling.collect::<FuturesUnordered<_>>().collect::<Vec<()>>();
    tokio::time::timeout(CONNECT_LIMIT, all).await.ok();
}
