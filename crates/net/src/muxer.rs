//! Yamux with our own bounds: many streams share one connection, each with its own window.
//!
//! libp2p's own wrapper lets the windows of one connection grow to 1 GiB, sends in pieces of 16 KiB and may wait for ever while it
//! closes a connection whose other end is gone. This one bounds all three. The wire is Yamux as published:
//! <https://github.com/hashicorp/yamux/blob/master/spec.md>.

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use std::collections::VecDeque;
use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use yamux::{Connection, ConnectionError, Mode};

/// Streams of one connection, both directions and those still being negotiated. More end the connection, so the bounds on streams
/// in [`crate::Limits`] must stay well below.
const STREAMS_MAX: usize = 512;
/// Yamux promises each stream this window; the specification's number.
const STREAM_WINDOW_BYTES: usize = 256 << 10;
/// The largest piece that is sent at once. Larger pieces cost less; smaller ones let other streams in sooner. With its header of 12
/// bytes it fits into one message of Noise (at most 64,511 bytes in libp2p) and into what TLS takes at once: what does not fit would be sealed and
/// sent by itself.
const SEND_BYTES_MAX: usize = 64_000;
/// Streams that the peer opened and nobody has taken yet. Yamux peers stop at 256 unanswered ones by themselves.
const INBOUND_WAITING_MAX: usize = 256;
/// How long a connection may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to share a connection; see [`Muxer`].
#[derive(Clone)]
pub(crate) struct Config(yamux::Config);

impl Config {
    /// `receive_window_bytes` is what the peer may have in flight in all, beyond each stream's own 256 KiB.
    pub(crate) fn new(receive_window_bytes: usize) -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        config.set_max_connection_receive_window(Some(STREAMS_MAX * STREAM_WINDOW_BYTES + receive_window_bytes));
        config.set_split_send_size(SEND_BYTES_MAX);
        Self(config)
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Muxer<C>, io::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(socket, self.0, Mode::Server))))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Muxer<C>, io::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(Connection::new(socket, self.0, Mode::Client))))
    }
}

/// One connection and its streams.
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    /// Streams of the peer that arrived while no one asked for one: Yamux only makes progress by handing them out.
    waiting: VecDeque<yamux::Stream>,
    waker: Option<Waker>,
    closing: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(connection: Connection<C>) -> Self {
        Self { connection, waiting: VecDeque::new(), waker: None, closing: None }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, MuxerError>> {
        self.connection.poll_next_inbound(cx).map(|next| match next {
            Some(stream) => stream.map_err(MuxerError::Yamux),
            None => Err(MuxerError::Yamux(ConnectionError::Closed)),
        })
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = MuxerError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.poll_connection(cx);
        if polled.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        self.connection.poll_new_outbound(cx).map_err(MuxerError::Yamux)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = &mut *self;
        if let Poll::Ready(closed) = this.connection.poll_close(cx) {
            return Poll::Ready(closed.map_err(MuxerError::Yamux));
        }
        let deadline = this.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        deadline.as_mut().poll(cx).map(|()| Err(MuxerError::CloseTimeout))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let stream = match self.poll_connection(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(stream) => stream?,
        };
        if self.waiting.len() < INBOUND_WAITING_MAX {
            self.waiting.push_back(stream);
        } else {
            tracing::warn!("a peer opens streams faster than Yamux allows, one was reset");
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxerError {
    #[error(transparent)]
    Yamux(ConnectionError),
    #[error("the peer did not take the goodbye within {} seconds", CLOSE_TIMEOUT.as_secs())]
    CloseTimeout,
}

impl From<MuxerError> for io::Error {
    fn from(error: MuxerError) -> Self {
        match error {
            MuxerError::Yamux(ConnectionError::Io(error)) => error,
            other => Self::other(other),
        }
    }
}
