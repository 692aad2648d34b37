//! One queue that outlives the driver's generations.

use alloc::sync::Arc;

use interfaces::{
    Cap, Port, RRef,
    block::{Block, BlockError, BlockQueue, InFlight, Opening, Requests, Status},
};
use runtime::{sync::NEVER, time::now};

use crate::{absence::Absence, statistics::QueueTallies};

/// How often in a row, with no request done meanwhile, requests that were lost are submitted again.
const TRIES: u32 = 8;

/// What is above holds this; it holds the queue below, as long as that is good.
pub struct ShadowQueue {
    port: Port<dyn Block>,
    index: u16,
    below: Option<Cap<dyn BlockQueue>>,
    /// Lost with a reset, and to be submitted again.
    again: Option<RRef<Requests>>,
    tries: u32,
    /// Since when the driver has been away; 0 while it is there.
    away_since: u64,
    tallies: Arc<QueueTallies>,
}

impl ShadowQueue {
    pub fn new(
        port: Port<dyn Block>,
        index: u16,
        below: Cap<dyn BlockQueue>,
        tallies: Arc<QueueTallies>,
    ) -> ShadowQueue {
        ShadowQueue { port, index, below: Some(below), again: None, tries: 0, away_since: 0, tallies }
    }

    /// The queue below, opened anew if it must be.
    #[inline]
    fn reach(&mut self) -> Result<&mut Cap<dyn BlockQueue>, BlockError> {
        let below = match self.below.take() {
            Some(below) => below,
            None => self.reopen()?,
        };
        Ok(self.below.insert(below))
    }

    #[cold]
    fn reopen(&self) -> Result<Cap<dyn BlockQueue>, BlockError> {
        let mut absence = Absence::new();
        loop {
            match self.port.open_queue(self.index, Opening::Resume) {
                Ok(queue) => {
                    self.tallies.reopened.add(1);
                    return Ok(queue);
                }
                Err(error) if !Absence::ends_for_reopening(error) => return Err(error),
                Err(_) => absence.wait(NEVER)?,
            }
        }
    }

    /// A call of the queue below has failed: it isn't used any more. Err: there is nothing to wait for.
    #[cold]
    fn fail(&mut self, error: BlockError) -> Result<(), BlockError> {
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

    /// The same, for a call to which a batch was moved: gives that batch back, as the driver left it. If it doesn't come back the client must know.
    #[cold]
    fn recover(&mut self, error: BlockError) -> Result<RRef<Requests>, BlockError> {
        let batch = RRef::<Requests>::given_back();
        self.fail(error)?;
        match batch {
            Some(batch) => {
                self.tallies.given_back.add(1);
                Ok(batch)
            }
            None => {
                self.tallies.lost.add(1);
                Err(error)
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

    /// Calls the queue below with a batch, by whichever generation it takes.
    #[inline]
    fn carry(
        &mut self,
        mut batch: RRef<Requests>,
        call: impl Fn(&mut Cap<dyn BlockQueue>, RRef<Requests>) -> Result<RRef<Requests>, BlockError>,
    ) -> Result<RRef<Requests>, BlockError> {
        loop {
            match call(self.reach()?, batch) {
                Ok(batch) => {
                    self.came_back();
                    return Ok(batch);
                }
                Err(error) => batch = self.recover(error)?,
            }
        }
    }

    /// Keeps what has just come to an end as lost, to be submitted again. What has no place stays, and the client hears of it.
    #[inline]
    fn keep_lost(&mut self, batch: &mut RRef<Requests>, before: usize) -> Result<(), BlockError> {
        let new = || batch.requests().iter().enumerate().skip(before);
        if new().any(|(_, request)| request.status() == Status::Done) {
            self.tries = 0;
        }
        let lost = new().filter(|(_, request)| request.status() == Status::Lost);
        let mask = lost.fold(0u32, |mask, (at, _)| mask | 1 << at);
        if mask == 0 || self.tries >= TRIES { Ok(()) } else { self.set_aside(batch, mask) }
    }

    #[cold]
    fn set_aside(&mut self, batch: &mut RRef<Requests>, mask: u32) -> Result<(), BlockError> {
        self.tries += 1;
        let mut again = match self.again.take() {
            Some(again) => again,
            None => self.empty_batch()?,
        };
        self.tallies.repeated.add(batch.transfer(mask, &mut again) as u64);
        for index in 0..again.len() {
            if let Some(mut request) = again.request_mut(index) {
                let order = request.order();
                request.set_order(order);
            }
        }
        self.again = Some(again);
        Ok(())
    }

    /// A batch, as soon as the quota admits it.
    fn empty_batch(&self) -> Result<RRef<Requests>, BlockError> {
        let mut absence = Absence::new();
        loop {
            match Requests::allocate() {
                Ok(batch) => return Ok(batch),
                Err(_) => absence.wait(NEVER)?,
            }
        }
    }

    /// Submits again what was lost, as far as there is place.
    #[inline]
    fn submit_again(&mut self) -> Result<(), BlockError> {
        if let Some(again) = self.again.take() {
            let rest = self.carry(again, |below, batch| below.submit(batch))?;
            self.again = Some(rest).filter(|rest| !rest.is_empty());
        }
        Ok(())
    }
}

impl BlockQueue for ShadowQueue {
    fn submit(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        self.submit_again()?;
        self.carry(batch, |below, batch| below.submit(batch))
    }

    fn poll(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        let before = batch.len();
        let mut batch = self.carry(batch, |below, batch| below.poll(batch))?;
        self.keep_lost(&mut batch, before)?;
        self.submit_again()?;
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), BlockError> {
        self.submit_again()?;
        match self.reach()?.wait(deadline) {
            Ok(()) => self.came_back(),
            // Something may have come to an end meanwhile: the client is to look.
            Err(error) => self.fail(error)?,
        }
        Ok(())
    }

    fn in_flight(&mut self, mut list: RRef<InFlight>) -> Result<RRef<InFlight>, BlockError> {
        self.submit_again()?;
        loop {
            match self.reach()?.in_flight(list) {
                Ok(mut list) => {
                    self.came_back();
                    for request in self.again.iter().flat_map(|again| again.requests()) {
                        list.push(request.order().id);
                    }
                    return Ok(list);
                }
                Err(error) => {
                    self.fail(error)?;
                    list = self.empty_list()?;
                }
            }
        }
    }
}

impl ShadowQueue {
    fn empty_list(&self) -> Result<RRef<InFlight>, BlockError> {
        let mut absence = Absence::new();
        loop {
            match RRef::new(InFlight::default()) {
                Ok(list) => return Ok(list),
                Err(_) => absence.wait(NEVER)?,
            }
        }
    }
}
