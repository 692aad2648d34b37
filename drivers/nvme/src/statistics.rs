//! Counters: the queues', which the lease keeps, and the device's own health.
//!
//! Every tally has one writer, so that none needs a lock or an atomic read-modify-write.

use alloc::{boxed::Box, format};

use interfaces::device::nvme::QueueCounts;
use runtime::tally::Tally;

use crate::identify::Health;

/// One queue's counters, as its thread last published them.
#[derive(Default)]
pub struct QueueTallies {
    submitted: Tally,
    completed: Tally,
    failed: Tally,
    doorbells: Tally,
    pub aborts: Tally,
}

impl QueueTallies {
    pub fn publish(&self, counts: QueueCounts) {
        self.submitted.set(counts.submitted);
        self.completed.set(counts.completed);
        self.failed.set(counts.failed);
        self.doorbells.set(counts.doorbells);
    }
}

#[derive(Default)]
pub struct Statistics {
    pub queues: Box<[QueueTallies]>,
    /// Asynchronous events.
    pub events: Tally,
    health: [Tally; HEALTH.len()],
}

/// A number of the health log, by name.
type HealthNumber = (&'static str, fn(&Health) -> u64);

/// What is shown of it.
const HEALTH: [HealthNumber; 10] = [
    ("health.critical-warning", |health| health.critical_warning.into()),
    ("health.kelvin", |health| health.temperature.into()),
    ("health.spare-percent", |health| health.spare_percent.into()),
    ("health.used-percent", |health| health.used_percent.into()),
    ("health.units-read", |health| health.units_read),
    ("health.units-written", |health| health.units_written),
    ("health.power-cycles", |health| health.power_cycles),
    ("health.unsafe-shutdowns", |health| health.unsafe_shutdowns),
    ("health.media-errors", |health| health.media_errors),
    ("health.error-log-entries", |health| health.error_log_entries),
];

impl Statistics {
    pub fn new(queues: u16) -> Self {
        Statistics { queues: (0..queues).map(|_| QueueTallies::default()).collect(), ..Statistics::default() }
    }

    pub fn set_health(&self, health: &Health) {
        for (tally, (_, value)) in self.health.iter().zip(HEALTH) {
            tally.set(value(health));
        }
    }

    /// Shows each counter to `show`, until that returns false.
    pub fn show(&self, mut show: impl FnMut(&str, u64) -> bool) {
        let queues = self.queues.iter().enumerate().flat_map(|(index, queue)| {
            let named = [
                ("submitted", &queue.submitted),
                ("completed", &queue.completed),
                ("failed", &queue.failed),
                ("doorbells", &queue.doorbells),
                ("aborts", &queue.aborts),
            ];
            named.map(|(name, tally)| (format!("queue.{index}.{name}"), tally.get()))
        });
        for (name, value) in queues {
            if !show(&name, value) {
                return;
            }
        }
        let health = HEALTH.iter().zip(&self.health).map(|((name, _), tally)| (*name, tally.get()));
        for (name, value) in [("events", self.events.get())].into_iter().chain(health) {
            if !show(name, value) {
                return;
            }
        }
    }
}
