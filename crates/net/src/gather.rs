//! Writes that are put together before they are sealed: Yamux writes each header by itself, which would be a record, and a call to the
//! system, of its own.

use futures::{AsyncRead, AsyncWrite, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Up to so much waits for more, or for a flush.
const WAITING_BYTES_MAX: usize = 4 << 10;

/// A socket whose small writes wait for the next large one, or for a flush.
pub(crate) struct Gather<T> {
    socket: T,
    waiting: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gather<T> {
    pub(crate) fn new(socket: T) -> Self {
        Self { socket, waiting: Vec::with_capacity(WAITING_BYTES_MAX) }
    }

    /// Writes what waits, and from `more` as much as goes with it; how much of `more` that was.
    fn poll_write_waiting(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let both = [IoSlice::new(&self.waiting), IoSlice::new(more)];
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_waiting = written.min(self.waiting.len());
            self.waiting.drain(..of_waiting);
            if self.waiting.is_empty() && (written > of_waiting || more.is_empty()) {
                return Poll::Ready(Ok(written - of_waiting));
            }
        }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_write_waiting(cx, &[]).map_ok(|_| ())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.socket).poll_read(cx, buffer)) {
            // Without TLS's own goodbye. That says nothing more than that the connection is gone: streams have an end mark each.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            read => Poll::Ready(read),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.waiting.len() + bytes.len() <= WAITING_BYTES_MAX {
            self.waiting.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_write_waiting(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
