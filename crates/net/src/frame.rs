//! Frames on a stream: a length as `u32` little-endian, then so many bytes. The length 0xFFFF_FFFF ends a direction, so that a
//! connection that breaks between two frames is never mistaken for an end.
//!
//! A length is only believed as its bytes arrive: memory grows by doubling from 64 KiB. Back-pressure is Yamux's: a writer waits once
//! the peer's window is full, and the window opens as the peer reads.

use crate::intake::{Begun, Intake, STEP_BYTES};
use crate::links::{Link, StreamPermit};
use backmesh_format::NodeId;
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::swarm;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A write that waited so long was waiting for the peer, and not for its turn on this machine.
const ROOM_AFTER: Duration = Duration::from_millis(20);
pub(crate) const END: u32 = u32::MAX;
pub(crate) const HEADER_BYTES: usize = 4;
/// What small frames are gathered into before they are sent.
const BUFFER_BYTES: usize = 16 << 10;
const STALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Why a frame was not read or written. After any error but [`FrameError::Idle`] the stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced, or this node wanted to send, more than allowed.
    #[error("a frame of {bytes} bytes, allowed are {bytes_max}")]
    TooLong {
        /// What was announced.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// The stream ended without its end mark: the peer dropped it, or the connection broke.
    #[error("the stream was cut off by the peer or by a broken connection")]
    CutOff,
    /// The connection was closed, on this side or because the peer went silent.
    #[error("the connection is closed")]
    Disconnected,
    /// The peer stopped in the middle of a frame, or reads nothing.
    #[error("the peer moved too little for {} seconds", stalled.as_secs())]
    Stalled {
        /// How long this side waited.
        stalled: Duration,
    },
    /// No frame began for as long as the reader was told to wait. The next call goes on waiting.
    #[error("nothing came for {} seconds", waited.as_secs())]
    Idle {
        /// How long this side waited.
        waited: Duration,
    },
    /// An earlier write was given up half-way, so the peer could no longer tell the frames apart.
    #[error("an earlier frame was not written to its end")]
    Broken,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Holds a direction of a stream back, and learns what moved on it.
///
/// The time that a stream is held back by its own side counts for none of its limits: the peer is not slow because of it.
pub trait Pace: Send + Sync + 'static {
    /// How much to move at once, in bytes: little where much time passes between one piece and the next.
    fn piece_bytes_max(&self) -> usize;

    /// Learns of so many bytes, read or written just now; what is to be waited for before the next, if anything.
    fn moved(&self, bytes: usize) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>>;
}

fn piece_bytes_max(pace: Option<&Arc<dyn Pace>>) -> usize {
    pace.map_or(usize::MAX, |pace| pace.piece_bytes_max().max(1))
}

/// Waits for what a pace asks, but not beyond the connection.
async fn keep_pace(pace: Option<&Arc<dyn Pace>>, bytes: usize, closed: &mut watch::Receiver<()>) -> Result<(), FrameError> {
    match pace.and_then(|pace| pace.moved(bytes)) {
        None => Ok(()),
        Some(held) => bounded(held, closed, None).await.map_err(|_| FrameError::Disconnected),
    }
}

/// An accepted stream: frames both ways.
pub struct Stream {
    socket: swarm::Stream,
    hold: Arc<Hold>,
}

/// What lives as long as either half of a stream.
struct Hold {
    link: Arc<Link>,
    _permit: StreamPermit,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?})", self.hold.link.peer)
    }
}

impl Stream {
    pub(crate) fn new(socket: swarm::Stream, link: Arc<Link>, permit: StreamPermit) -> Self {
        Self { socket, hold: Arc::new(Hold { link, _permit: permit }) }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.hold.link.peer
    }

    /// Both directions, to be used side by side. The stream is gone when both are dropped.
    pub fn split(self) -> (FrameReader, FrameWriter) {
        let Self { socket, hold } = self;
        let (read, write) = socket.split();
        let closed = hold.link.closed();
        let reader = FrameReader {
            socket: read,
            closed: closed.clone(),
            hold: hold.clone(),
            intake: Intake::default(),
            ended: None,
            idle_timeout: None,
            stall_timeout: STALL_TIMEOUT_DEFAULT,
            pace: None,
        };
        let stall_timeout = STALL_TIMEOUT_DEFAULT;
        let writer = FrameWriter { socket: write, closed, hold, buffer: Vec::new(), broken: false, stall_timeout, pace: None };
        (reader, writer)
    }
}

