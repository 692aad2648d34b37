//! A queue pair, open for one thread. Closing it (dropping the capability) closes the rings; the lease keeps them, and the device goes on.

use alloc::{format, sync::Arc};

use interfaces::{
    Cap, RRef,
    device::ixgbe::{DeviceError, Interrupt, RxRing, TxRing},
    net::{Link, NetError, NetQueue},
    packet::Batch,
};
use runtime::time::now;

use crate::{
    card::{Card, pause},
    registers::EIMS_EX,
};

/// How long transmission may stand still while the link is up: far above the 0.4 ms that a full packet buffer takes at 10 Gb/s, or the pauses of a
/// virtual machine.
const HANG_LIMIT: u64 = 5_000_000_000;
/// Calls of `receive` between two times that the queue is tended.
const TEND_EVERY: u32 = 1024;
/// Without interrupts, the longest sleep between two looks at the ring.
const LOOK_EVERY: u64 = 100_000;

pub struct Queue {
    card: Arc<Card>,
    index: u16,
    rx: Cap<dyn RxRing>,
    tx: Cap<dyn TxRing>,
    interrupt: Option<Cap<dyn Interrupt>>,
    until_tend: u32,
    /// The last look at the ring found nothing.
    in_vain: bool,
    /// While packets wait to be sent: how many had left, and since when no more have been seen to.
    standing: Option<(u64, u64)>,
}

impl Queue {
    pub fn open(card: Arc<Card>, index: u16) -> Result<Self, NetError> {
        let refused = |error| match error {
            DeviceError::Call(error) => NetError::Call(error),
            DeviceError::Busy => NetError::QueueBusy,
            DeviceError::NoSuchQueue => NetError::NoSuchQueue,
            _ => NetError::Device,
        };
        let rx = card.device.rx_ring(index, card.config.rx_ring, card.config.vlan).map_err(refused)?;
        let tx = card.device.tx_ring(index, card.config.tx_ring, card.config.vlan).map_err(refused)?;
        let interrupt = card.interrupts.then(|| card.device.queue_interrupt(index)).transpose().map_err(refused)?;
        Ok(Queue { card, index, rx, tx, interrupt, until_tend: TEND_EVERY, in_vain: false, standing: None })
    }

    /// A ring's answer: a failed call is the caller's business, anything else the end of this generation.
    fn answer<T>(&self, result: Result<T, DeviceError>) -> Result<T, NetError> {
        match result {
            Ok(value) => Ok(value),
            Err(DeviceError::Call(error)) => Err(NetError::Call(error)),
            Err(error) => self.card.give_up(&format!("queue {}", self.index), error),
        }
    }

    /// Looks after what nobody waits for, and publishes the counters.
    #[cold]
    fn tend(&mut self) -> Result<(), NetError> {
        let in_flight = self.tx.reclaim();
        let in_flight = self.answer(in_flight)?;
        self.watch_transmission(in_flight)?;
        self.until_tend = TEND_EVERY;
        let cells = &self.card.statistics.queues[usize::from(self.index)];
        cells.publish(self.rx.counts(), self.tx.counts());
        if self.in_vain {
            cells.looked_in_vain();
        }
        Ok(())
    }

    /// Packets wait to be sent: they must be leaving, as long as there is a link.
    #[cold]
    fn watch_transmission(&mut self, in_flight: usize) -> Result<(), NetError> {
        if in_flight == 0 || self.card.link() == Link::Down {
            self.standing = None;
            return Ok(());
        }
        let left = self.tx.counts().packets.saturating_sub(in_flight as u64);
        match self.standing {
            Some((seen, since)) if seen == left => {
                if now() - since > HANG_LIMIT {
                    self.answer(Err(DeviceError::TimedOut))
                } else {
                    Ok(())
                }
            }
            // The time from before they waited is none of theirs.
            _ => {
                self.standing = Some((left, now()));
                Ok(())
            }
        }
    }

    /// Has the device interrupt when something arrives; what has arrived already interrupts at once (82599 §7.3.1.2: causes are kept while masked).
    fn arm(&self) -> Result<(), NetError> {
        self.answer(self.card.device.write(EIMS_EX, 1 << self.index))
    }
}

impl NetQueue for Queue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let received = self.rx.receive(&mut batch, Batch::CAPACITY);
        self.in_vain = self.answer(received)? == 0;
        self.until_tend -= 1;
        if self.until_tend == 0 {
            self.tend()?;
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        if !batch.is_empty() {
            let sent = self.tx.send(&mut batch);
            self.answer(sent)?;
            if !batch.is_empty() {
                let in_flight = self.tx.reclaim();
                let in_flight = self.answer(in_flight)?;
                self.watch_transmission(in_flight)?;
            }
        }
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        self.tend()?;
        if self.interrupt.is_none() {
            while !self.rx.ready() && now() < deadline {
                let slept = pause(LOOK_EVERY.min(deadline.saturating_sub(now())));
                self.answer(slept)?;
            }
            return Ok(());
        }
        self.arm()?;
        if self.rx.ready() {
            return Ok(());
        }
        let fired = self.interrupt.as_mut().map_or(Ok(false), |interrupt| interrupt.wait(deadline));
        self.answer(fired).map(drop)
    }
}
