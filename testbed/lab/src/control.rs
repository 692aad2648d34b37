//! What the command and the lab's inner process tell each other: JSON, one message a line, on one socket.
//!
//! The command owns terminal, signals and the report's file; the inner process owns everything else. Either one's end closes the socket, and
//! the other takes that as the end of the run.

use crate::report::Report;
use crate::{RunOptions, status::Status};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};

/// From the command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First, and once.
    Run(Box<RunOptions>),
    /// A line that somebody typed at the live console.
    Type(String),
    /// End the load now and report.
    Stop,
}

/// From the inner process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// Something worth a line of its own.
    Line(String),
    /// Text from the box's serial console.
    Console(String),
    Status(Box<Status>),
    /// Last, unless it is `Failed`.
    Report(Box<Report>),
    Failed {
        message: String,
        lack: bool,
    },
}

/// Writes one message.
pub fn tell(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one message; `None` when the other side is gone.
pub fn hear<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::other)
}
