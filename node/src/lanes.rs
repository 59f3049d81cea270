//! Lanes: one pipelined stream per peer for requests that each get one answer. A lane opens its stream with its first request, and
//! anew after it broke; what was under way then is answered with [`Unreachable`], never silently lost. A peer that breaks the protocol,
//! or lets the time run out, is taken notice of ([`Conducts`]).

use crate::conduct::Conducts;
use crate::throttle::{Motion, PacedWay, Throttle};
use backmesh_format::NodeId;
use backmesh_net::{Connection, FrameError, FrameReader, FrameWriter, Net, OpenError, Presence, Protocol};
use backmesh_policy::Offence;
use bytes::Bytes;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Requests that wait in one lane. Two keep a stream busy; more would only hold memory.
const LANE_WAITING: usize = 2;
/// Requests sent on one lane and not yet answered. Holders sync in batches, so many small ones cost one sync.
const LANE_UNANSWERED: usize = 64;
/// How long a peer may take to answer, or nothing may move on the way to it. A desktop's disk that was asleep takes some seconds to
/// wake; a large shard over a slow line takes minutes, and moves all the time.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long opening a stream and its greeting may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// After a stream broke: whose connection is still open then did not simply go away. A new one says nothing: who moved has it soon.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// No connection to the peer, or it broke, or no answer came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not reachable")]
pub struct Unreachable;

/// What both sides say before the first request: done with the stream's two ends, which it gives back, or none where it failed.
pub type Greeting = Arc<
    dyn Fn(NodeId, FrameReader, FrameWriter) -> Pin<Box<dyn Future<Output = Option<(FrameReader, FrameWriter)>> + Send>>
        + Send
        + Sync,
>;

/// How the frames of a lane's answers are read.
pub struct Dialect<A> {
    /// The stream's protocol.
    pub protocol: Protocol,
    /// The longest answer, in bytes.
    pub answer_bytes_max: usize,
    /// The call that a frame answers, and the answer; none for a frame that has no meaning, which ends the stream.
    pub decode: fn(Vec<u8>) -> Option<(u64, A)>,
    /// What is said first.
    pub greeting: Option<Greeting>,
}

struct Job<A> {
    head: Box<dyn FnOnce(u64) -> Vec<u8> + Send>,
    body: Option<Bytes>,
    answer: oneshot::Sender<A>,
}

type Unanswered<A> = Arc<Mutex<HashMap<u64, oneshot::Sender<A>>>>;

/// The lanes of one dialect to all peers.
pub struct Lanes<A> {
    net: Net,
    dialect: Arc<Dialect<A>>,
    lanes: Mutex<HashMap<NodeId, mpsc::Sender<Job<A>>>>,
    bytes_sent: Arc<AtomicU64>,
    way: Arc<Way>,
    conducts: Arc<Conducts>,
}

/// What holds the lanes back, and whether something moves on any of them.
#[derive(Default)]
struct Way {
    sending: Arc<Throttle>,
    receiving: Arc<Throttle>,
    motion: Arc<Motion>,
}

impl<A: Send + 'static> Lanes<A> {
    /// Lanes over `net`; none is open yet, and nothing limits them.
    pub fn new(net: Net, dialect: Dialect<A>) -> Self {
        Self {
            net,
            dialect: Arc::new(dialect),
            lanes: Mutex::default(),
            bytes_sent: Arc::default(),
            way: Arc::default(),
            conducts: Arc::default(),
        }
    }

    /// The same, with what peers do wrong kept here.
    #[must_use]
    pub fn watched(mut self, conducts: &Arc<Conducts>) -> Self {
        self.conducts = Arc::clone(conducts);
        self
    }

    /// The same with a limit for requests and one for answers.
    #[must_use]
    pub fn limited(mut self, sending: Arc<Throttle>, receiving: Arc<Throttle>) -> Self {
        self.way = Arc::new(Way { sending, receiving, motion: Arc::default() });
        self
    }

    /// Whether something moves on any lane.
    pub fn motion(&self) -> &Arc<Motion> {
        &self.way.motion
    }

    /// Queues a request, its bytes being `head` for the call's number and then `body`; what comes back yields the answer. Dropping
    /// the future before it is done takes the request back.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn send(
        &self,
        peer: NodeId,
        head: impl FnOnce(u64) -> Vec<u8> + Send + 'static,
        body: Option<Bytes>,
    ) -> Result<oneshot::Receiver<A>, Unreachable> {
        let (answer, answered) = oneshot::channel();
        self.lane(peer).send(Job { head: Box::new(head), body, answer }).await.map_err(|_| Unreachable)?;
        Ok(answered)
    }

    /// Sends a request without a body and waits for the answer.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn ask(&self, peer: NodeId, head: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> Result<A, Unreachable> {
        self.send(peer, head, None).await?.await.map_err(|_| Unreachable)
    }

    /// All bytes given to streams since the start.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Whether a peer is there.
    pub fn presence(&self, peer: &NodeId) -> Presence {
        self.net.presence(peer)
    }

    /// Whether a request to a peer would be taken up at once: else earlier ones wait already.
    pub fn has_room(&self, peer: NodeId) -> bool {
        self.lane(peer).capacity() > 0
    }

    fn lane(&self, peer: NodeId) -> mpsc::Sender<Job<A>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(peer).or_insert_with(|| {
            let (sender, jobs) = mpsc::channel(LANE_WAITING);
            let (net, dialect, way) = (self.net.clone(), Arc::clone(&self.dialect), Arc::clone(&self.way));
            let to = To { net, dialect, peer, way, conducts: Arc::clone(&self.conducts) };
            tokio::spawn(run_lane(to, jobs, Arc::clone(&self.bytes_sent)));
            sender
        });
        lane.clone()
    }
}

