//! What the shadow has hidden, by queue. Each queue's tallies are written by the one thread that uses the queue.

use alloc::{sync::Arc, vec::Vec};

use runtime::{sync::Mutex, tally::Tally};

/// Of one queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueTallies {
    /// Times that the driver went away under this queue.
    pub absences: Tally,
    /// Queues below opened anew.
    pub reopened: Tally,
    /// Batches that came back from a driver that had crashed with them.
    pub given_back: Tally,
    /// Batches that did not come back.
    pub lost: Tally,
    /// Requests that were lost with a reset, and were submitted again.
    pub repeated: Tally,
    /// Time from the failed call to the next that went well: all of it, and the longest.
    pub away_nanos: Tally,
    pub longest_nanos: Tally,
}

/// Of all queues that have been opened.
pub struct Statistics {
    queues: Mutex<Vec<(u16, Arc<QueueTallies>)>>,
}

impl Statistics {
    pub const fn new() -> Statistics {
        Statistics { queues: Mutex::new(Vec::new()) }
    }

    /// The tallies of a queue, which go on when a client opens it again.
    pub fn of_queue(&self, index: u16) -> Arc<QueueTallies> {
        let mut queues = self.queues.lock();
        if let Some((_, tallies)) = queues.iter().find(|(known, _)| *known == index) {
            return tallies.clone();
        }
        let tallies = Arc::new(QueueTallies::default());
        queues.push((index, tallies.clone()));
        tallies
    }

    /// Every counter with its value over all queues, always in the same order.
    pub fn all(&self) -> [(&'static str, u64); 7] {
        let queues = self.queues.lock().clone();
        let values = |of: fn(&QueueTallies) -> &Tally| {
            queues.iter().map(move |(_, tallies)| of(tallies).get()).collect::<Vec<u64>>()
        };
        let sum = |of| values(of).into_iter().sum();
        [
            ("absences", sum(|queue| &queue.absences)),
            ("queue.reopened", sum(|queue| &queue.reopened)),
            ("batches.given-back", sum(|queue| &queue.given_back)),
            ("batches.lost", sum(|queue| &queue.lost)),
            ("requests.repeated", sum(|queue| &queue.repeated)),
            ("away.ns", sum(|queue| &queue.away_nanos)),
            ("away.longest-ns", values(|queue| &queue.longest_nanos).into_iter().max().unwrap_or_default()),
        ]
    }
}
