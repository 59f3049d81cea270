//! What members are asked before anything can be read: where the vault lies, its heads, its copysets. Every question has a limit of
//! time, and every list one of length: an answer that never ends would otherwise keep a recovery from beginning.

use super::Fetcher;
use backmesh_format::membership::MemberState;
use backmesh_format::vault::{Head, VaultPointer, check_signed_by_writer};
use backmesh_format::{NodeId, PublicKey, Signed};
use backmesh_mesh::message::{ReadReply, ReadRequest};
use backmesh_policy::Offence;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long one answer may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long one list may take, however many answers it has.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// Heads taken from one holder. A head lists the snapshots before it, so older ones only matter where a thief wrote the newer.
const HEADS_MAX: usize = 1024;
/// Copysets taken from one holder.
const SETS_MAX: usize = 4096;

/// Which heads are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    /// As many as come with the first answer: the highest sequences.
    Newest,
    /// All that are kept.
    All,
}

impl Fetcher {
    /// Asks one member for the vault's heads, checked but not opened; none where it does not answer.
    pub(crate) async fn heads_of(&self, holder: NodeId, wanted: Heads) -> Option<Vec<Signed<Head>>> {
        let (mut heads, mut seen) = (Vec::new(), HashSet::new());
        let (mut after, limit) = (None, Instant::now() + LIST_LIMIT);
        loop {
            let request = move |call| ReadRequest::Heads { call, after }.encode();
            let reply = timeout_at(limit.min(Instant::now() + ASK_LIMIT), self.lanes.ask(holder, request)).await;
            let Ok(Ok(ReadReply::Heads { heads: some, more, .. })) = reply else {
                return if heads.is_empty() { None } else { Some(heads) };
            };
            let before = seen.len();
            for head in some {
                let hash = head.hash();
                after = Some(hash);
                let genuine = head.writer.vault == self.vault && check_signed_by_writer(&head, &head.writer).is_ok();
                if !genuine {
                    self.note(holder, Offence::Forged);
                }
                if seen.insert(hash) && genuine {
                    heads.push(head);
                }
            }
            if !more || wanted == Heads::Newest || seen.len() == before || seen.len() >= HEADS_MAX {
                return Some(heads);
            }
        }
    }

    /// Asks one member for the vault's copysets and learns them; whether those were all.
    pub(crate) async fn learn_sets_of(&self, holder: NodeId) -> bool {
        let mut seen = HashSet::new();
        let (mut after, limit) = (None, Instant::now() + LIST_LIMIT);
        loop {
            let request = move |call| ReadRequest::Copysets { call, after }.encode();
            let reply = timeout_at(limit.min(Instant::now() + ASK_LIMIT), self.lanes.ask(holder, request)).await;
            let Ok(Ok(ReadReply::Copysets { copysets: sets, more, .. })) = reply else { return false };
            let before = seen.len();
            after = sets.last().map(|set| set.copyset);
            seen.extend(sets.iter().map(|set| set.copyset));
            if self.learn_sets(sets) {
                self.note(holder, Offence::Forged);
            }
            if !more || seen.len() == before || seen.len() >= SETS_MAX {
                return true;
            }
        }
    }

    /// Asks one member where the vault lies: its pointers, and where members are that may hold something of it.
    pub(crate) async fn locate(&self, member: NodeId) -> Option<(Vec<Signed<VaultPointer>>, Vec<Signed<MemberState>>)> {
        let request = |call| ReadRequest::Where { call }.encode();
        match timeout(ASK_LIMIT, self.lanes.ask(member, request)).await.ok()?.ok()? {
            ReadReply::Where { pointers, states, .. } => {
                let genuine = |pointer: &Signed<VaultPointer>| {
                    pointer.writer.vault == self.vault && check_signed_by_writer(pointer, &pointer.writer).is_ok()
                };
                let own = |state: &Signed<MemberState>| state.signed_by(&PublicKey(state.node.0));
                if !pointers.iter().all(genuine) || !states.iter().all(own) {
                    self.note(member, Offence::Forged);
                }
                Some((pointers.into_iter().filter(genuine).collect(), states.into_iter().filter(own).collect()))
            }
            _ => None,
        }
    }
}
