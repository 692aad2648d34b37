//! A client's connection: bytes in, bytes out. It does no input or output itself, and its memory is bounded: it says how much more it takes, stops when enough
//! is waiting to be sent, and a value that doesn't fit into its own buffer is waited for only if the store has memory set aside for that.

use alloc::vec::Vec;

use crate::{
    command::{Context, NO_MEMORY, NO_MEMORY_READING, Next, Retrieval, execute, retrieve, say},
    durable::journal::Journal,
    store::Reservation,
};

/// Bytes of input that a connection always takes.
pub const OWN_BUFFER: usize = 16 * 1024;
/// The longest line of a retrieval; others are [`LONGEST_LINE`] at most.
const LONGEST_RETRIEVAL: usize = 64 * 1024;
/// Without a line's end after so many bytes the client speaks something else, unless it is a retrieval.
const LONGEST_LINE: usize = 2048;

/// What a connection needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// More from the client.
    Input,
    /// That some of what is waiting is sent.
    Output,
    /// Nothing more: it is to be closed once all is sent.
    Close,
}

#[derive(Debug)]
enum State {
    Line,
    /// The command on the first line needs so many bytes in all; what is set aside for them comes back with this state.
    Waiting(usize, #[expect(dead_code, reason = "held to be dropped")] Option<Reservation>),
    /// The first line, of so many bytes with its end, is a retrieval under way.
    Retrieving(Retrieval, usize),
    Swallowing(usize),
    Closed,
}

#[derive(Debug)]
pub struct Session {
    input: Vec<u8>,
    /// What before this has been dealt with.
    at: usize,
    /// From `at` up to here there is no line's end.
    searched: usize,
    state: State,
}

impl Default for Session {
    fn default() -> Self {
        Session { input: Vec::new(), at: 0, searched: 0, state: State::Line }
    }
}

impl Session {
    /// How many more bytes it takes now.
    pub fn room(&self) -> usize {
        let held = self.input.len() - self.at;
        match &self.state {
            State::Line | State::Retrieving(..) if self.long_retrieval() => LONGEST_RETRIEVAL.saturating_sub(held),
            State::Line | State::Retrieving(..) | State::Swallowing(_) => OWN_BUFFER.saturating_sub(held),
            State::Waiting(needed, _) => needed.saturating_sub(held),
            State::Closed => 0,
        }
    }

    /// Takes what has come from the client: no more than there is [`room`](Session::room) for.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if let State::Swallowing(left) = &mut self.state
            && self.at == self.input.len()
        {
            let passed = bytes.len().min(*left);
            *left -= passed;
            bytes = &bytes[passed..];
            if *left == 0 {
                self.restart();
            }
        }
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
            // What a large value needed isn't kept.
            if self.input.len() < OWN_BUFFER && self.input.capacity() > 2 * OWN_BUFFER {
                self.input.shrink_to(OWN_BUFFER);
            }
        }
        if let State::Waiting(needed, _) = self.state {
            self.input.reserve_exact(needed.saturating_sub(self.input.len()));
        }
        self.input.extend_from_slice(bytes);
    }

    /// Whether it is amid a command: between commands a client may be silent for longer.
    pub fn amid_command(&self) -> bool {
        !matches!(self.state, State::Line | State::Closed) || self.at < self.input.len()
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.input.capacity()
    }

    /// Carries out what has arrived, and appends the answers to `out` until that holds `enough`.
    pub fn work(&mut self, context: &Context, out: &mut Vec<u8>, enough: usize) -> Wants {
        loop {
            // What has to be written first is written before the next command, which comes when it is called again.
            if out.len() >= enough || context.store.journal().is_some_and(Journal::is_long) {
                return Wants::Output;
            }
            match &mut self.state {
                State::Closed => return Wants::Close,
                State::Swallowing(left) => {
                    let passed = (*left).min(self.input.len() - self.at);
                    *left -= passed;
                    self.at += passed;
                    if *left > 0 {
                        return Wants::Input;
                    }
                    self.restart();
                }
                State::Retrieving(retrieval, line_len) => {
                    let line = without_end(&self.input[self.at..self.at + *line_len]);
                    if !retrieve(context, retrieval, line, out, enough) {
                        return Wants::Output;
                    }
                    self.at += *line_len;
                    self.restart();
                }
                State::Waiting(needed, _) if self.input.len() - self.at < *needed => return Wants::Input,
                State::Waiting(..) | State::Line => {
                    let Some(len) = self.line() else { return self.without_line(out) };
                    self.command(context, len, out);
                }
            }
        }
    }

    fn restart(&mut self) {
        (self.state, self.searched) = (State::Line, 0);
    }

    /// Length of the first line with its end, if that is there.
    fn line(&mut self) -> Option<usize> {
        let input = &self.input[self.at..];
        let end = input[self.searched..].iter().position(|&byte| byte == b'\n');
        match end {
            Some(end) => Some(self.searched + end + 1),
            None => {
                self.searched = input.len();
                None
            }
        }
    }

    /// What has arrived is no whole line.
    fn without_line(&mut self, out: &mut Vec<u8>) -> Wants {
        let held = self.input.len() - self.at;
        if held >= LONGEST_RETRIEVAL {
            say(out, NO_MEMORY_READING);
            self.state = State::Closed;
        } else if held > LONGEST_LINE && !self.long_retrieval() {
            self.state = State::Closed;
        }
        if matches!(self.state, State::Closed) { Wants::Close } else { Wants::Input }
    }

    /// Whether what is held begins like a retrieval, whose line may be long.
    fn long_retrieval(&self) -> bool {
        let held = &self.input[self.at..];
        let blanks = held.iter().take(100).take_while(|&&byte| byte == b' ').count();
        [b"get ".as_slice(), b"gets ", b"gat ", b"gats "].iter().any(|name| held[blanks..].starts_with(name))
    }

    fn command(&mut self, context: &Context, len: usize, out: &mut Vec<u8>) {
        let (line, rest) = self.input[self.at..].split_at(len);
        let line = without_end(line);
        let next = execute(context, line, rest, out);
        match next {
            Next::Done => self.at += len,
            Next::Took(more) => self.at += len + more,
            Next::Retrieve(retrieval) => return self.state = State::Retrieving(retrieval, len),
            Next::Close => return self.state = State::Closed,
            Next::Swallow(more) => {
                self.at += len;
                return self.state = State::Swallowing(more);
            }
            Next::More(more) => {
                let needed = len + more;
                let reservation = if needed > OWN_BUFFER { context.store.reserve(needed) } else { None };
                if needed > OWN_BUFFER && reservation.is_none() {
                    say(out, NO_MEMORY);
                    self.at += len;
                    self.state = State::Swallowing(more);
                } else {
                    self.state = State::Waiting(needed, reservation);
                    // The line is looked at again when all is there.
                    self.searched = len - 1;
                }
                return;
            }
        }
        self.restart();
    }
}

/// A line without its line feed, and without the carriage return before that.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
