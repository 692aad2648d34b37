//! The log: a ring of lines with time, level and domain, which the console and the feed read.
//!
//! A domain's text is copied as bytes; none of its code runs here.

use alloc::{string::String, vec::Vec};
use core::fmt::{self, Write};

use crate::{interrupt::Vector, lock::Lock, machine};

/// Lines that are kept.
const LINES: usize = 1024;
/// Bytes of a line that are kept.
pub const LINE: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error = 1,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            0 | 1 => Level::Error,
            2 => Level::Warn,
            3 => Level::Info,
            4 => Level::Debug,
            _ => Level::Trace,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// One line.
#[derive(Clone, Copy)]
pub struct Line {
    pub number: u64,
    pub at: u64,
    pub level: Level,
    /// Index of the domain; 0 is the kernel.
    pub domain: usize,
    len: usize,
    text: [u8; LINE],
}

impl Line {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text[..self.len]).into_owned()
    }
}

struct Ring {
    next: u64,
    lines: Vec<Line>,
}

static RING: Lock<Ring> = Lock::new(Ring { next: 0, lines: Vec::new() });
/// Fires with each line, for whoever follows the log.
pub static NEWS: Vector = Vector::new();

pub(crate) fn write(level: Level, domain: usize, text: &[u8]) {
    let mut line = Line { number: 0, at: machine().now(), level, domain, len: text.len().min(LINE), text: [0; LINE] };
    line.text[..line.len].copy_from_slice(&text[..line.len]);
    {
        let mut ring = RING.lock();
        line.number = ring.next;
        ring.next += 1;
        if ring.lines.len() < LINES {
            ring.lines.push(line);
        } else {
            let at = (line.number % LINES as u64) as usize;
            ring.lines[at] = line;
        }
    }
    NEWS.fire();
}

/// A line of the kernel's own.
pub fn kernel(level: Level, text: fmt::Arguments<'_>) {
    let mut words = String::new();
    let _ = words.write_fmt(text);
    write(level, 0, words.as_bytes());
}

/// The lines from number `first` on that are still there, of one domain or of all; and the number that comes next.
pub fn read(first: u64, domain: Option<usize>) -> (Vec<Line>, u64) {
    let ring = RING.lock();
    let oldest = ring.next.saturating_sub(LINES as u64);
    let lines = (first.max(oldest)..ring.next)
        .map(|number| ring.lines[(number % LINES as u64) as usize])
        .filter(|line| domain.is_none_or(|domain| line.domain == domain))
        .collect();
    (lines, ring.next)
}