/// Where a lane leads.
struct To<A> {
    net: Net,
    dialect: Arc<Dialect<A>>,
    peer: NodeId,
    way: Arc<Way>,
    conducts: Arc<Conducts>,
}

async fn run_lane<A: Send + 'static>(to: To<A>, mut jobs: mpsc::Receiver<Job<A>>, bytes_sent: Arc<AtomicU64>) {
    let mut open: Option<Line<A>> = None;
    while let Some(job) = jobs.recv().await {
        if open.as_ref().is_none_or(Line::is_broken) {
            open = Line::open(&to).await;
        }
        // Without a stream the job is dropped, and with it its answer: who waits for it learns that the peer cannot be reached.
        let Some(line) = &mut open else { continue };
        match line.send(job, jobs.is_empty()).await {
            Ok(bytes) => {
                bytes_sent.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(unsent) => {
                if let Unsent::Stuck = unsent {
                    to.conducts.note(to.peer, Offence::TimedOut);
                }
                open = None;
            }
        }
    }
}

/// Why a request did not get out.
#[derive(Debug, PartialEq, Eq)]
enum Unsent {
    /// Nothing moved for too long.
    Stuck,
    /// The stream broke. Why, whoever reads the answers finds out: a peer may simply have been switched off.
    Broken,
}

/// An open stream: this side writes requests, a task of its own reads the answers.
struct Line<A> {
    writer: FrameWriter,
    calls: u64,
    unanswered: Unanswered<A>,
    room: Arc<Semaphore>,
    reading: AbortHandle,
    motion: Arc<Motion>,
    protocol: Protocol,
}

impl<A: Send + 'static> Line<A> {
    /// Opens the stream and greets.
    async fn open(to: &To<A>) -> Option<Self> {
        let To { net, dialect, peer, way, conducts } = to;
        let opening = async {
            let (reader, writer) = net.open(*peer, dialect.protocol).await?.split();
            match &dialect.greeting {
                Some(greet) => Ok(greet(*peer, reader, writer).await),
                None => Ok(Some((reader, writer))),
            }
        };
        let (mut reader, mut writer) = match timeout(OPEN_LIMIT, opening).await {
            Ok(Ok(ends)) => ends?,
            Err(_) | Ok(Err(OpenError::Timeout(_))) => {
                conducts.note(*peer, Offence::TimedOut);
                return None;
            }
            Ok(Err(_)) => return None,
        };
        let motion = Arc::default();
        writer.set_pace(Some(PacedWay::new(&way.sending, [&motion, &way.motion])));
        reader.set_pace(Some(PacedWay::new(&way.receiving, [&motion, &way.motion])));
        let unanswered = Unanswered::default();
        let room = Arc::new(Semaphore::new(LANE_UNANSWERED));
        let answers = Answers {
            dialect: Arc::clone(dialect),
            unanswered: Arc::clone(&unanswered),
            room: Arc::clone(&room),
            motion: Arc::clone(&motion),
        };
        let (connection, peer, conducts) = (reader.connection(), *peer, Arc::clone(conducts));
        let reading = tokio::spawn(async move {
            let end = answers.read(reader).await;
            tokio::spawn(judge(end, connection, peer, conducts));
        });
        let (reading, protocol) = (reading.abort_handle(), dialect.protocol);
        Some(Self { writer, calls: 0, unanswered, room, reading, motion, protocol })
    }

    fn is_broken(&self) -> bool {
        self.reading.is_finished()
    }

    /// Writes one request; how many bytes it took.
    async fn send(&mut self, job: Job<A>, flush: bool) -> Result<u64, Unsent> {
        let Self { writer, room, motion, protocol, .. } = self;
        if room.available_permits() == 0 {
            moving(motion, writer.flush()).await?;
        }
        moving(motion, async { room.acquire().await.map_err(|_| FrameError::Disconnected) }).await?.forget();
        self.calls += 1;
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).insert(self.calls, job.answer);
        let head = (job.head)(self.calls);
        let body = job.body.as_ref().map_or(&[][..], |body| body);
        tracing::trace!(protocol = %protocol, kind = head.first(), bytes = head.len() + body.len(), "asks");
        moving(motion, writer.send_parts(&[&head, body])).await?;
        if flush {
            moving(motion, writer.flush()).await?;
        }
        // The stream may have broken between the check and the entry above, and nobody would ever answer.
        if self.is_broken() { Err(Unsent::Broken) } else { Ok((head.len() + body.len()) as u64) }
    }
}

