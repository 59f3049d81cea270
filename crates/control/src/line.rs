//! Lines: bounded, one JSON object each, ended by a line break.

use crate::event::Failure;
use crate::exit::ExitCode;
use crate::request::Request;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read};
use thiserror::Error;

/// The version of the interface that this program speaks. It rises only when a reader of the old one would be misled.
pub const API: u32 = 1;
/// The longest request, in bytes. A longer one is refused before it is read to its end.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// The longest answer, in bytes: a batch of entries and one path of the greatest length, every byte of them escaped.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why there is no line.
#[derive(Debug, Error)]
pub enum LineError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It is longer than allowed.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// The connection ended inside it.
    #[error("the connection ended inside a line")]
    Cut,
}

/// Reads a line of at most `bytes_max` bytes, without its line break; none at the end of the connection.
///
/// # Errors
/// Where it is longer, cut off, or cannot be read.
pub fn read_line(reader: &mut impl BufRead, bytes_max: usize) -> Result<Option<Vec<u8>>, LineError> {
    let mut line = Vec::new();
    reader.take(bytes_max as u64 + 1).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= bytes_max => Err(LineError::TooLong(bytes_max)),
        Some(_) => Err(LineError::Cut),
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    api: u32,
    #[serde(flatten)]
    request: T,
}

#[derive(Deserialize)]
struct Version {
    api: u32,
}

pub(crate) fn request_line(request: &Request) -> String {
    to_line(&Envelope { api: API, request })
}

/// Reads a request, for the agent. What comes back in the error is the answer to send.
///
/// # Errors
/// `Usage` for what is not a request, `Failed` for another version of the interface.
pub fn serve_line(line: &[u8]) -> Result<Request, Failure> {
    let usage = |problem: String| Failure::new(ExitCode::Usage, format!("this is not a request: {problem}"));
    if line.len() > REQUEST_BYTES_MAX {
        return Err(usage(format!("longer than {REQUEST_BYTES_MAX} bytes")));
    }
    let version: Version = serde_json::from_slice(line).map_err(|error| usage(error.to_string()))?;
    if version.api != API {
        let message = format!("the agent speaks version {API} of the control interface, the command version {}", version.api);
        return Err(Failure::new(ExitCode::Failed, message)
            .with_hint("restart the agent after an update, so that both are the same program"));
    }
    let envelope: Envelope<Request> = serde_json::from_slice(line).map_err(|error| usage(error.to_string()))?;
    Ok(envelope.request)
}

/// Our own types have text keys and finite numbers, so that writing them cannot fail; were it otherwise, the line would say so.
pub(crate) fn to_line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value)
        .unwrap_or_else(|_| r#"{"type":"error","code":1,"message":"the answer could not be written as JSON"}"#.to_owned());
    line.push('\n');
    line
}
