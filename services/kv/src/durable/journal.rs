//! What the threads that serve clients share with the one that writes: changes noted and not yet written, and how far the medium has come.
//!
//! A change is noted under its key's lock, so a key's changes stand in the log in their order. Answers leave only when all that was noted before is on the medium
//! ([`Journal::settle`]): what one client has read of another's change is as safe as what is acknowledged to itself. While the writer is at the medium further changes gather,
//! from all threads, and are committed together.

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use interfaces::Cancelled;
use runtime::{
    sync::{Event, Mutex, NEVER},
    tally::Tally,
};

use super::{Change, Report, Usage};

/// Bytes of changes that are noted before somebody waits for the medium.
const ENOUGH: u64 = 1 << 20;

/// What is shown of the log. The writer counts.
#[derive(Debug, Default)]
pub struct Statistics {
    pub committed: Tally,
    pub written: Tally,
    pub flushes: Tally,
    pub commits: Tally,
    pub compactions: Tally,
    /// How much of the area in use is used, in thousandths.
    pub fill: Tally,
    pub recovery_nanos: Tally,
    pub recovered_changes: Tally,
    pub recovered_bytes: Tally,
    /// Whether the last frame was torn when the log was opened.
    pub torn: Tally,
}

impl Statistics {
    pub fn opened(&self, report: &Report, nanos: u64) {
        self.recovery_nanos.set(nanos);
        self.recovered_changes.set(report.changes);
        self.recovered_bytes.set(report.bytes);
        self.torn.set(report.torn.into());
    }

    pub fn publish(&self, usage: Usage, fill: u64) {
        self.committed.set(usage.committed);
        self.written.set(usage.written);
        self.flushes.set(usage.flushes);
        self.commits.set(usage.commits);
        self.compactions.set(usage.compactions);
        self.fill.set(fill);
    }

    /// Bytes written for a thousand bytes of changes.
    pub fn amplification(&self) -> u64 {
        self.written.get() * 1000 / self.committed.get().max(1)
    }
}

#[derive(Default)]
struct Noted {
    changes: Vec<u8>,
    /// A date from which on nothing is to be there any more, that hasn't come for anybody yet; 0 for none.
    flush_due: i64,
}

pub struct Journal {
    noted: Mutex<Noted>,
    /// Bytes that were ever noted, and those of them that the medium has.
    total: AtomicU64,
    committed: AtomicU64,
    /// For the writer: something is noted and waited for.
    work: Event,
    /// For each thread that serves clients: the medium has come further.
    done: Box<[Event]>,
    pub statistics: Statistics,
}

impl Journal {
    pub fn new(threads: usize) -> Journal {
        Journal {
            noted: Mutex::new(Noted::default()),
            total: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            work: Event::new(),
            done: (0..threads).map(|_| Event::new()).collect(),
            statistics: Statistics::default(),
        }
    }

    /// Under the key's lock, or for a flush under all of them.
    pub fn note(&self, change: Change) {
        let mut noted = self.noted.lock();
        if let Change::Flushed { date } = change {
            noted.flush_due = date;
        }
        self.append(&mut noted, change);
    }

    /// A date of which [`note`](Journal::note) was told has come for one shard, whose lock is held. What it finds there from now on is younger, in every shard.
    pub fn flush_came(&self) {
        let mut noted = self.noted.lock();
        if noted.flush_due != 0 {
            noted.flush_due = 0;
            self.append(&mut noted, Change::Flushed { date: 0 });
        }
    }

    /// The date of a flush that hasn't come yet; 0 for none.
    pub fn flush_due(&self) -> i64 {
        self.noted.lock().flush_due
    }

    /// What was due when the log was opened.
    pub fn expect_flush(&self, date: i64) {
        self.noted.lock().flush_due = date;
    }

    fn append(&self, noted: &mut Noted, change: Change) {
        let before = noted.changes.len();
        change.write(&mut noted.changes);
        // Release: whoever sees the new total finds the change.
        self.total.fetch_add((noted.changes.len() - before) as u64, Ordering::Release);
    }

    /// Whether so much waits to be written that nobody should add to it.
    pub fn is_long(&self) -> bool {
        self.total.load(Ordering::Relaxed) - self.committed.load(Ordering::Relaxed) >= ENOUGH
    }

    /// Waits until all that has been noted is on the medium. For thread `index`, which holds no lock.
    pub fn settle(&self, index: usize) -> Result<(), Cancelled> {
        let wanted = self.total.load(Ordering::Acquire);
        while self.committed.load(Ordering::Acquire) < wanted {
            self.work.set();
            self.done[index].wait(NEVER)?;
        }
        Ok(())
    }

    /// For the writer: waits for work, and takes what has been noted, with its mark.
    pub fn take(&self) -> Result<(Vec<u8>, u64), Cancelled> {
        self.work.wait(NEVER)?;
        let mut noted = self.noted.lock();
        Ok((core::mem::take(&mut noted.changes), self.total.load(Ordering::Relaxed)))
    }

    /// All up to this mark is on the medium.
    pub fn written(&self, mark: u64) {
        self.committed.store(mark, Ordering::Release);
        self.done.iter().for_each(Event::set);
    }
}
