//! The time between two generations of the driver: which errors mean that it will end, and how it is waited for.

use interfaces::{CallError, block::BlockError};
use runtime::{thread::sleep_until, time::now};

/// The first pause between two attempts to reach the driver: a restart takes some hundred microseconds.
const FIRST_PAUSE: u64 = 20_000;
/// And the longest, for one that comes back late: its restart may have been delayed, or its device have to be reset.
const LONGEST_PAUSE: u64 = 500_000;

/// One absence, with pauses that grow.
pub struct Absence {
    pause: u64,
}

impl Absence {
    pub fn new() -> Absence {
        Absence { pause: FIRST_PAUSE }
    }

    /// Whether what the port answers will be over when the driver is back. (Not so: it is stopped or given up, the thread's own domain ends, or the question is wrong.)
    pub fn ends(error: BlockError) -> bool {
        match error {
            BlockError::Call(CallError::Crashed | CallError::Restarting | CallError::Overloaded)
            | BlockError::Device => true,
            BlockError::Call(CallError::Stopped | CallError::Gone | CallError::StackShort | CallError::Cancelled)
            | BlockError::NoSuchQueue
            | BlockError::NoSuchNamespace
            | BlockError::QueueBusy => false,
        }
    }

    /// The same for an opened queue: `Gone` means there that its generation is, so it is opened anew.
    pub fn ends_for_queue(error: BlockError) -> bool {
        error == BlockError::Call(CallError::Gone) || Absence::ends(error)
    }

    /// The same for opening a queue that this domain had open: the generation that died may be about to close it.
    pub fn ends_for_reopening(error: BlockError) -> bool {
        error == BlockError::QueueBusy || Absence::ends(error)
    }

    /// Sleeps for a while, at most until `deadline`.
    pub fn wait(&mut self, deadline: u64) -> Result<(), CallError> {
        let until = now().saturating_add(self.pause).min(deadline);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        sleep_until(until).map_err(|_| CallError::Cancelled)
    }
}
