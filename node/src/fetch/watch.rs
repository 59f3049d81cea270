//! Answers that do not come: when others are asked beside a holder, and when it counts as one that stalls.
//!
//! What is usual is learnt from all holders together, as the median of their last answers: fewer than half of them can lie about it.
//! Over a slow line everyone is slow and nobody is asked twice; in a fast network the slow one is replaced after a fraction of a second.

use super::Fetcher;
use crate::conduct::Conducts;
use crate::throttle::Motion;
use backmesh_format::NodeId;
use backmesh_mesh::message::{ReadReply, ReadRequest, Refusal};
use backmesh_policy::Offence;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Answers that are remembered.
const ANSWERS_KEPT: usize = 64;
/// Fewer say nothing.
const ANSWERS_MIN: usize = 4;
/// When another shard is asked for beside one, while nothing is known, in milliseconds.
const HEDGE_UNKNOWN_MS: u64 = 300;
/// The least and the most of that. A machine whose processor is busy with something else answers after some hundred milliseconds; a
/// large shard over a slow line takes long.
const HEDGE_MS: (u64, u64) = (150, 15_000);
/// How many times what is usual an answer may take.
const TIMES_USUAL: u64 = 4;
/// The least time after which a holder that has not answered counts as one that stalls, in milliseconds.
const STALL_MS: u64 = 1500;

/// How long answers take.
#[derive(Default)]
pub(super) struct Usual(Mutex<VecDeque<u64>>);

impl Usual {
    pub(super) fn note(&self, took: Duration) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_KEPT {
            answers.pop_front();
        }
        answers.push_back(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// The median of the last answers, in milliseconds.
    fn median_ms(&self) -> Option<u64> {
        let mut answers: Vec<u64> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let middle = answers.len() / 2;
        (answers.len() >= ANSWERS_MIN).then(|| *answers.select_nth_unstable(middle).1)
    }

    /// How long a holder may take before others are asked beside it.
    pub(super) fn hedge_after(&self) -> Duration {
        let usual = self.median_ms().map_or(HEDGE_UNKNOWN_MS, |median| median.saturating_mul(TIMES_USUAL));
        Duration::from_millis(usual.clamp(HEDGE_MS.0, HEDGE_MS.1))
    }

    fn stall_after(&self) -> Duration {
        self.hedge_after().max(Duration::from_millis(STALL_MS))
    }
}

/// An answer, and whether it came before others were asked beside its holder.
pub(super) struct Answer {
    pub(super) reply: ReadReply,
    pub(super) timely: bool,
}

/// Why a holder did not give what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// It did not answer, or is too busy to: it may give it later.
    Silent,
    /// It answered.
    Denied,
}

impl Lack {
    /// What it is where an answer does not have what was asked for.
    pub(super) fn of(answer: Option<&Answer>) -> Self {
        match answer.map(|answer| &answer.reply) {
            None | Some(ReadReply::Refused { reason: Refusal::Busy, .. }) => Self::Silent,
            Some(_) => Self::Denied,
        }
    }
}

/// An answer on its way. Dropped before it is there, it goes on being watched: whoever is passed over for being slow is known for it.
struct Awaited {
    answer: Option<oneshot::Receiver<ReadReply>>,
    holder: NodeId,
    stalls_at: Instant,
    motion: Arc<Motion>,
    conducts: Arc<Conducts>,
}

impl Awaited {
    /// The answer; none where the holder could not be reached.
    async fn reply(&mut self) -> Option<ReadReply> {
        let reply = match &mut self.answer {
            Some(answer) => answer.await,
            None => return None,
        };
        self.answer = None;
        reply.ok()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let (Some(answer), Ok(runtime)) = (self.answer.take(), tokio::runtime::Handle::try_current()) else { return };
        let (holder, stalls_at) = (self.holder, self.stalls_at);
        let (motion, conducts) = (Arc::clone(&self.motion), Arc::clone(&self.conducts));
        runtime.spawn(async move {
            let late = tokio::time::timeout_at(stalls_at, answer).await.is_err();
            // Under a limit of this node that holds answers back, nobody is slow.
            if late && !motion.is_held() {
                conducts.note(holder, Offence::Stalled);
            }
        });
    }
}

