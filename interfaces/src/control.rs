//! The interface by which the operator's console and the feed look into a domain. A domain that exports a port of this type (by
//! convention named `control`) has its counters in `stats`, and may take commands of its own.

use crate::{CallError, Exchangeable, RRef, interface};

/// A counter's or a command's text, at most `CAPACITY` bytes of UTF-8.
#[derive(Clone, Copy, Exchangeable)]
pub struct Text<const CAPACITY: usize> {
    len: u16,
    bytes: [u8; CAPACITY],
}

impl<const CAPACITY: usize> Text<CAPACITY> {
    /// As much of `text` as fits, cut at a character's boundary.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(CAPACITY).min(u16::MAX as usize);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; CAPACITY];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Text { len: end as u16, bytes }
    }

    /// The text; empty if a careless domain has made it something else than UTF-8.
    pub fn as_str(&self) -> &str {
        let len = usize::from(self.len).min(CAPACITY);
        core::str::from_utf8(&self.bytes[..len]).unwrap_or("")
    }
}

impl<const CAPACITY: usize> Default for Text<CAPACITY> {
    fn default() -> Self {
        Text { len: 0, bytes: [0; CAPACITY] }
    }
}

impl<const CAPACITY: usize> core::fmt::Write for Text<CAPACITY> {
    /// Appends; an error once it is full, with what fits kept.
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let used = usize::from(self.len).min(CAPACITY);
        let mut fits = text.len().min(CAPACITY - used);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.bytes[used..used + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len = (used + fits) as u16;
        if fits == text.len() { Ok(()) } else { Err(core::fmt::Error) }
    }
}

/// One counter: a dotted name (`backend.b1.packets`) and its value.
#[derive(Clone, Copy, Default, Exchangeable)]
pub struct Counter {
    pub name: Text<54>,
    pub value: u64,
}

/// Up to `CAPACITY` counters of a domain.
#[derive(Clone, Copy, Exchangeable)]
pub struct Counters {
    len: u16,
    /// Whether there are more after these: ask again with `first` advanced.
    pub more: bool,
    entries: [Counter; Counters::CAPACITY],
}

impl Counters {
    pub const CAPACITY: usize = 60;

    /// Adds a counter; false if the page is full (and `more` is then set).
    pub fn push(&mut self, name: &str, value: u64) -> bool {
        let at = usize::from(self.len);
        if at >= Self::CAPACITY {
            self.more = true;
            return false;
        }
        self.entries[at] = Counter { name: Text::new(name), value };
        self.len += 1;
        true
    }

    pub fn as_slice(&self) -> &[Counter] {
        &self.entries[..usize::from(self.len).min(Self::CAPACITY)]
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters { len: 0, more: false, entries: [Counter::default(); Self::CAPACITY] }
    }
}

/// Why a domain did not answer its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum ControlError {
    Call(CallError),
    /// The domain knows no such command.
    UnknownCommand,
}

impl From<CallError> for ControlError {
    fn from(error: CallError) -> Self {
        ControlError::Call(error)
    }
}

/// What a domain shows to, and takes from, the operator.
#[interface]
pub trait Control {
    /// Fills `page` with the domain's counters from number `first` on.
    fn counters(&self, first: u32, page: RRef<Counters>) -> Result<RRef<Counters>, ControlError>;

    /// Carries out a console line such as `backend b1 drain` and answers with one for the operator to read; the answer to a line that it knows and
    /// refuses begins with `error:`. What it has carried out is told to its next generation again, which begins without it.
    fn command(&self, line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError>;
}
