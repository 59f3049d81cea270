//! What runs on each connection: accepting and opening streams, and the sign of life.

use crate::Protocol;
use crate::frame::Stream;
use crate::links::{Link, LinkEnd, Links, StreamPermit};
use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{self, StreamUpgradeError, SubstreamProtocol};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};

const ALIVE: &str = "/backmesh/alive/1";
const READY: u8 = 0;
/// How much shorter the intervals are where there is reason to doubt that the peer can still be reached: whoever is there says so after
/// one way there and back, and by default it has 3 s for it. Who is given up wrongly is dialed again a second later.
const HURRY: u32 = 8;
/// Silent intervals until a peer counts as gone; after the first it is asked for a sign of life.
const SILENT_TICKS_MAX: u32 = 3;

/// Why the other side did not take a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no room for more streams now, whoever asks.
    #[error("it is busy")]
    Busy,
    /// This node has too many streams open to it.
    #[error("this node has too many streams open to it")]
    TooManyStreams,
}

impl Refusal {
    const fn code(self) -> u8 {
        match self {
            Self::Busy => 1,
            Self::TooManyStreams => 2,
        }
    }
}

/// A wish for a stream.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) protocol: Protocol,
    pub(crate) permit: StreamPermit,
    pub(crate) reply: oneshot::Sender<Result<Stream, OpenFault>>,
}

/// Why one attempt to open a stream failed.
#[derive(Debug)]
pub(crate) enum OpenFault {
    Refused(Refusal),
    Unsupported,
    Timeout,
    Lost,
}

/// What a connection tells the node.
#[derive(Debug)]
pub(crate) enum HandlerEvent {
    Inbound { protocol: Protocol, stream: Stream, waiting: OwnedSemaphorePermit },
    Silent,
}

/// One per connection.
pub(crate) struct Handler {
    links: Arc<Links>,
    end: LinkEnd,
    events: VecDeque<HandlerEvent>,
    ticks: Interval,
    hurried: bool,
    doubted: BoxFuture<'static, Option<watch::Receiver<()>>>,
    activity_seen: u64,
    silent_ticks: u32,
    asking: bool,
    ask: bool,
}

impl Handler {
    pub(crate) fn new(links: Arc<Links>, end: LinkEnd) -> Self {
        let ticks = ticks_of(links.limits.alive_interval);
        let doubted = next_doubt(end.link.doubts());
        Self {
            links,
            end,
            events: VecDeque::new(),
            ticks,
            hurried: false,
            doubted,
            activity_seen: 0,
            silent_ticks: 0,
            asking: false,
            ask: false,
        }
    }

    /// The peer is asked for a sign of life at once, and has less time for it.
    fn on_doubt(&mut self) {
        self.activity_seen = self.end.link.activity();
        (self.hurried, self.silent_ticks, self.ask) = (true, 0, !self.asking);
        self.ticks = ticks_of(self.links.limits.alive_interval / HURRY);
    }

    fn on_tick(&mut self) {
        let activity = self.end.link.activity();
        if activity != self.activity_seen {
            self.activity_seen = activity;
            self.silent_ticks = 0;
            self.end.link.set_silent(false);
            if std::mem::take(&mut self.hurried) {
                self.ticks = ticks_of(self.links.limits.alive_interval);
            }
            return;
        }
        self.silent_ticks += 1;
        self.ask = !self.asking;
        self.end.link.set_silent(self.silent_ticks > 1);
        if self.silent_ticks == SILENT_TICKS_MAX {
            self.events.push_back(HandlerEvent::Silent);
        }
    }

