//! The client: one request, and the events that answer it.

use crate::event::{DATA_BYTES_MAX, Event};
use crate::exit::ExitCode;
use crate::line::{ANSWER_BYTES_MAX, LineError, read_line, request_line};
use crate::request::Request;
use std::io::{self, BufReader, Read, Write};
use std::ops::ControlFlow;
use thiserror::Error;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The request could not be sent.
    #[error("the request could not be sent to the agent: {0}")]
    Send(#[source] io::Error),
    /// The answer could not be read.
    #[error("the agent's answer could not be read: {0}")]
    Line(#[from] LineError),
    /// More bytes are said to follow than may.
    #[error("the agent announces {0} bytes at once, more than it may")]
    TooMuch(u64),
    /// A line is not an event.
    #[error("the agent answered what this program does not understand: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The connection ended before the answer did.
    #[error("the agent ended before it had answered")]
    Closed,
}

/// A connection to an agent, for one request.
#[derive(Debug)]
pub struct Client<S> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Client<S> {
    /// Uses a connection. Blocking; time limits are the connection's own.
    pub fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a request, hands every event to `on_event` as it comes, the last included, and returns how the command exits.
    ///
    /// # Errors
    /// Where the connection or the agent does not behave; a command that failed is an [`Event::Error`], not an error here.
    pub fn ask(self, request: &Request, on_event: &mut dyn FnMut(Event)) -> Result<ExitCode, ClientError> {
        self.ask_while(request, &mut |event| {
            on_event(event);
            ControlFlow::Continue(())
        })
    }

    /// As [`Client::ask`], until `on_event` breaks off: the connection is then closed, which stops the agent's work, and the code that it
    /// breaks off with is returned.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_while(
        mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<ExitCode>,
    ) -> Result<ExitCode, ClientError> {
        let stream = self.stream.get_mut();
        stream.write_all(request_line(request).as_bytes()).and_then(|()| stream.flush()).map_err(ClientError::Send)?;
        loop {
            let line = read_line(&mut self.stream, ANSWER_BYTES_MAX)?.ok_or(ClientError::Closed)?;
            let mut event: Event = serde_json::from_slice(&line).map_err(ClientError::Malformed)?;
            if let Event::Data { bytes, content } = &mut event {
                *content = self.data(*bytes)?;
            }
            let end = event.end();
            if let ControlFlow::Break(code) = on_event(event) {
                return Ok(code);
            }
            if let Some(code) = end {
                return Ok(code);
            }
        }
    }

    fn data(&mut self, bytes: u64) -> Result<Vec<u8>, ClientError> {
        if bytes > DATA_BYTES_MAX {
            return Err(ClientError::TooMuch(bytes));
        }
        let mut content = vec![0; bytes as usize];
        let cut =
            |error: io::Error| if error.kind() == io::ErrorKind::UnexpectedEof { LineError::Cut } else { LineError::Io(error) };
        self.stream.read_exact(&mut content).map_err(cut)?;
        Ok(content)
    }
}
