//! One queue with the filter before it.

use alloc::sync::Arc;

use interfaces::{
    Cap, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::Batch,
};

use crate::{
    rules::{Judgement, Rules},
    statistics::QueueTallies,
};

/// What is above holds this; it holds the queue below.
pub struct FilteredQueue {
    port: Port<dyn Net>,
    index: u16,
    /// None after an error: the next call opens it anew.
    below: Option<Cap<dyn NetQueue>>,
    rules: Arc<Rules>,
    tallies: Arc<QueueTallies>,
}

impl FilteredQueue {
    pub fn new(
        port: Port<dyn Net>,
        index: u16,
        below: Cap<dyn NetQueue>,
        rules: Arc<Rules>,
        tallies: Arc<QueueTallies>,
    ) -> FilteredQueue {
        FilteredQueue { port, index, below: Some(below), rules, tallies }
    }

    /// Calls the queue below. After an error it isn't used any more: if its driver crashed it errs for ever.
    fn call<T>(&mut self, call: impl FnOnce(&mut Cap<dyn NetQueue>) -> Result<T, NetError>) -> Result<T, NetError> {
        let queue = match &mut self.below {
            Some(queue) => queue,
            None => {
                let queue = self.port.open_queue(self.index)?;
                self.tallies.reopened.add(1);
                self.below.insert(queue)
            }
        };
        let result = call(queue);
        if result.is_err() {
            self.below = None;
        }
        result
    }
}

impl NetQueue for FilteredQueue {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        // Packets that are in it already have been judged by whoever put them there.
        let before = batch.len();
        let mut batch = self.call(|queue| queue.receive(batch))?;
        let mut dropped = 0u32;
        for (i, packet) in batch.packets().iter().enumerate().skip(before) {
            let judgement = self.rules.judge_received(packet.data());
            self.tallies.count_rules(judgement, packet.data().len() as u64);
            dropped |= u32::from(judgement.dropped) << i;
        }
        let arrived = batch.len().saturating_sub(before) as u64;
        let count = u64::from(dropped.count_ones());
        self.tallies.received.dropped.add(count);
        self.tallies.received.passed.add(arrived - count);
        if dropped != 0 {
            batch.discard(dropped);
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut dropped = 0u32;
        let mut passing = [(Judgement::default(), 0u64); Batch::CAPACITY];
        let mut count = 0;
        for (i, packet) in batch.packets().iter().enumerate() {
            let judgement = self.rules.judge_sent(packet.data());
            let bytes = packet.data().len() as u64;
            if judgement.dropped {
                self.tallies.count_rules(judgement, bytes);
                dropped |= 1 << i;
            } else {
                passing[count] = (judgement, bytes);
                count += 1;
            }
        }
        self.tallies.sent.dropped.add(u64::from(dropped.count_ones()));
        if dropped != 0 {
            batch.discard(dropped);
        }
        if batch.is_empty() {
            return Ok(batch);
        }
        let batch = self.call(|queue| queue.send(batch))?;
        // What found no place comes again, and is counted then.
        let sent = count - batch.len().min(count);
        self.tallies.sent.passed.add(sent as u64);
        for &(judgement, bytes) in &passing[..sent] {
            self.tallies.count_rules(judgement, bytes);
        }
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        self.call(|queue| queue.wait(deadline))
    }
}