    fn request(&self, wish: Wish) -> ConnectionHandlerEvent<Opening, Wish, HandlerEvent> {
        let limits = &self.links.limits;
        let (opening, timeout) = match &wish {
            Wish::Alive => (Opening(ALIVE), limits.alive_interval * SILENT_TICKS_MAX),
            Wish::Stream(request) => (Opening(request.protocol.name()), limits.open_timeout),
        };
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: SubstreamProtocol::new(opening, wish).with_timeout(timeout) }
    }

    fn on_opened(&mut self, opened: Opened, wish: Wish) {
        match (wish, opened) {
            (Wish::Stream(request), Opened::Stream(socket)) => {
                let stream = Stream::new(socket, self.end.link.clone(), request.permit);
                self.end.link.touch();
                // A caller that stopped waiting drops the stream, which resets it.
                let _ = request.reply.send(Ok(stream));
            }
            (Wish::Stream(request), Opened::Refused(refusal)) => {
                self.end.link.touch();
                let _ = request.reply.send(Err(OpenFault::Refused(refusal)));
            }
            (Wish::Stream(request), Opened::Alive) => {
                let _ = request.reply.send(Err(OpenFault::Lost));
            }
            (Wish::Alive, _) => {
                self.asking = false;
                self.end.link.touch();
            }
        }
    }

    fn on_open_failed(&mut self, error: &StreamUpgradeError<io::Error>, wish: Wish) {
        let Wish::Stream(request) = wish else {
            self.asking = false;
            return;
        };
        let fault = match error {
            StreamUpgradeError::Timeout => OpenFault::Timeout,
            StreamUpgradeError::NegotiationFailed => OpenFault::Unsupported,
            StreamUpgradeError::Apply(_) | StreamUpgradeError::Io(_) => OpenFault::Lost,
        };
        let _ = request.reply.send(Err(fault));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = HandlerEvent;
    type InboundProtocol = Accepting;
    type OutboundProtocol = Opening;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Wish;

    fn listen_protocol(&self) -> SubstreamProtocol<Accepting> {
        SubstreamProtocol::new(Accepting { links: self.links.clone(), link: self.end.link.clone() }, ())
            .with_timeout(self.links.limits.open_timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        !self.end.link.is_extra()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Opening, Wish, HandlerEvent>> {
        while let Poll::Ready(doubts) = self.doubted.poll_unpin(cx) {
            self.doubted = doubts.map_or_else(|| std::future::pending().boxed(), next_doubt);
            self.on_doubt();
        }
        while self.ticks.poll_tick(cx).is_ready() {
            self.on_tick();
        }
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if std::mem::take(&mut self.ask) {
            self.asking = true;
            return Poll::Ready(self.request(Wish::Alive));
        }
        while let Poll::Ready(Some(request)) = self.end.requests.poll_recv(cx) {
            if !request.reply.is_closed() {
                return Poll::Ready(self.request(Wish::Stream(request)));
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Accepting, Opening, (), Wish>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: accepted, .. }) => {
                self.end.link.touch();
                // At most `streams_waiting_max` for each protocol, as each holds its place.
                self.events.extend(accepted);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: opened, info }) => {
                self.on_opened(opened, info);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => self.on_open_failed(&error, info),
            _ => {}
        }
    }
}

fn ticks_of(interval: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for a reason to doubt the link; gives what the next one is waited for with.
fn next_doubt(mut doubts: watch::Receiver<()>) -> BoxFuture<'static, Option<watch::Receiver<()>>> {
    async move { doubts.changed().await.ok().map(|()| doubts) }.boxed()
}

/// What an outbound stream is for.
#[derive(Debug)]
pub(crate) enum Wish {
    Stream(OpenRequest),
    Alive,
}

/// The accepting side of a stream: takes it in or says by name why not.
pub(crate) struct Accepting {
    links: Arc<Links>,
    link: Arc<Link>,
}

impl UpgradeInfo for Accepting {
    type Info = &'static str;
    type InfoIter = [&'static str; 4];

    fn protocol_info(&self) -> Self::InfoIter {
        let [mesh, store, read] = Protocol::ALL.map(Protocol::name);
        [mesh, store, read, ALIVE]
    }
}

impl InboundUpgrade<swarm::Stream> for Accepting {
    type Output = Option<HandlerEvent>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, io::Error>>;

    fn upgrade_inbound(self, socket: swarm::Stream, name: &'static str) -> Self::Future {
        accept(self, socket, name).boxed()
    }
}

async fn accept(at: Accepting, mut socket: swarm::Stream, name: &'static str) -> io::Result<Option<HandlerEvent>> {
    let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name) else {
        let mut byte = [0];
        socket.read_exact(&mut byte).await?;
        socket.write_all(&byte).await?;
        socket.close().await?;
        return Ok(None);
    };
    match at.links.admit(&at.link, protocol) {
        Ok((permit, waiting)) => {
            socket.write_all(&[READY]).await?;
            socket.flush().await?;
            Ok(Some(HandlerEvent::Inbound { protocol, stream: Stream::new(socket, at.link, permit), waiting }))
        }
        Err(refusal) => {
            tracing::debug!(peer = ?at.link.peer, %protocol, %refusal, "a stream was refused");
            socket.write_all(&[refusal.code()]).await?;
            socket.close().await?;
            Ok(None)
        }
    }
}

/// The opening side of a stream: learns whether it was taken.
pub(crate) struct Opening(&'static str);

impl UpgradeInfo for Opening {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0)
    }
}

/// What became of an opened stream.
pub(crate) enum Opened {
    Stream(swarm::Stream),
    Refused(Refusal),
    Alive,
}

impl OutboundUpgrade<swarm::Stream> for Opening {
    type Output = Opened;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Opened, io::Error>>;

    fn upgrade_outbound(self, socket: swarm::Stream, name: &'static str) -> Self::Future {
        open(socket, name).boxed()
    }
}

async fn open(mut socket: swarm::Stream, name: &'static str) -> io::Result<Opened> {
    let mut byte = [0];
    if name == ALIVE {
        socket.write_all(&byte).await?;
        socket.flush().await?;
        socket.read_exact(&mut byte).await?;
        return Ok(Opened::Alive);
    }
    socket.read_exact(&mut byte).await?;
    match byte[0] {
        READY => Ok(Opened::Stream(socket)),
        2 => Ok(Opened::Refused(Refusal::TooManyStreams)),
        _ => Ok(Opened::Refused(Refusal::Busy)),
    }
}