/// Reads the peer's frames.
pub struct FrameReader {
    socket: ReadHalf<swarm::Stream>,
    closed: watch::Receiver<()>,
    hold: Arc<Hold>,
    /// The frame on its way is kept here, so that a caller may give up waiting and call again.
    intake: Intake,
    ended: Option<End>,
    idle_timeout: Option<Duration>,
    stall_timeout: Duration,
    pace: Option<Arc<dyn Pace>>,
}

#[derive(Clone, Copy)]
enum End {
    Clean,
    Broken,
}

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameReader({:?})", self.hold.link.peer)
    }
}

/// The connection that a stream is on.
#[derive(Clone, Debug)]
pub struct Connection(watch::Receiver<()>);

impl Connection {
    /// Whether it is still that one: a peer that has gone and come again has another.
    pub fn is_open(&self) -> bool {
        self.0.has_changed().is_ok()
    }
}

impl FrameReader {
    /// What the stream is on.
    pub fn connection(&self) -> Connection {
        Connection(self.hold.link.closed())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.hold.link.peer
    }

    /// How long [`FrameReader::next`] waits for a frame to begin. Default: for ever, as a peer that is gone is noticed anyway.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.idle_timeout = timeout;
    }

    /// How long 64 KiB of a frame, or what is left of it, may take once it began. Default 60 s, about 1 KiB/s; too short breaks slow
    /// lines, too long lets a peer hold a stream for nothing.
    pub fn set_stall_timeout(&mut self, timeout: Duration) {
        self.stall_timeout = timeout;
    }

    /// Paces what is read from now on.
    pub fn set_pace(&mut self, pace: Option<Arc<dyn Pace>>) {
        self.pace = pace;
    }

    /// Waits for the next frame to begin, and says how long it will be, before room is made for it; `None` after the peer's last.
    /// The frame stays the next one. May be dropped while it waits and called again.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub async fn next_bytes(&mut self, bytes_max: usize) -> Result<Option<usize>, FrameError> {
        match self.ended {
            Some(End::Clean) => return Ok(None),
            Some(End::Broken) => return Err(FrameError::Broken),
            None => {}
        }
        let begun = self.begin_frame(bytes_max).await;
        self.note_end(begun)
    }

    /// The next frame, or `None` after the peer's last. May be dropped while it waits and called again; nothing is lost.
    ///
    /// # Errors
    /// See [`FrameError`]. A frame longer than `bytes_max` is refused by its length, before any of it is read.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, FrameError> {
        match self.ended {
            Some(End::Clean) => return Ok(None),
            Some(End::Broken) => return Err(FrameError::Broken),
            None => {}
        }
        let read = self.read_frame(bytes_max).await;
        self.note_end(read)
    }

    fn note_end<T>(&mut self, outcome: Result<Option<T>, FrameError>) -> Result<Option<T>, FrameError> {
        match outcome {
            Ok(Some(more)) => Ok(Some(more)),
            Ok(None) => {
                self.ended = Some(End::Clean);
                Ok(None)
            }
            Err(idle @ FrameError::Idle { .. }) => Err(idle),
            Err(error) => {
                self.ended = Some(End::Broken);
                self.intake.give_up();
                Err(error)
            }
        }
    }

    async fn begin_frame(&mut self, bytes_max: usize) -> Result<Option<usize>, FrameError> {
        let mut deadline = self.idle_timeout.map(|timeout| Instant::now() + timeout);
        let mut begun = false;
        loop {
            match self.intake.begin(bytes_max)? {
                Some(Begun::Frame(bytes)) => return Ok(Some(bytes)),
                Some(Begun::End) => return Ok(None),
                None => {}
            }
            if !begun && self.intake.has_begun() {
                begun = true;
                deadline = Some(Instant::now() + self.stall_timeout);
            }
            let read = bounded(self.socket.read(self.intake.room()), &mut self.closed, deadline).await;
            match read {
                Err(Interrupted::Timeout) if !begun => {
                    return Err(FrameError::Idle { waited: self.idle_timeout.unwrap_or_default() });
                }
                outcome => match settle(outcome, self.stall_timeout)? {
                    0 => return Err(FrameError::CutOff),
                    read => {
                        let held = self.moved(read).await?;
                        deadline = deadline.map(|deadline| deadline + held);
                    }
                },
            }
        }
    }

    async fn read_frame(&mut self, bytes_max: usize) -> Result<Option<Vec<u8>>, FrameError> {
        if self.begin_frame(bytes_max).await?.is_none() {
            return Ok(None);
        }
        let mut deadline = Instant::now() + self.stall_timeout;
        let mut since = 0;
        loop {
            let room = self.intake.room();
            if room.is_empty() {
                return Ok(self.intake.take());
            }
            let piece = room.len().min(piece_bytes_max(self.pace.as_ref()));
            let read = self.socket.read(&mut room[..piece]);
            let read = match settle(bounded(read, &mut self.closed, Some(deadline)).await, self.stall_timeout)? {
                0 => return Err(FrameError::CutOff),
                read => read,
            };
            deadline += self.moved(read).await?;
            since += read;
            if since >= STEP_BYTES {
                since = 0;
                deadline = Instant::now() + self.stall_timeout;
            }
        }
    }

    /// Takes in what was read, and keeps the pace; for how long that was.
    async fn moved(&mut self, bytes: usize) -> Result<Duration, FrameError> {
        self.intake.arrived(bytes);
        self.hold.link.touch();
        let before = Instant::now();
        keep_pace(self.pace.as_ref(), bytes, &mut self.closed).await?;
        Ok(before.elapsed())
    }
}

