//! The control socket: one request a connection, answered with lines of events. The socket's file mode is its guard (0600).

use crate::node::Node;
use crate::report::{Ending, Report};
use crate::{backup, browse, check, key, restore, status};
use backmesh_control::{Answer, Event, ExitCode, Failure, REQUEST_BYTES_MAX, Request, serve_line};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Conversations at once. A person has a few; a runaway script must not take the agent down.
const CONVERSATIONS_MAX: usize = 32;
/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// All conversations of an agent; cheap to clone.
#[derive(Clone)]
pub struct Conversations {
    room: Arc<Semaphore>,
    ending: Ending,
}

impl Default for Conversations {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(CONVERSATIONS_MAX)), ending: Ending::default() }
    }
}

impl Conversations {
    /// Answers until the task is dropped.
    pub async fn serve(self, listener: UnixListener, node: Arc<Node>) {
        loop {
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (node, ending) = (Arc::clone(&node), self.ending.clone());
                    tokio::spawn(async move {
                        converse(stream, node, ending).await.ok();
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: others are closed in time.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// A place for work that runs like a conversation, and what tells it to end; none where there are too many.
    pub fn begin(&self) -> Option<(OwnedSemaphorePermit, Ending)> {
        let place = Arc::clone(&self.room).try_acquire_owned().ok()?;
        Some((place, self.ending.clone()))
    }

    /// Lets all work stop at its next safe point and waits for that, but not beyond `limit`. To be called once nobody serves any more.
    pub async fn end(&self, limit: Duration) {
        self.ending.begin();
        let all = self.room.acquire_many(CONVERSATIONS_MAX as u32);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("what runs did not stop within {limit:?}; the next run goes on from what is safe");
        }
    }
}

async fn converse(stream: UnixStream, node: Arc<Node>, ending: Ending) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(REQUEST_BYTES_MAX as u64 + 1));
    let mut line = Vec::new();
    if tokio::time::timeout(REQUEST_LIMIT, reader.read_until(b'\n', &mut line)).await.is_err() {
        return Ok(());
    }
    let request = match serve_line(&line) {
        Ok(request) => request,
        Err(failure) => return write.write_all(Event::Error(failure).to_line().as_bytes()).await,
    };
    let (report, mut events) = Report::until(ending);
    let work = tokio::spawn(answer(Arc::clone(&node), request, report.clone()));
    // A client that goes away asks for the work to stop; its closing shows as the end of what it sends.
    let gone = {
        let report = report.clone();
        tokio::spawn(async move {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await.ok();
            report.stop();
        })
    };
    drop(report);
    while let Some(event) = events.recv().await {
        if write.write_all(event.to_line().as_bytes()).await.is_err() {
            break;
        }
        if let Event::Data { content, .. } = &event
            && write.write_all(content).await.is_err()
        {
            break;
        }
        if event.end().is_some() {
            break;
        }
    }
    gone.abort();
    drop(events);
    work.await.ok();
    if node.is_to_begin_anew() {
        // The connection ends with this process: so the client knows when nothing of it is left.
        std::mem::forget(write);
        node.begin_anew();
        return Ok(());
    }
    write.shutdown().await
}

async fn answer(node: Arc<Node>, request: Request, report: Report) {
    let end = match request {
        Request::Backup => backup::back_up_or_attend(&node, &report).await.map(Answer::from),
        Request::Snapshots => browse::snapshots(&node).await.map(Answer::from),
        Request::Ls { snapshot, path, recursive } => {
            match browse::list(&node, &snapshot, path.as_ref(), recursive, &report).await {
                Ok(end) => return report.send(end).await,
                Err(failure) => Err(failure),
            }
        }
        Request::Diff { before, after, paths, metadata } => {
            let wish = browse::DiffWish { before, after, paths, metadata };
            match browse::diff(&node, wish, &report).await {
                Ok(end) => return report.send(end).await,
                Err(failure) => Err(failure),
            }
        }
        Request::Find(wish) => match browse::find(&node, wish, &report).await {
            Ok(end) => return report.send(end).await,
            Err(failure) => Err(failure),
        },
        Request::Dump { snapshot, path, tar } => {
            let wish = browse::DumpWish { snapshot, path, tar };
            browse::dump(&node, wish, &report).await.map(Answer::from)
        }
        Request::Stats { snapshot } => browse::stats(&node, snapshot, &report).await.map(Answer::from),
        Request::Restore { snapshot, paths, to, delete, dry_run, numeric_owners, include, exclude } => {
            let wish = restore::Wish { snapshot, paths, to, delete, dry_run, numeric_owners, include, exclude };
            match restore::restore(&node, wish, &report).await {
                Ok(end) => return report.send(end).await,
                Err(failure) => Err(failure),
            }
        }
        Request::Status => Ok(status::status(&node).await.into()),
        Request::Peers => Ok(status::peers(&node).await.into()),
        Request::Check { snapshots, read_percent, run } => {
            check::check(&node, check::Wish { snapshots, read_percent, run }, &report).await.map(Answer::from)
        }
        Request::Key { action } => key::key(&node, action).await.map(Answer::from),
        Request::Schedule => Ok(node.schedule.result(&node).await.into()),
        Request::Reload => node.reload().map(|()| Answer::Reload),
        Request::Shutdown => {
            report.send(Event::Result { more: false, answer: Answer::Shutdown }).await;
            return node.stop();
        }
    };
    report.send(end.map_or_else(Event::Error, |answer| Event::Result { more: false, answer })).await;
}

/// A failure of the kind that nothing special is known about.
pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(ExitCode::Failed, error.to_string())
}
