//! What the operator sees of this domain.

use alloc::sync::Arc;

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};
use runtime::tally::Tally;

use crate::{Lanes, lane::Tallies};

/// The domain's `control` port.
pub struct Console {
    pub lanes: Arc<Lanes>,
}

/// A counter: its name, and where it stands.
type Counter = (&'static str, fn(&Tallies) -> &Tally);

const COUNTERS: [Counter; 10] = [
    ("received", |tallies| &tallies.received),
    ("listed.passed", |tallies| &tallies.passed[0]),
    ("others.passed", |tallies| &tallies.passed[1]),
    ("copied", |tallies| &tallies.copied),
    ("copy.no-buffer", |tallies| &tallies.not_copied),
    ("drop.listed-full", |tallies| &tallies.dropped[0]),
    ("drop.others-full", |tallies| &tallies.dropped[1]),
    ("listed.sent", |tallies| &tallies.sent[0]),
    ("others.sent", |tallies| &tallies.sent[1]),
    ("queue.reopened", |tallies| &tallies.reopened),
];

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let mut sums = [0u64; COUNTERS.len()];
        self.lanes.each(|lane| {
            for (sum, (_, of)) in sums.iter_mut().zip(COUNTERS) {
                *sum += of(&lane.tallies).get();
            }
        });
        let counters = COUNTERS.iter().zip(sums).skip(first as usize);
        for ((name, _), sum) in counters {
            if !page.push(name, sum) {
                break;
            }
        }
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
