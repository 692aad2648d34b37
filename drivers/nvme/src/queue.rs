//! An I/O queue, open for one thread. Closing it (dropping the capability) closes the handle; the lease keeps the queue, and the device goes on.

use alloc::{format, sync::Arc};

use interfaces::{
    Cap, RRef,
    block::{BlockError, BlockQueue, InFlight, Requests},
    device::nvme::{DeviceError, NvmeQueue, NvmeVector, Oldest},
};
use runtime::time::now;

use crate::{admin::pause, controller::Controller};

/// How often requests in flight are looked at for their age, and the longest sleep at once.
const LOOK_EVERY: u64 = 100_000_000;
/// Without interrupts, the longest sleep between two looks at the queue.
const POLL_EVERY: u64 = 100_000;

pub struct Queue {
    controller: Arc<Controller>,
    index: u16,
    handle: Cap<dyn NvmeQueue>,
    vector: Option<Cap<dyn NvmeVector>>,
    /// When requests' ages were last looked at.
    looked: u64,
    /// The oldest request has been asked to be aborted.
    aborting: Option<Oldest>,
}

impl Queue {
    pub fn open(controller: Arc<Controller>, index: u16) -> Result<Self, BlockError> {
        let refused = |error| match error {
            DeviceError::Call(error) => BlockError::Call(error),
            DeviceError::Busy => BlockError::QueueBusy,
            DeviceError::NoSuchQueue => BlockError::NoSuchQueue,
            _ => BlockError::Device,
        };
        let handle = controller.device.queue(index).map_err(refused)?;
        let vector = controller.interrupts.then(|| controller.device.queue_vector(index));
        let vector = vector.transpose().map_err(refused)?;
        Ok(Queue { controller, index, handle, vector, looked: now(), aborting: None })
    }

    /// Waits until all that an earlier client had in flight has ended, and drops it.
    pub fn drain(&mut self) -> Result<(), BlockError> {
        let mut scratch = Requests::allocate().map_err(|_| BlockError::Call(interfaces::CallError::Overloaded))?;
        while self.handle.in_flight() > 0 {
            scratch = self.poll(scratch)?;
            if scratch.is_empty() {
                self.wait(now() + LOOK_EVERY)?;
            }
            scratch.clear();
        }
        Ok(())
    }

    /// The trusted layer's answer: a failed call is the caller's business, anything else the end of this generation.
    fn answer<T>(&self, result: Result<T, DeviceError>) -> Result<T, BlockError> {
        match result {
            Ok(value) => Ok(value),
            Err(DeviceError::Call(error)) => Err(BlockError::Call(error)),
            Err(error) => self.controller.give_up(&format!("queue {}", self.index), error),
        }
    }

    /// Has the oldest request aborted when it takes too long; gives the controller up when that doesn't help.
    #[cold]
    fn look(&mut self, now: u64) -> Result<(), BlockError> {
        self.looked = now;
        self.controller.statistics.queues[usize::from(self.index)].publish(self.handle.counts());
        let limit = self.controller.config.time_out.nanos();
        let Some(oldest) = self.handle.oldest() else {
            self.aborting = None;
            return Ok(());
        };
        let age = now.saturating_sub(oldest.since);
        if age > 2 * limit {
            return self.answer(Err(DeviceError::TimedOut));
        }
        if age > limit && self.aborting != Some(oldest) {
            self.aborting = Some(oldest);
            self.controller.statistics.queues[usize::from(self.index)].aborts.add(1);
            self.controller.ask_to_abort(self.index, oldest.command);
        }
        Ok(())
    }
}

impl BlockQueue for Queue {
    fn submit(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        if !batch.is_empty() {
            let taken = self.handle.submit(&mut batch);
            self.answer(taken)?;
        }
        Ok(batch)
    }

    fn poll(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        let moved = self.handle.poll(&mut batch);
        if self.answer(moved)? == 0 {
            let now = now();
            if now - self.looked > LOOK_EVERY {
                self.look(now)?;
            }
        }
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), BlockError> {
        loop {
            let now = now();
            self.look(now)?;
            if self.handle.ready() || now >= deadline {
                return Ok(());
            }
            match &mut self.vector {
                Some(vector) => {
                    let fired = vector.wait(deadline.min(now.saturating_add(LOOK_EVERY)));
                    if self.answer(fired)? {
                        return Ok(());
                    }
                }
                None => {
                    let slept = pause(POLL_EVERY.min(deadline - now));
                    self.answer(slept)?;
                }
            }
        }
    }

    fn in_flight(&mut self, mut list: RRef<InFlight>) -> Result<RRef<InFlight>, BlockError> {
        let listed = self.handle.list(&mut list);
        self.answer(listed)?;
        Ok(list)
    }
}
