//! A request's content, which this server has no use for: it is read to its end, within a limit, so that the next request is found behind it
//! (RFC 9112 §6 and §7), and thrown away.

use crate::{
    grammar::{is_token, is_token_byte},
    head::Framing,
    status::Status,
};

/// The longest line of a chunked body: a chunk's size with its extensions, or a trailer.
const LONGEST_LINE: usize = 1024;
/// Trailer lines at most.
const MOST_TRAILERS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of content, or of a chunk.
    Length(u64),
    ChunkData(u64),
    ChunkSize,
    /// The line's end behind a chunk.
    ChunkEnd,
    Trailer(u32),
    Done,
}

#[derive(Clone, Copy, Debug)]
pub struct Body {
    state: State,
    /// Bytes that may still come.
    budget: u64,
}

impl Body {
    /// The content that is framed so; refused at once if it says itself that it is longer than `limit`.
    pub fn new(framing: Framing, limit: u64) -> Result<Body, Status> {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) if length > limit => return Err(Status::ContentTooLarge),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
        };
        Ok(Body { state, budget: limit })
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Passes over what is there of it. Returns how many bytes that were: fewer than `input` when it is at its end, or a line isn't all there.
    pub fn skip(&mut self, input: &[u8]) -> Result<usize, Status> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.state {
                State::Done => return Ok(at),
                State::Length(left) | State::ChunkData(left) => {
                    let passed = left.min(rest.len() as u64);
                    at += passed as usize;
                    self.state = match (self.state, left - passed) {
                        (State::Length(_), 0) => State::Done,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::ChunkData(left),
                    };
                    if passed == rest.len() as u64 && !self.is_done() {
                        return Ok(at);
                    }
                }
                State::ChunkSize | State::ChunkEnd | State::Trailer(_) => {
                    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                        return if rest.len() > LONGEST_LINE { Err(Status::BadRequest) } else { Ok(at) };
                    };
                    let line = rest[..end].strip_suffix(b"\r").ok_or(Status::BadRequest)?;
                    if end > LONGEST_LINE || line.contains(&b'\r') {
                        return Err(Status::BadRequest);
                    }
                    self.state = self.after_line(line)?;
                    at += end + 1;
                }
            }
        }
    }

    fn after_line(&mut self, line: &[u8]) -> Result<State, Status> {
        match self.state {
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkSize => {
                let size = chunk_size(line).ok_or(Status::BadRequest)?;
                // Each chunk counts for a few bytes more than it holds, so that empty-handed ones have an end too.
                self.budget = size
                    .checked_add(8)
                    .and_then(|cost| self.budget.checked_sub(cost))
                    .ok_or(Status::ContentTooLarge)?;
                Ok(if size == 0 { State::Trailer(0) } else { State::ChunkData(size) })
            }
            State::Trailer(_) if line.is_empty() => Ok(State::Done),
            State::Trailer(count) if count < MOST_TRAILERS => {
                let colon = line.iter().position(|&byte| byte == b':').ok_or(Status::BadRequest)?;
                if is_token(&line[..colon]) { Ok(State::Trailer(count + 1)) } else { Err(Status::BadRequest) }
            }
            State::Trailer(_) => Err(Status::FieldsTooLarge),
            _ => Err(Status::BadRequest),
        }
    }
}

/// `chunk-size [ chunk-ext ]` (RFC 9112 §7.1): hexadecimal digits and nothing that another reader might take for one.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at(end);
    let well = match extension {
        [] => true,
        [b';', rest @ ..] => rest.iter().all(|&byte| is_token_byte(byte) || b"=;\" \t".contains(&byte)),
        _ => false,
    };
    if !well || digits.is_empty() || digits.len() > 15 {
        return None;
    }
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}
