//! Frames put together from a stream's bytes, in whatever pieces they come. It has no socket: whoever has one asks where the next bytes
//! go. [`crate::FrameReader`] is that for a peer's stream, and its module says what a frame is.

use crate::frame::{END, FrameError, HEADER_BYTES};
use std::ops::Range;

/// Memory is given to a frame in steps of at least this much.
pub(crate) const STEP_BYTES: usize = 64 << 10;
/// What is read ahead.
pub(crate) const AHEAD_BYTES: usize = 16 << 10;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// A frame of so many bytes.
    Frame(usize),
    /// Nothing: the peer has said that it was its last.
    End,
}

/// The bytes that have come and belong to no whole frame yet.
#[derive(Debug, Default)]
pub struct Intake {
    /// Bytes read ahead are those in `ahead`.
    buffer: Vec<u8>,
    ahead: Range<usize>,
    partial: Option<Partial>,
}

/// A frame on its way.
#[derive(Debug)]
struct Partial {
    frame_bytes: usize,
    /// As long as what is made room for; the first `received` are real.
    bytes: Vec<u8>,
    received: usize,
}

impl Intake {
    /// What comes next, once so much of it is there that it shows; until it is taken it stays the next. No room is made for it here.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] where it is longer than `bytes_max`.
    pub fn begin(&mut self, bytes_max: usize) -> Result<Option<Begun>, FrameError> {
        if let Some(partial) = &self.partial {
            return Ok(Some(Begun::Frame(partial.frame_bytes)));
        }
        let Some(header) = self.buffer[self.ahead.clone()].first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header);
        self.ahead.start += HEADER_BYTES;
        if length == END {
            return Ok(Some(Begun::End));
        }
        let frame_bytes = length as usize;
        if frame_bytes > bytes_max {
            return Err(FrameError::TooLong { bytes: length.into(), bytes_max: bytes_max as u64 });
        }
        self.partial = Some(Partial { frame_bytes, bytes: Vec::new(), received: 0 });
        Ok(Some(Begun::Frame(frame_bytes)))
    }

    /// Whether a part of a header is there, or a frame has begun.
    pub fn has_begun(&self) -> bool {
        self.partial.is_some() || !self.ahead.is_empty()
    }

    /// Where the next bytes go: none where the frame that has begun is whole. Room is made as bytes come, whatever length was announced.
    pub fn room(&mut self) -> &mut [u8] {
        let Some(partial) = &mut self.partial else {
            self.buffer.resize(AHEAD_BYTES, 0);
            self.buffer.copy_within(self.ahead.clone(), 0);
            self.ahead = 0..self.ahead.len();
            return &mut self.buffer[self.ahead.end..];
        };
        let ahead = &self.buffer[self.ahead.clone()];
        let taken = ahead.len().min(partial.frame_bytes - partial.received);
        if taken > 0 {
            partial.bytes.truncate(partial.received);
            partial.bytes.extend_from_slice(&ahead[..taken]);
            partial.received += taken;
            self.ahead.start += taken;
        }
        if partial.bytes.len() == partial.received {
            let room = partial.received.max(STEP_BYTES).min(partial.frame_bytes - partial.received);
            partial.bytes.reserve_exact(room);
            partial.bytes.resize(partial.received + room, 0);
        }
        &mut partial.bytes[partial.received..]
    }

    /// So many bytes have been put there.
    pub fn arrived(&mut self, bytes: usize) {
        match &mut self.partial {
            Some(partial) => partial.received += bytes,
            None => self.ahead.end += bytes,
        }
    }

    /// The frame that has begun, where it is whole.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let is_whole = self.partial.as_ref().is_some_and(|partial| partial.received == partial.frame_bytes);
        if is_whole { self.partial.take().map(|partial| partial.bytes) } else { None }
    }

    /// Gives up the frame that has begun.
    pub(crate) fn give_up(&mut self) {
        self.partial = None;
    }

    /// How many bytes of the frame that has begun are there, and how much memory it has; for tests.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Option<(usize, usize)> {
        self.partial.as_ref().map(|partial| (partial.received, partial.bytes.capacity()))
    }

    /// How much memory what is read ahead has; for tests.
    #[cfg(test)]
    pub(crate) fn ahead_capacity(&self) -> usize {
        self.buffer.capacity()
    }
}
