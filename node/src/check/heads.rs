//! The newest head, at its holders.

use super::Check;
use crate::fetch::Heads;
use backmesh_control::{HeadCheck, Phase, Progress};
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, Signed};
use backmesh_policy::Offence;
use futures::StreamExt;

/// Holders asked side by side.
const ASKED_AT_ONCE: usize = 32;

impl Check<'_> {
    pub(super) fn heads(&mut self) {
        let Some(own) = self.node.vault.head() else { return };
        self.report.progress(Progress::new(Phase::Connecting));
        let holders = self.node.sets.holders();
        let asking = futures::stream::iter(holders.into_iter().map(|holder| self.ask(holder))).buffer_unordered(ASKED_AT_ONCE);
        let mut answers: Vec<(NodeId, Option<Vec<Signed<Head>>>)> = self.runtime.block_on(asking.collect());
        answers.sort_by_key(|(holder, _)| *holder);

        let mut head = HeadCheck { sequence: own.sequence, needed: self.node.sets.heads_needed() as u64, ..HeadCheck::default() };
        let own_place = (own.writer.generation, own.sequence);
        for (holder, heads) in answers {
            let Some(heads) = heads else {
                self.silent.insert(holder);
                continue;
            };
            let newest = heads.iter().map(|head| (head.writer.generation, head.sequence)).max();
            if heads.iter().any(|head| head.hash() == own.hash()) {
                head.same += 1;
            } else {
                head.behind.push(self.name(&holder));
                if self.node.has_head(&holder, own.sequence) {
                    self.node.members.note(&holder, Offence::OldHead);
                }
            }
            if newest.is_some_and(|newest| newest > own_place) {
                let name = self.name(&holder);
                self.problem(format!(
                    "{name} has a newer state of the vault than this machine: another one writes to it, or the state folder is old"
                ));
            }
        }
        if head.same < head.needed {
            if head.same + self.silent.len() as u64 >= head.needed {
                self.result.too_few = true;
            } else {
                self.problem(format!(
                    "only {} holders have the newest head, {} must; without it are {}",
                    head.same,
                    head.needed,
                    head.behind.join(", ")
                ));
            }
        }
        self.result.head = head;
    }

    async fn ask(&self, holder: NodeId) -> (NodeId, Option<Vec<Signed<Head>>>) {
        if !self.answers(&holder) {
            return (holder, None);
        }
        (holder, self.node.fetcher.heads_of(holder, Heads::Newest).await)
    }
}