/// Writes frames to the peer. Small ones are gathered until [`FrameWriter::flush`].
pub struct FrameWriter {
    socket: WriteHalf<swarm::Stream>,
    closed: watch::Receiver<()>,
    hold: Arc<Hold>,
    buffer: Vec<u8>,
    /// A write is under way, or was given up half-way.
    broken: bool,
    stall_timeout: Duration,
    pace: Option<Arc<dyn Pace>>,
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameWriter({:?})", self.hold.link.peer)
    }
}

impl FrameWriter {
    /// Who is at the other end.
    pub fn peer(&self) -> NodeId {
        self.hold.link.peer
    }

    /// How long a write may wait for the peer to read anything. Default 60 s. A peer that syncs a slow disk before it reads on needs
    /// more.
    pub fn set_stall_timeout(&mut self, timeout: Duration) {
        self.stall_timeout = timeout;
    }

    /// Paces what is written from now on; what is in the buffer counts with what comes next.
    pub fn set_pace(&mut self, pace: Option<Arc<dyn Pace>>) {
        self.pace = pace;
    }

    /// Writes one frame. It may stay in the buffer until [`FrameWriter::flush`]; waits while the peer's window is full.
    ///
    /// # Errors
    /// See [`FrameError`]. If the call is dropped before it ends, the stream is of no more use.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        self.send_parts(&[frame]).await
    }

    /// Writes one frame made of these parts, so that a header and 16 MiB of payload need not be joined first.
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn send_parts(&mut self, parts: &[&[u8]]) -> Result<(), FrameError> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let header = u32::try_from(bytes).ok().filter(|length| *length != END);
        let header = header.ok_or(FrameError::TooLong { bytes, bytes_max: u64::from(END - 1) })?.to_le_bytes();
        self.begin()?;
        self.write(&header).await?;
        for part in parts {
            self.write(part).await?;
        }
        self.broken = false;
        Ok(())
    }

    /// Sends what is in the buffer.
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        self.begin()?;
        self.write_buffer().await?;
        let flush = self.socket.flush();
        settle(bounded(flush, &mut self.closed, Some(Instant::now() + self.stall_timeout)).await, self.stall_timeout)?;
        self.broken = false;
        Ok(())
    }

    /// Sends what is in the buffer and ends this direction; the other one stays open. A writer that is dropped without it looks to
    /// the peer like a connection that broke.
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn close(mut self) -> Result<(), FrameError> {
        self.begin()?;
        self.write(&END.to_le_bytes()).await?;
        self.write_buffer().await?;
        let close = self.socket.close();
        settle(bounded(close, &mut self.closed, Some(Instant::now() + self.stall_timeout)).await, self.stall_timeout)
    }

    fn begin(&mut self) -> Result<(), FrameError> {
        if std::mem::replace(&mut self.broken, true) { Err(FrameError::Broken) } else { Ok(()) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.buffer.len() + bytes.len() <= BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_buffer().await?;
        if bytes.len() <= BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let Self { socket, closed, hold, stall_timeout, pace, .. } = self;
        write_all(socket, closed, hold, bytes, *stall_timeout, pace.as_ref()).await
    }

    async fn write_buffer(&mut self) -> Result<(), FrameError> {
        let Self { socket, closed, hold, buffer, stall_timeout, pace, .. } = self;
        write_all(socket, closed, hold, buffer, *stall_timeout, pace.as_ref()).await?;
        buffer.clear();
        Ok(())
    }
}

