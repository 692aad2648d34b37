//! The driver's own thread: follows the link, adds up statistics, and sees whether the device is still there and tells the truth.

use alloc::{format, sync::Arc, vec, vec::Vec};

use interfaces::{
    CallError, Cap,
    device::ixgbe::{DeviceError, Interrupt},
};
use runtime::{env::StartError, time::now};

use crate::{
    card::{Card, pause},
    registers::{CAUSE_LINK, EICR, EICS, EIMS, RXMEMWRAP, RXMEMWRAP_EMPTY, rdh},
    statistics::{Attendance, QueueCells},
};

/// How often it looks, if nothing calls it earlier.
const PERIOD: u64 = 100_000_000;
/// How long the device may say that it delivers while nothing comes out of the ring.
const SILENCE_LIMIT: u64 = 2_000_000_000;

pub struct Keeper {
    card: Arc<Card>,
    interrupt: Option<Cap<dyn Interrupt>>,
    silences: Vec<Silence>,
    jam: Jam,
}

/// Watches one receive queue for a descriptor that the device has used and never written back: behind it the ring stands still for ever.
#[derive(Clone, Copy, Default)]
struct Silence {
    /// What had been taken from the ring when that last changed, and where the device's head was then.
    heard: (u64, u32),
    /// The first sign since then that there should be more, and when that was.
    awaited: Option<(Attendance, u64)>,
}

impl Silence {
    /// Whether the queue has been silent too long, with the device's head at `head`.
    fn is_lie(&mut self, head: u32, seen: Attendance, now: u64) -> bool {
        if seen.taken != self.heard.0 || head == self.heard.1 {
            *self = Silence { heard: (seen.taken, head), awaited: None };
            return false;
        }
        let (since, at) = *self.awaited.get_or_insert((seen, now));
        // Its thread has looked in vain since, and more than once, so that what it has published is newer than that.
        seen.looks >= since.looks + 2 && now - at > SILENCE_LIMIT
    }
}

/// Watches the packet buffer for frames that never get into a ring, though all rings have room: a queue hangs.
#[derive(Default)]
struct Jam {
    /// Since when frames have waited while nothing was taken from any ring, and what each ring's thread had said then.
    since: Option<(Vec<Attendance>, u64)>,
}

impl Jam {
    /// Whether frames have waited too long; `waits` says that there are some.
    fn is_hang(&mut self, waits: bool, seen: &[Attendance], now: u64) -> bool {
        let moves = |since: &[Attendance]| since.iter().zip(seen).any(|(since, seen)| since.taken != seen.taken);
        if !waits || self.since.as_ref().is_some_and(|(since, _)| moves(since)) {
            self.since = None;
        }
        if !waits {
            return false;
        }
        let (since, at) = self.since.get_or_insert_with(|| (seen.to_vec(), now));
        // A ring that nobody looks at is full, and the device honest.
        let attended = since.iter().zip(seen).all(|(since, seen)| seen.looks >= since.looks + 2);
        attended && now - *at > SILENCE_LIMIT
    }
}

impl Keeper {
    pub fn new(card: Arc<Card>) -> Result<Self, StartError> {
        let interrupt = card.interrupts.then(|| card.device.misc_interrupt()).transpose();
        let interrupt = interrupt.map_err(|error| StartError(format!("no interrupt for the link: {error}")))?;
        let silences = vec![Silence::default(); card.statistics.queues.len()];
        Ok(Keeper { card, interrupt, silences, jam: Jam::default() })
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
        // The device is asked after the threads: what it has received in between is still to be taken.
        let seen: Vec<Attendance> = card.statistics.queues.iter().map(QueueCells::attendance).collect();
        for ((queue, silence), seen) in (0..).zip(&mut self.silences).zip(&seen) {
            if silence.is_lie(card.device.read(rdh(queue))?, *seen, now()) {
                return Err(DeviceError::Lied);
            }
        }
        let waits = card.device.read(RXMEMWRAP)? & RXMEMWRAP_EMPTY == 0;
        if self.jam.is_hang(waits, &seen, now()) { Err(DeviceError::TimedOut) } else { Ok(()) }
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

    fn seen(taken: u64, looks: u64) -> Attendance {
        Attendance { taken, looks }
    }

    #[test]
    fn delivered_but_never_received_is_a_lie() {
        let mut silence = Silence::default();
        assert!(!silence.is_lie(5, seen(5, 1), 0));
        assert!(!silence.is_lie(6, seen(5, 2), SECOND));
        assert!(!silence.is_lie(9, seen(5, 40), 2 * SECOND), "not yet");
        assert!(silence.is_lie(9, seen(5, 60), 4 * SECOND));
    }

    /// A queue without traffic, one that nobody polls, and one that comes back are no lies.
    #[test]
    fn quiet_unattended_and_slow_queues_are_honest() {
        let mut quiet = Silence::default();
        assert!((0..100).all(|at| !quiet.is_lie(5, seen(5, at), at * SECOND)));
        let mut unattended = Silence::default();
        assert!((0..100).all(|at| !unattended.is_lie(at as u32, seen(0, 3), at * SECOND)));
        let mut slow = Silence::default();
        assert!((0..100).all(|at| !slow.is_lie(at as u32, seen(at / 2, at), at * SECOND)));
    }

    #[test]
    fn frames_that_wait_while_rings_have_room_are_a_hang() {
        let mut jam = Jam::default();
        assert!(!jam.is_hang(true, &[seen(5, 1), seen(9, 1)], 0));
        assert!(!jam.is_hang(true, &[seen(5, 9), seen(9, 9)], 2 * SECOND), "not yet");
        assert!(jam.is_hang(true, &[seen(5, 9), seen(9, 9)], 3 * SECOND));
    }

    /// Frames wait for a ring that nobody looks at, they wait a moment, or they get through slowly: all that is as it should be.
    #[test]
    fn frames_that_wait_for_a_client_are_no_hang() {
        let mut unattended = Jam::default();
        assert!((0..100).all(|at| !unattended.is_hang(true, &[seen(5, at), seen(5, 1)], at * SECOND)));
        let mut passing = Jam::default();
        assert!((0..100).all(|at| !passing.is_hang(at % 2 == 0, &[seen(5, at)], at * SECOND)));
        let mut slow = Jam::default();
        assert!((0..100).all(|at| !slow.is_hang(true, &[seen(at / 2, at)], at * SECOND)));
    }
}
