//! Clients' packets that came while the box was starting: kept for the few milliseconds until it is known which backends are alive, so that
//! a restart of this domain costs a connection a delay, not a packet.
//!
//! Promises: bounded in number and in time; what is not kept is counted (`DropReason::Starting`).

use alloc::vec::Vec;

use interfaces::{RRef, packet::Batch};

/// As many batches are kept: half of a usual receive ring.
const MOST_BATCHES: usize = 8;
/// And not longer than this: a client has sent its packet again by then.
const LONGEST: u64 = 500_000_000;

pub struct Holding {
    batches: Vec<RRef<Batch>>,
    /// Since when the first of them is kept.
    since: u64,
}

impl Holding {
    pub fn new() -> Holding {
        Holding { batches: Vec::with_capacity(MOST_BATCHES), since: 0 }
    }

    /// Takes the packets whose bit is set in `mask` out of `batch`, and keeps them if there is a place; returns how many were not kept, but
    /// dropped.
    pub fn keep(&mut self, batch: &mut RRef<Batch>, mask: u32, now: u64) -> usize {
        let count = mask.count_ones() as usize;
        if self.batches.is_empty() {
            self.since = now;
        }
        if self.batches.last().is_none_or(|last| last.len() + count > Batch::CAPACITY)
            && self.batches.len() < MOST_BATCHES
            && let Ok(another) = Batch::allocate()
        {
            self.batches.push(another);
        }
        match self.batches.last_mut() {
            Some(last) if last.len() + count <= Batch::CAPACITY => {
                batch.transfer(mask, last);
                0
            }
            _ => {
                batch.discard(mask);
                count
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The oldest batch, to be handled now.
    pub fn release(&mut self) -> Option<RRef<Batch>> {
        if self.batches.is_empty() { None } else { Some(self.batches.remove(0)) }
    }

    /// Drops what is kept for too long; returns how many packets that were.
    pub fn expire(&mut self, now: u64) -> usize {
        if self.batches.is_empty() || now.saturating_sub(self.since) < LONGEST {
            return 0;
        }
        self.batches.drain(..).map(|batch| batch.len()).sum()
    }

    /// Packets that are kept.
    pub fn count(&self) -> usize {
        self.batches.iter().map(|batch| batch.len()).sum()
    }
}

impl Default for Holding {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::host;

    /// A batch of packets that are as long as their number in `from..to`.
    fn batch(from: usize, to: usize) -> RRef<Batch> {
        let mut batch = Batch::allocate().unwrap();
        batch.fill(to - from);
        for (mut packet, len) in batch.packets_mut().into_iter().zip(from..to) {
            packet.set_len(len);
        }
        batch
    }

    fn lengths(batch: &RRef<Batch>) -> Vec<usize> {
        batch.packets().iter().map(|packet| packet.data().len()).collect()
    }

    #[test]
    fn packets_are_kept_and_released_in_order() {
        host::connect();
        let mut holding = Holding::new();
        let mut received = batch(1, 5);
        assert_eq!(holding.keep(&mut received, 0b1010, 0), 0);
        assert_eq!(lengths(&received), [1, 3], "the others stay");
        assert_eq!(holding.keep(&mut batch(5, 7), 0b11, 0), 0);
        assert_eq!(lengths(&holding.release().unwrap()), [2, 4, 5, 6]);
        assert!(holding.is_empty() && holding.release().is_none());
    }

    #[test]
    fn no_more_than_the_bound_is_kept_and_nothing_leaks() {
        host::connect();
        let mut holding = Holding::new();
        let mut dropped = 0;
        for _ in 0..20 {
            dropped += holding.keep(&mut batch(0, 32), u32::MAX, 0);
        }
        assert_eq!((holding.count(), dropped), (32 * MOST_BATCHES, 32 * (20 - MOST_BATCHES)));
        host::limit_objects(0);
        assert_eq!(holding.expire(LONGEST - 1), 0);
        assert_eq!(holding.expire(LONGEST), 32 * MOST_BATCHES);
        assert_eq!((host::live_objects(), host::buffers_out()), (0, 0));
    }

    #[test]
    fn without_memory_packets_are_dropped_and_counted() {
        host::connect();
        let mut received = batch(0, 3);
        host::limit_objects(1);
        assert_eq!(Holding::new().keep(&mut received, 0b101, 0), 2);
        assert_eq!(received.len(), 1);
    }
}
