//! What a running piece of work tells the person who asked for it, and how it learns that nobody waits for it any more.

use crate::pace::Pace;
use crate::running::Told;
use backmesh_control::{Event, Problem, Progress};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};

/// Events that wait for a slow reader. Progress beyond is dropped, all else waits.
const EVENTS_WAITING: usize = 256;
/// How soon work that only waits notices that it should end.
const STOPPED_EVERY: Duration = Duration::from_millis(250);

/// One end of a conversation; cheap to clone, usable from threads and tasks.
#[derive(Clone)]
pub struct Report {
    events: mpsc::Sender<Event>,
    problems: Arc<AtomicU64>,
    pace: Arc<Mutex<Pace>>,
    began: Instant,
    stopped: Arc<AtomicBool>,
    ending: Ending,
    background: bool,
    hearers: Option<broadcast::Sender<Told>>,
}

/// Whether the whole process is to end: looked at by all work at its next safe point.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Asks all work to end.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Report {
    /// A report and the events that come out of it.
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        Self::until(Ending::default())
    }

    /// A report of work that also stops when the process ends, and the events that come out of it.
    pub fn until(ending: Ending) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS_WAITING);
        (
            Self {
                events,
                problems: Arc::default(),
                pace: Arc::default(),
                began: Instant::now(),
                stopped: Arc::default(),
                ending,
                background: false,
                hearers: None,
            },
            receiver,
        )
    }

    /// The same for work that nobody waits for.
    #[must_use]
    pub fn in_background(self) -> Self {
        Self { background: true, ..self }
    }

    /// The same, with all that is told also told to others.
    #[must_use]
    pub fn heard_by(&self, hearers: broadcast::Sender<Told>) -> Self {
        Self { hearers: Some(hearers), ..self.clone() }
    }

    /// Tells what others' work says, where this work only waits for it.
    pub fn pass_on(&self, event: Event) {
        if matches!(event, Event::Problem(_)) {
            self.problems.fetch_add(1, Ordering::Relaxed);
        }
        self.events.try_send(event).ok();
    }

    /// Returns once the work should end.
    pub async fn stopped(&self) {
        while !self.is_stopped() {
            tokio::time::sleep(STOPPED_EVERY).await;
        }
    }

    /// Whether nobody waits for the work: its threads leave the machine to others.
    pub fn is_in_background(&self) -> bool {
        self.background
    }

    /// Tells how far the work is, with its rate and the time that is left, unless the reader is behind.
    pub fn progress(&self, mut progress: Progress) {
        // A few words in between say nothing of how far it is.
        if progress.message.is_none() || progress.bytes > 0 {
            self.pace.lock().unwrap_or_else(PoisonError::into_inner).note(self.began.elapsed(), &mut progress);
        }
        self.let_hear(&Event::Progress(progress.clone()));
        self.events.try_send(Event::Progress(progress)).ok();
    }

    /// Tells of something that went wrong and did not stop the work; from a thread of its own, not from a task.
    pub fn problem(&self, problem: Problem) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.let_hear(&Event::Problem(problem.clone()));
        self.events.blocking_send(Event::Problem(problem)).ok();
    }

    fn let_hear(&self, event: &Event) {
        if let Some(hearers) = &self.hearers {
            hearers.send(Told::Event(event.clone())).ok();
        }
    }

    /// How many problems there have been.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// Tells anything, from a thread of its own, not from a task.
    pub fn tell(&self, event: Event) {
        self.events.blocking_send(event).ok();
    }

    /// Tells anything, from a task.
    pub async fn send(&self, event: Event) {
        self.events.send(event).await.ok();
    }

    /// Asks the work to end at its next safe point.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the work should end: it was asked to, or nobody listens, or the process ends.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.events.is_closed() || self.ending.is_begun()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stops_when_it_is_asked_to_when_nobody_listens_and_when_the_process_ends() {
        let ending = Ending::default();
        let ((first, _events), (second, _more), (third, gone)) =
            (Report::until(ending.clone()), Report::until(ending.clone()), Report::until(ending.clone()));
        drop(gone);
        second.stop();
        assert!(!first.is_stopped() && second.is_stopped() && third.is_stopped());
        ending.begin();
        assert!(first.is_stopped());
    }
}
