//! What became of the requests and connections that the client began.

use super::exchange::Fault;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KeepAlive,
    Short,
    Download,
    Upload,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::KeepAlive, Kind::Short, Kind::Download, Kind::Upload];

    pub fn name(self) -> &'static str {
        match self {
            Kind::KeepAlive => "keep_alive",
            Kind::Short => "short",
            Kind::Download => "download",
            Kind::Upload => "upload",
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub completed: u64,
    pub failed: u64,
    /// Of the completed ones, in microseconds.
    pub took_us: Vec<u32>,
}

/// The client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub target: SocketAddrV4,
    pub port: u16,
    /// When it had been made: its port may have been another connection's before, and be another's after.
    pub opened: Moment,
}

/// A request that failed on a connection that had been made.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    pub at: Moment,
    pub end: End,
    /// As in [`Tally::failures`].
    pub why: String,
    /// Whether it was the connection's end, too.
    pub broke: bool,
}

/// Enough to judge by; more than this and nothing is excused any more.
const LOSSES_KEPT: usize = 10_000;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    pub opened: u64,
    pub broken: u64,
    pub by_kind: BTreeMap<Kind, Counts>,
    pub by_backend: BTreeMap<String, u64>,
    /// Why requests failed, and how many did so.
    pub failures: BTreeMap<String, u64>,
    /// Those of the failures that happened on a connection, in order.
    pub losses: Vec<Loss>,
}

impl Tally {
    pub fn complete(&mut self, kind: Kind, backend: &str, took: Duration) {
        let counts = self.by_kind.entry(kind).or_default();
        counts.completed += 1;
        counts.took_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        *self.by_backend.entry(backend.to_owned()).or_default() += 1;
    }

    /// A request failed that had no connection yet.
    pub fn fail(&mut self, kind: Kind, fault: &Fault) {
        self.by_kind.entry(kind).or_default().failed += 1;
        self.broken += u64::from(fault.breaks());
        *self.failures.entry(format!("{}: {fault}", kind.name())).or_default() += 1;
    }

    /// A request failed on this connection.
    pub fn lose(&mut self, kind: Kind, fault: &Fault, end: End) {
        self.fail(kind, fault);
        if self.losses.len() < LOSSES_KEPT {
            let why = format!("{}: {fault}", kind.name());
            self.losses.push(Loss { at: Moment::now(), end, why, broke: fault.breaks() });
        }
    }

    pub fn completed(&self) -> u64 {
        self.by_kind.values().map(|counts| counts.completed).sum()
    }

    pub fn failed(&self) -> u64 {
        self.by_kind.values().map(|counts| counts.failed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connect_fails_a_request_and_breaks_no_connection() {
        let mut tally = Tally::default();
        tally.fail(Kind::Short, &Fault::Connect("refused".into()));
        assert_eq!((tally.failed(), tally.broken), (1, 0));
        tally.fail(Kind::Short, &Fault::Stalled);
        assert_eq!((tally.failed(), tally.broken), (2, 1));
        assert_eq!(tally.failures["short: connect: refused"], 1);
    }
}
