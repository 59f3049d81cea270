//! The one backup that runs at a time, and who else wants to hear of it.

use backmesh_control::{BackupResult, Event, ExitCode, Failure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Events that a slow listener may be behind; beyond, it misses some.
const EVENTS_WAITING: usize = 256;

/// What a listener hears.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one at a time is handed on; a box each would cost more")]
pub enum Told {
    /// How it goes.
    Event(Event),
    /// How it ended.
    Ended(Result<BackupResult, Failure>),
}

/// At most one backup.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<Option<broadcast::Sender<Told>>>>);

impl Running {
    /// Begins; where one runs already, what is heard of that one.
    ///
    /// # Errors
    /// Where one runs.
    pub fn begin(&self) -> Result<Run, broadcast::Receiver<Told>> {
        let mut running = self.lock();
        match &*running {
            Some(teller) => Err(teller.subscribe()),
            None => {
                let (teller, _) = broadcast::channel(EVENTS_WAITING);
                *running = Some(teller.clone());
                Ok(Run { running: self.clone(), teller })
            }
        }
    }

    /// Whether one runs.
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<broadcast::Sender<Told>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backup that runs, until it is dropped.
#[derive(Debug)]
pub struct Run {
    running: Running,
    teller: broadcast::Sender<Told>,
}

impl Run {
    /// What tells others how it goes.
    pub fn teller(&self) -> broadcast::Sender<Told> {
        self.teller.clone()
    }

    /// It is over.
    pub fn end(self, ended: Result<BackupResult, Failure>) {
        self.teller.send(Told::Ended(ended)).ok();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        *self.running.lock() = None;
    }
}

/// Hears of a backup that someone else began until it has ended.
///
/// # Errors
/// Its own failure, or that it broke off without a word.
pub async fn attend(mut hearing: broadcast::Receiver<Told>, mut tell: impl FnMut(Event)) -> Result<BackupResult, Failure> {
    loop {
        match hearing.recv().await {
            Ok(Told::Event(event)) => tell(event),
            Ok(Told::Ended(ended)) => return ended,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => {
                let failure = Failure::new(ExitCode::Failed, "the backup that was running broke off");
                return Err(failure.with_hint("start it again: backmesh backup goes on from what is stored"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_later_hears_how_it_ends() {
        let running = Running::default();
        let run = running.begin().unwrap();
        let hearing = running.begin().unwrap_err();
        assert!(running.is_running());
        run.end(Ok(BackupResult::default()));
        assert!(attend(hearing, |_| {}).await.is_ok());
        assert!(!running.is_running());

        // A run that panics is dropped without a word.
        let run = running.begin().unwrap();
        let hearing = running.begin().unwrap_err();
        drop(run);
        assert!(attend(hearing, |_| {}).await.unwrap_err().message.contains("broke off"));
        assert!(running.begin().is_ok());
    }
}