async fn write_all(
    socket: &mut WriteHalf<swarm::Stream>,
    closed: &mut watch::Receiver<()>,
    hold: &Hold,
    mut bytes: &[u8],
    stall_timeout: Duration,
    pace: Option<&Arc<dyn Pace>>,
) -> Result<(), FrameError> {
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(piece_bytes_max(pace))];
        let (before, mut waited) = (Instant::now(), false);
        let write = poll_fn(|cx| {
            let polled = Pin::new(&mut *socket).poll_write(cx, piece);
            waited |= polled.is_pending();
            polled
        });
        let write = bounded(write, closed, Some(before + stall_timeout)).await;
        let written = match settle(write, stall_timeout)? {
            0 => return Err(FrameError::CutOff),
            written => written,
        };
        bytes = &bytes[written..];
        // What this machine takes into its own buffers tells nothing of the peer; that they were full and have room again does.
        if waited && before.elapsed() >= ROOM_AFTER {
            hold.link.touch();
        }
        keep_pace(pace, written, closed).await?;
    }
    Ok(())
}

fn settle<T>(outcome: Result<io::Result<T>, Interrupted>, stalled: Duration) -> Result<T, FrameError> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        // Yamux's word for a stream or connection that is no more.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WriteZero => Err(FrameError::CutOff),
        Ok(Err(error)) => Err(FrameError::Io(error)),
        Err(Interrupted::Closed) => Err(FrameError::Disconnected),
        Err(Interrupted::Timeout) => Err(FrameError::Stalled { stalled }),
    }
}

enum Interrupted {
    Closed,
    Timeout,
}