impl Fetcher {
    /// Asks a holder; none where it cannot be reached. Whoever has not answered when others are asked beside it has failed once, and all
    /// who wait for something else of it learn so at once; the caller notes how it ended ([`Fetcher::note_rank`]).
    pub(super) async fn ask(&self, holder: NodeId, request: impl FnOnce(u64) -> ReadRequest + Send + 'static) -> Option<Answer> {
        let answer = self.answer(holder, request);
        tokio::pin!(answer);
        let (reply, timely) = tokio::select! {
            biased;
            answer = &mut answer => (answer, true),
            () = self.lanes.motion().pass(self.usual.hedge_after()) => {
                self.ranks.note(holder, false);
                (answer.await, false)
            }
        };
        let answer = Answer { reply: reply?, timely };
        if Lack::of(Some(&answer)) != Lack::Silent {
            self.patience.answered(holder);
        }
        Some(answer)
    }

    /// Notes how a question ended. A right answer that came late does not make a holder trusted: it would be waited for again.
    pub(super) fn note_rank(&self, holder: NodeId, answer: Option<&Answer>, well: bool) {
        if !well || answer.is_some_and(|answer| answer.timely) {
            self.ranks.note(holder, well);
        }
    }

    /// Asks a doubtful holder for something that nobody waits for, now and then, to learn whether it answers as others do again.
    pub(super) async fn probe_rank(
        &self,
        holder: NodeId,
        request: impl FnOnce(u64) -> ReadRequest + Send + 'static,
        is_right: impl FnOnce(ReadReply) -> bool + Send + 'static,
    ) {
        if !self.lanes.has_room(holder) || !self.ranks.begin_probe(&holder, Instant::now()) {
            return;
        }
        let awaited = self.begin(holder, request).await;
        let (ranks, motion, in_time) = (Arc::clone(&self.ranks), Arc::clone(self.lanes.motion()), self.usual.hedge_after());
        tokio::spawn(async move {
            let well = match awaited {
                Some(mut awaited) => tokio::select! {
                    reply = awaited.reply() => reply.is_some_and(is_right),
                    () = motion.pass(in_time) => false,
                },
                None => false,
            };
            ranks.end_probe(holder, well, Instant::now());
        });
    }

    async fn answer(&self, holder: NodeId, request: impl FnOnce(u64) -> ReadRequest + Send + 'static) -> Option<ReadReply> {
        let began = Instant::now();
        let reply = self.begin(holder, request).await?.reply().await;
        if reply.is_some() {
            self.usual.note(began.elapsed());
        }
        reply
    }

    async fn begin(&self, holder: NodeId, request: impl FnOnce(u64) -> ReadRequest + Send + 'static) -> Option<Awaited> {
        let began = Instant::now();
        let answer = self.lanes.send(holder, move |call| request(call).encode(), None).await.ok()?;
        Some(Awaited {
            answer: Some(answer),
            holder,
            stalls_at: began + self.usual.stall_after(),
            motion: Arc::clone(self.lanes.motion()),
            conducts: Arc::clone(&self.conducts),
        })
    }

    /// Takes notice of a holder's answer that is not what it should be.
    pub(super) fn note(&self, holder: NodeId, offence: Offence) {
        self.conducts.note(holder, offence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: &[u64]) -> u64 {
        let usual = Usual::default();
        answers.iter().for_each(|ms| usual.note(Duration::from_millis(*ms)));
        usual.hedge_after().as_millis() as u64
    }

    #[test]
    fn what_is_usual_is_learnt_and_a_few_cannot_change_it() {
        assert_eq!(after(&[]), HEDGE_UNKNOWN_MS);
        assert_eq!(after(&[9000, 9000, 9000]), HEDGE_UNKNOWN_MS, "too few to tell");
        assert_eq!(after(&[1; 64]), HEDGE_MS.0);
        assert_eq!(after(&[200; 64]), 800);
        assert_eq!(after(&[3000; 64]), 12_000, "a slow line is slow for all");
        assert_eq!(after(&[u64::MAX; 64]), HEDGE_MS.1);
        let some_lie: Vec<u64> = (0..64).map(|at| if at % 5 < 2 { 30_000 } else { 100 }).collect();
        assert_eq!(after(&some_lie), 400);
        let then_better = [vec![5000; 200], vec![100; 64]].concat();
        assert_eq!(after(&then_better), 400, "what was long ago is forgotten");
    }
}
