//! One queue that outlives the driver's generations.

use alloc::sync::Arc;

use interfaces::{
    Cap, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::Batch,
};
use runtime::{sync::NEVER, time::now};

use crate::{absence::Absence, statistics::QueueTallies};

/// How long `receive` waits for a driver that is away before it comes back empty.
const PATIENCE: u64 = 1_000_000;

/// What is above holds this; it holds the queue below, as long as that is good.
pub struct ShadowQueue {
    port: Port<dyn Net>,
    index: u16,
    below: Option<Cap<dyn NetQueue>>,
    /// Since when the driver has been away; 0 while it is there.
    away_since: u64,
    tallies: Arc<QueueTallies>,
}

impl ShadowQueue {
    pub fn new(port: Port<dyn Net>, index: u16, below: Cap<dyn NetQueue>, tallies: Arc<QueueTallies>) -> ShadowQueue {
        ShadowQueue { port, index, below: Some(below), away_since: 0, tallies }
    }

    /// The queue below, opened anew if it must be; none if the driver isn't back by `deadline`.
    #[inline]
    fn reach(&mut self, deadline: u64) -> Result<Option<&mut Cap<dyn NetQueue>>, NetError> {
        if self.below.is_none() {
            self.below = self.reopen(deadline)?;
        }
        Ok(self.below.as_mut())
    }

    #[cold]
    fn reopen(&self, deadline: u64) -> Result<Option<Cap<dyn NetQueue>>, NetError> {
        let mut absence = Absence::new();
        loop {
            match self.port.open_queue(self.index) {
                Ok(queue) => {
                    self.tallies.reopened.add(1);
                    return Ok(Some(queue));
                }
                Err(error) if !Absence::ends_for_reopening(error) => return Err(error),
                Err(_) if now() >= deadline => return Ok(None),
                Err(_) => absence.wait(deadline)?,
            }
        }
    }

    /// A call of the queue below has failed: it isn't used any more. Err: there is nothing to wait for.
    #[cold]
    fn fail(&mut self, error: NetError) -> Result<(), NetError> {
        if !Absence::ends_for_queue(error) {
            return Err(error);
        }
        self.below = None;
        if self.away_since == 0 {
            self.away_since = now();
            self.tallies.absences.add(1);
        }
        Ok(())
    }

    /// The same, for a call to which a batch of `count` packets was moved: gives that batch back, as the driver left it, or an empty one.
    #[cold]
    fn recover(&mut self, error: NetError, count: usize) -> Result<RRef<Batch>, NetError> {
        let batch = RRef::<Batch>::given_back();
        self.fail(error)?;
        match batch {
            Some(batch) => {
                self.tallies.given_back.add(1);
                Ok(batch)
            }
            None => {
                self.tallies.lost.add(count as u64);
                self.empty_batch()
            }
        }
    }

    /// A batch in place of one that is gone, as soon as the quota admits it.
    fn empty_batch(&self) -> Result<RRef<Batch>, NetError> {
        let mut absence = Absence::new();
        loop {
            match Batch::allocate() {
                Ok(batch) => return Ok(batch),
                Err(_) => absence.wait(NEVER)?,
            }
        }
    }

    /// A call of the queue below has gone well.
    #[inline]
    fn came_back(&mut self) {
        if self.away_since != 0 {
            self.count_absence();
        }
    }

    #[cold]
    fn count_absence(&mut self) {
        let away = now().saturating_sub(self.away_since);
        self.away_since = 0;
        self.tallies.away_nanos.add(away);
        if away > self.tallies.longest_nanos.get() {
            self.tallies.longest_nanos.set(away);
        }
    }
}

impl NetQueue for ShadowQueue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let before = batch.len();
        let mut deadline = 0;
        loop {
            if self.below.is_none() && deadline == 0 {
                deadline = now() + PATIENCE;
            }
            let Some(below) = self.reach(deadline)? else { return Ok(batch) };
            match below.receive(batch) {
                Ok(received) => {
                    self.came_back();
                    return Ok(received);
                }
                Err(error) => batch = self.recover(error, before)?,
            }
            // What the driver had received before it crashed.
            if batch.len() > before {
                return Ok(batch);
            }
        }
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        loop {
            let count = batch.len();
            // With no deadline it comes back only with a queue.
            let Some(below) = self.reach(NEVER)? else { return Ok(batch) };
            match below.send(batch) {
                Ok(rest) => {
                    self.came_back();
                    return Ok(rest);
                }
                Err(error) => batch = self.recover(error, count)?,
            }
        }
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        let Some(below) = self.reach(deadline)? else { return Ok(()) };
        match below.wait(deadline) {
            Ok(()) => self.came_back(),
            Err(error) => {
                self.fail(error)?;
                // Something may have arrived meanwhile: the client is to look as soon as there is a queue.
                self.reach(deadline)?;
            }
        }
        Ok(())
    }
}