/// Waits for work on a stream for as long as something moves on it.
async fn moving<T>(motion: &Motion, work: impl Future<Output = Result<T, FrameError>>) -> Result<T, Unsent> {
    match motion.while_moving(ANSWER_LIMIT, work).await {
        Some(Ok(done)) => Ok(done),
        None | Some(Err(FrameError::Stalled { .. })) => Err(Unsent::Stuck),
        Some(Err(_)) => Err(Unsent::Broken),
    }
}

impl<A> Drop for Line<A> {
    fn drop(&mut self) {
        self.reading.abort();
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a stream's answers are compared with.
struct Answers<A> {
    dialect: Arc<Dialect<A>>,
    unanswered: Unanswered<A>,
    room: Arc<Semaphore>,
    motion: Arc<Motion>,
}

/// Why no more answers are read.
enum End {
    /// Nothing was owed, or the peer said that it takes no more.
    Clean,
    /// Requests were not answered in time.
    Late,
    /// What came is no answer.
    Nonsense,
    /// The stream broke while answers were owed.
    Broken,
}

impl<A> Answers<A> {
    /// Hands answers to those who wait for them until the stream ends; nobody waits any more after that.
    async fn read(self, mut reader: FrameReader) -> End {
        let end = loop {
            match self.next(&mut reader).await {
                Ok((call, answer)) => {
                    if let Some(waiting) = self.unanswered().remove(&call) {
                        waiting.send(answer).ok();
                        self.room.add_permits(1);
                    } else {
                        // Zero is no request's number: the stream as a whole is refused.
                        break if call == 0 { End::Clean } else { End::Nonsense };
                    }
                }
                Err(end) => break end,
            }
        };
        self.unanswered().clear();
        end
    }

    async fn next(&self, reader: &mut FrameReader) -> Result<(u64, A), End> {
        let frame = reader.next(self.dialect.answer_bytes_max);
        tokio::pin!(frame);
        let owed = || !self.unanswered().is_empty();
        loop {
            return match self.motion.while_moving(ANSWER_LIMIT, &mut frame).await {
                Some(Ok(Some(frame))) => {
                    tracing::trace!(protocol = %self.dialect.protocol, kind = frame.first(), bytes = frame.len(), "is answered");
                    (self.dialect.decode)(frame).ok_or(End::Nonsense)
                }
                Some(Err(FrameError::TooLong { .. })) => Err(End::Nonsense),
                Some(Err(FrameError::Stalled { .. })) if owed() => Err(End::Late),
                Some(Ok(None) | Err(_)) => Err(if owed() { End::Broken } else { End::Clean }),
                None if owed() => Err(End::Late),
                None => continue,
            };
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<A>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes notice of how a stream ended.
async fn judge(end: End, connection: Connection, peer: NodeId, conducts: Arc<Conducts>) {
    match end {
        End::Clean => {}
        End::Late => conducts.note(peer, Offence::TimedOut),
        End::Nonsense => conducts.note(peer, Offence::Protocol),
        End::Broken => {
            tokio::time::sleep(GONE_WITHIN).await;
            if connection.is_open() {
                conducts.note(peer, Offence::Protocol);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_was_switched_off_is_not_said_to_be_late() {
        let motion = Motion::default();
        let ended = async |error| moving(&motion, async { Err::<(), _>(error) }).await;
        assert_eq!(ended(FrameError::Disconnected).await, Err(Unsent::Broken));
        assert_eq!(ended(FrameError::CutOff).await, Err(Unsent::Broken));
        assert_eq!(ended(FrameError::Stalled { stalled: Duration::from_secs(30) }).await, Err(Unsent::Stuck));
    }
}
