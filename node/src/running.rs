//! The one backup that runs at a time, and who else wants to hear of it.

use backmesh_control::{BackupResult, Event, ExitCode, Failure};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

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

/// At most one backup, or one short work that none may run beside.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<Option<Turn>>>);

/// Whose turn it is.
#[derive(Debug)]
struct Turn {
    teller: broadcast::Sender<Told>,
    is_backup: bool,
}

impl Running {
    /// Begins, after other work that keeps backups away; where a backup runs already, what is heard of that one.
    ///
    /// # Errors
    /// Where one runs.
    pub async fn begin(&self) -> Result<Run, broadcast::Receiver<Told>> {
        loop {
            match self.take(true) {
                Ok(run) => return Ok(run),
                Err((hearing, true)) => return Err(hearing),
                // Nothing is told of it but its end.
                Err((mut hearing, false)) => while !matches!(hearing.recv().await, Err(RecvError::Closed)) {},
            }
        }
    }

    /// Keeps backups away for a short work that nobody hears of; none where one runs, or other such work does.
    pub fn begin_quietly(&self) -> Option<Run> {
        self.take(false).ok()
    }

    fn take(&self, is_backup: bool) -> Result<Run, (broadcast::Receiver<Told>, bool)> {
        let mut running = self.lock();
        match &*running {
            Some(turn) => Err((turn.teller.subscribe(), turn.is_backup)),
            None => {
                let (teller, _) = broadcast::channel(EVENTS_WAITING);
                *running = Some(Turn { teller: teller.clone(), is_backup });
                Ok(Run { running: self.clone(), teller, ended: None })
            }
        }
    }

    /// Whether a backup runs.
    pub fn is_running(&self) -> bool {
        self.lock().as_ref().is_some_and(|turn| turn.is_backup)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backup that runs, until it is dropped.
#[derive(Debug)]
pub struct Run {
    running: Running,
    teller: broadcast::Sender<Told>,
    ended: Option<Result<BackupResult, Failure>>,
}

impl Run {
    /// What tells others how it goes.
    pub fn teller(&self) -> broadcast::Sender<Told> {
        self.teller.clone()
    }

    /// It is over.
    pub fn end(mut self, ended: Result<BackupResult, Failure>) {
        self.ended = Some(ended);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Under the lock, so that whoever still finds it running also hears how it ended.
        let mut running = self.running.lock();
        if let Some(ended) = self.ended.take() {
            self.teller.send(Told::Ended(ended)).ok();
        }
        *running = None;
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
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => {
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
        let run = running.begin().await.unwrap();
        let hearing = running.begin().await.unwrap_err();
        assert!(running.is_running() && running.begin_quietly().is_none());
        run.end(Ok(BackupResult::default()));
        assert!(attend(hearing, |_| {}).await.is_ok());
        assert!(!running.is_running());

        // A run that panics is dropped without a word.
        let run = running.begin().await.unwrap();
        let hearing = running.begin().await.unwrap_err();
        drop(run);
        assert!(attend(hearing, |_| {}).await.unwrap_err().message.contains("broke off"));
        assert!(running.begin().await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_backup_is_waited_for_and_not_taken_for_one() {
        let running = Running::default();
        let quiet = running.begin_quietly().unwrap();
        assert!(!running.is_running() && running.begin_quietly().is_none());
        let begin = running.begin();
        tokio::pin!(begin);
        assert!(futures::poll!(&mut begin).is_pending());
        drop(quiet);
        let run = begin.await.expect("no backup runs");
        assert!(running.is_running());
        run.end(Ok(BackupResult::default()));
    }

    /// Whoever begins at the very end of a run either hears of it or runs itself.
    #[test]
    fn no_run_ends_unheard() {
        let running = Running::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..2000 {
            let run = runtime.block_on(running.begin()).unwrap();
            let ending = std::thread::spawn(|| run.end(Ok(BackupResult::default())));
            if let Err(hearing) = runtime.block_on(running.begin()) {
                runtime.block_on(attend(hearing, |_| {})).expect("it ended well");
            }
            ending.join().unwrap();
        }
    }
}
