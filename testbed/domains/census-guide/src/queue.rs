//! One queue of the card, counted.

use alloc::sync::Arc;

use interfaces::{
    Cap, RRef,
    net::{NetError, NetQueue},
    packet::Batch,
};

use crate::Census;

pub struct CountedQueue {
    pub below: Cap<dyn NetQueue>,
    pub census: Arc<Census>,
    pub index: usize,
}

impl CountedQueue {
    fn count(&self, frame: &[u8]) {
        // A frame is whatever came over the wire: look before you index.
        let Some(&[high, low]) = frame.get(12..14) else { return };
        let ether_type = u16::from_be_bytes([high, low]);
        let kinds = self.census.config.count.iter().position(|kind| kind.ether_type == ether_type);
        if let Some(at) = kinds {
            self.census.tallies[self.index][at].add(1);
        }
    }
}

impl NetQueue for CountedQueue {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        // Packets that are in the batch already have been counted.
        let before = batch.len();
        let batch = self.below.receive(batch)?;
        batch.packets().iter().skip(before).for_each(|packet| self.count(packet.data()));
        Ok(batch)
    }

    fn send(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.below.send(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        self.below.wait(deadline)
    }
}