/// Awaits `work`, but not beyond the connection or the deadline. What has already arrived is read even when the connection is closed.
async fn bounded<F: Future>(
    work: F,
    closed: &mut watch::Receiver<()>,
    deadline: Option<Instant>,
) -> Result<F::Output, Interrupted> {
    let expired = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        output = work => Ok(output),
        // Only ever changes by ending.
        _ = closed.changed() => Err(Interrupted::Closed),
        () = expired => Err(Interrupted::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::AHEAD_BYTES;
    use crate::{Net, NetConfig, NetEvent, Protocol};
    use backmesh_format::keys::KeyPair;

    /// A reader, and a writer at the other end that can be made to write what no writer would.
    async fn ends() -> (FrameReader, FrameWriter, (FrameWriter, impl Sized)) {
        let start = |seed| {
            let mut config = NetConfig::new(KeyPair::from_secret(&[seed; 32]));
            config.listen = vec!["127.0.0.1:0".to_owned()];
            Net::start(config)
        };
        let ((a, a_events), (b, mut b_events)) = (start(1).await.unwrap(), start(2).await.unwrap());
        let peer = a.dial(&b.addresses()[0], None).await.unwrap();
        let (back, writer) = a.open(peer, Protocol::Mesh).await.unwrap().split();
        loop {
            if let NetEvent::Inbound { stream, .. } = b_events.recv().await.unwrap() {
                let (reader, rest) = stream.split();
                return (reader, writer, (rest, (a, a_events, b, b_events, back)));
            }
        }
    }

    async fn write_raw(writer: &mut FrameWriter, bytes: &[u8]) {
        writer.socket.write_all(bytes).await.unwrap();
        writer.socket.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_tells_its_length_first() {
        let (mut reader, mut writer, _nodes) = ends().await;
        writer.send(b"seven").await.unwrap();
        writer.close().await.unwrap();
        for _ in 0..2 {
            assert_eq!(reader.next_bytes(10).await.unwrap(), Some(5));
        }
        assert_eq!(reader.next(10).await.unwrap().unwrap(), b"seven");
        assert_eq!(reader.next_bytes(10).await.unwrap(), None);
        let (mut reader, mut writer, _nodes) = ends().await;
        writer.send(b"seven").await.unwrap();
        writer.flush().await.unwrap();
        assert!(matches!(reader.next_bytes(4).await, Err(FrameError::TooLong { .. })));
        assert!(matches!(reader.next(10).await, Err(FrameError::Broken)));
    }

    #[tokio::test]
    async fn a_length_without_bytes_costs_nothing() {
        let (mut reader, mut writer, _nodes) = ends().await;
        reader.set_stall_timeout(Duration::from_millis(200));
        write_raw(&mut writer, &[(1u32 << 30).to_le_bytes().as_slice(), b"so little"].concat()).await;
        // Given up once, so that the frame on its way can be looked at.
        tokio::time::timeout(Duration::from_millis(100), reader.next(1 << 30)).await.unwrap_err();
        let (_, capacity) = reader.intake.held().unwrap();
        assert!(capacity <= 2 * STEP_BYTES, "{capacity}");
        assert!(matches!(reader.next(1 << 30).await, Err(FrameError::Stalled { .. })));
        assert!(reader.intake.held().is_none());
    }

    #[tokio::test]
    async fn an_endless_frame_is_refused_by_its_length() {
        let (mut reader, mut writer, (rest, _nodes)) = ends().await;
        write_raw(&mut writer, &(u32::MAX - 1).to_le_bytes()).await;
        let endless = tokio::spawn(async move { while writer.socket.write_all(&[0; 1 << 16]).await.is_ok() {} });
        assert!(matches!(reader.next(16 << 20).await, Err(FrameError::TooLong { .. })));
        assert!(reader.intake.ahead_capacity() <= 2 * AHEAD_BYTES);
        drop((reader, rest));
        tokio::time::timeout(Duration::from_secs(20), endless).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn memory_grows_with_what_arrived() {
        let (mut reader, mut writer, _nodes) = ends().await;
        let writing = tokio::spawn(async move {
            write_raw(&mut writer, &(8u32 << 20).to_le_bytes()).await;
            for _ in 0..32 {
                write_raw(&mut writer, &[7; 1 << 18]).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            writer
        });
        loop {
            if let Ok(frame) = tokio::time::timeout(Duration::from_millis(3), reader.next(8 << 20)).await {
                assert!(frame.unwrap().unwrap() == vec![7; 8 << 20]);
                break;
            }
            if let Some((received, capacity)) = reader.intake.held() {
                assert!(capacity <= 2 * received + STEP_BYTES, "{capacity} bytes for {received}");
            }
        }
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_frame_cut_short_is_no_frame() {
        let (mut reader, mut writer, _nodes) = ends().await;
        write_raw(&mut writer, &[10, 0, 0, 0, 1, 2, 3]).await;
        writer.socket.close().await.unwrap();
        assert!(matches!(reader.next(10).await, Err(FrameError::CutOff)));
        let (mut reader, mut writer, _nodes) = ends().await;
        write_raw(&mut writer, &[10, 0]).await;
        writer.socket.close().await.unwrap();
        assert!(matches!(reader.next(10).await, Err(FrameError::CutOff)));
    }

    #[tokio::test]
    async fn a_header_that_never_ends_is_given_up() {
        let (mut reader, mut writer, _nodes) = ends().await;
        reader.set_stall_timeout(Duration::from_millis(100));
        write_raw(&mut writer, &[1, 0]).await;
        assert!(matches!(reader.next(10).await, Err(FrameError::Stalled { .. })));
    }

    #[tokio::test]
    async fn a_write_given_up_half_way_breaks_the_stream() {
        let (_reader, mut writer, _nodes) = ends().await;
        tokio::time::timeout(Duration::from_millis(200), writer.send(&vec![0; 8 << 20])).await.unwrap_err();
        assert!(matches!(writer.send(b"x").await, Err(FrameError::Broken)));
        assert!(matches!(writer.close().await, Err(FrameError::Broken)));
    }
}
