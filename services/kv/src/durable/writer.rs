//! The thread that owns the log: it opens it, and then writes what the others note.

use alloc::{format, sync::Arc, vec::Vec};

use interfaces::CallError;
use runtime::{env::StartError, random, time};

use super::{
    Change, Log, LogError, Report,
    disk::{Disk, DiskError},
    journal::Journal,
    recovery::{self, Refusal},
    replay::Replay,
};
use crate::{
    clock::Clock,
    store::{Store, Stored},
};

pub struct Writer {
    log: Log,
    disk: Disk,
    store: Arc<Store>,
    journal: Arc<Journal>,
    /// When the store was started.
    started: u64,
}

impl Writer {
    /// Opens the log, and fills the store, which is empty, with what it says. What can't be served as it was is refused, in words.
    pub fn open(mut disk: Disk, store: Arc<Store>, journal: Arc<Journal>, started: u64) -> Result<Writer, StartError> {
        let began = time::now();
        let mut replay = Replay::new(&store, Clock::now(started));
        let (mut log, report) = recovery::open(&mut disk, nonce(), |change| replay.change(change)).map_err(refused)?;
        let seeded = replay.end().map_err(|error| {
            StartError(match error {
                Stored::TooLarge => "the log has values longer than `longest-value`".into(),
                _ => "the log has more than `memory` holds: nothing of it is given up, give the store more".into(),
            })
        })?;
        if !seeded {
            log.append(Change::Seed(store.seed()));
            match log.commit(&mut disk) {
                // What is full is compacted before anything else is written, and that says the seed, too.
                Ok(()) | Err(LogError::Full) => {}
                Err(error) => return Err(StartError(format!("the log can't be written: {error:?}"))),
            }
        }
        let nanos = time::now() - began;
        journal.statistics.opened(&report, nanos);
        tell(&report, nanos);
        Ok(Writer { log, disk, store, journal, started })
    }

    /// Writes until the domain is being stopped. A log that can't be written ends the domain: nothing is acknowledged that isn't safe.
    pub fn run(mut self) {
        while let Ok((changes, mark)) = self.journal.take() {
            match self.commit(changes) {
                Ok(()) => self.journal.written(mark),
                Err(LogError::Medium(DiskError::Call(CallError::Cancelled))) => return,
                Err(LogError::Medium(error)) => panic!("the log can't be written: {error}"),
                Err(error) => panic!("the log can't be written ({error:?}): `log-size` is too small"),
            }
            self.journal.statistics.publish(self.log.usage(), self.log.fill());
        }
    }

    fn commit(&mut self, changes: Vec<u8>) -> Result<(), LogError<DiskError>> {
        self.log.take(changes);
        match self.log.commit(&mut self.disk) {
            Err(LogError::Full) => {}
            result => return result,
        }
        // What was noted is in the store already, and so in what is written now; what is noted meanwhile comes after it.
        let (store, clock) = (&*self.store, Clock::now(self.started));
        self.log.compact(&mut self.disk, nonce(), |show| store.alive(clock, show))
    }
}

/// Another for each area: clients don't know it, so none can store what would pass for a frame.
fn nonce() -> u64 {
    random::number()
}

fn refused(refusal: Refusal<DiskError>) -> StartError {
    match refusal {
        Refusal::Log(LogError::Medium(error)) => StartError(format!("the log can't be read: {error}")),
        Refusal::Foreign => StartError(format!(
            "{refusal}: give the store another disk or namespace, or zero the first block and that in the middle of `log-size`"
        )),
        refusal => StartError(format!("{refusal}; nothing of it is served or written over")),
    }
}

fn tell(report: &Report, nanos: u64) {
    let Report { fresh, frames, changes, bytes, torn, compaction_undone } = *report;
    if fresh {
        log::info!("a new log");
        return;
    }
    log::info!("log of {frames} commits, {changes} changes, {} KiB read in {} ms", bytes >> 10, nanos / 1_000_000);
    if torn {
        log::warn!("the last commit was torn when the power went: it had not been acknowledged, and isn't served");
    }
    if compaction_undone {
        log::warn!("a compaction was under way when the power went: the area before it counts");
    }
}
