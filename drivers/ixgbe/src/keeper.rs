//! The driver's own thread: follows the link, adds up statistics, and sees whether the device is still there and tells the truth.

use alloc::{format, sync::Arc, vec, vec::Vec};

use interfaces::{
    CallError, Cap,
    device::ixgbe::{DeviceError, Interrupt},
};
use runtime::{env::StartError, time::now};

use crate::{
    card::{Card, pause},
    registers::{CAUSE_LINK, EICR, EICS, EIMS},
    statistics::Ends,
};

/// How often it looks, if nothing calls it earlier.
const PERIOD: u64 = 100_000_000;
/// How long the device may say that it delivers while nothing comes out of the ring.
const SILENCE_LIMIT: u64 = 2_000_000_000;

pub struct Keeper {
    card: Arc<Card>,
    interrupt: Option<Cap<dyn Interrupt>>,
    silences: Vec<Silence>,
}

/// Watches one receive queue for a descriptor that the device has used and never written back: behind it the ring stands still for ever.
#[derive(Clone, Copy, Default)]
struct Silence {
    /// When something last came out of the ring.
    heard: Ends,
    /// The first sign since then that something should have, and when that was.
    awaited: Option<(Ends, u64)>,
}

impl Silence {
    /// Whether the queue has been silent too long.
    fn is_lie(&mut self, ends: Ends, now: u64) -> bool {
        if ends.ring != self.heard.ring || ends.delivered == self.heard.delivered {
            *self = Silence { heard: ends, awaited: None };
            return false;
        }
        let (since, at) = *self.awaited.get_or_insert((ends, now));
        // Its thread has looked in vain since, and more than once, so that what it has published is newer than the delivery.
        ends.looks >= since.looks + 2 && now - at > SILENCE_LIMIT
    }
}

impl Keeper {
    pub fn new(card: Arc<Card>) -> Result<Self, StartError> {
        let interrupt = card.interrupts.then(|| card.device.misc_interrupt()).transpose();
        let interrupt = interrupt.map_err(|error| StartError(format!("no interrupt for the link: {error}")))?;
        let silences = vec![Silence::default(); card.statistics.queues.len()];
        Ok(Keeper { card, interrupt, silences })
    }

    /// Until the domain ends.
    pub fn run(&mut self) {
        loop {
            match self.look().and_then(|()| self.wait()) {
                Ok(()) => {}
                Err(DeviceError::Call(CallError::Cancelled)) => return,
                Err(DeviceError::Call(error)) => return log::error!("the keeper ends: {error}"),
                Err(error) => self.card.give_up("the device", error),
            }
        }
    }

    /// One round of looking after the device.
    pub fn look(&mut self) -> Result<(), DeviceError> {
        let card = &*self.card;
        if card.read_link()? {
            log::info!("{}: link {}", card.variant.name, card.link_words());
        }
        card.statistics.collect(card.device)?;
        for (silence, queue) in self.silences.iter_mut().zip(&*card.statistics.queues) {
            if silence.is_lie(queue.ends(), now()) {
                return Err(DeviceError::Lied);
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let Some(interrupt) = &mut self.interrupt else { return pause(PERIOD) };
        let device = self.card.device;
        device.write(EIMS, CAUSE_LINK)?;
        if interrupt.wait(now() + PERIOD)? {
            // The causes are read from EICS and cleared by writing: clearing by reading loses some (Linux's ixgbe_msix_other, an erratum).
            let causes = device.read(EICS)?;
            device.write(EICR, causes & CAUSE_LINK)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ends(delivered: u64, ring: u64, looks: u64) -> Ends {
        Ends { delivered, ring, looks }
    }

    #[test]
    fn delivered_but_never_received_is_a_lie() {
        let mut silence = Silence::default();
        assert!(!silence.is_lie(ends(5, 5, 1), 0));
        assert!(!silence.is_lie(ends(6, 5, 2), SECOND));
        assert!(!silence.is_lie(ends(9, 5, 40), 2 * SECOND), "not yet");
        assert!(silence.is_lie(ends(9, 5, 60), 4 * SECOND));
    }

    /// A queue without traffic, one that nobody polls, and one that comes back are no lies.
    #[test]
    fn quiet_unattended_and_slow_queues_are_honest() {
        let mut quiet = Silence::default();
        assert!((0..100).all(|at| !quiet.is_lie(ends(5, 5, at), at * SECOND)));
        let mut unattended = Silence::default();
        assert!((0..100).all(|at| !unattended.is_lie(ends(at, 0, 3), at * SECOND)));
        let mut slow = Silence::default();
        assert!((0..100).all(|at| !slow.is_lie(ends(at, at / 2, at), at * SECOND)));
    }
}
