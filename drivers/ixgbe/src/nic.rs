//! The `net` port.

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Cap,
    device::ixgbe::DeviceError,
    net::{Net, NetError, NetInfo, NetQueue},
};

use crate::{card::Card, queue::Queue, registers::EICS_EX};

pub struct Nic {
    card: Arc<Card>,
}

impl Nic {
    pub fn new(card: Arc<Card>) -> Self {
        Nic { card }
    }
}

impl Net for Nic {
    fn info(&self) -> Result<NetInfo, NetError> {
        let card = &*self.card;
        Ok(NetInfo {
            mac: card.mac,
            queues: card.queues,
            max_frame: card.max_frame(),
            fills_checksums: true,
            link: card.link(),
        })
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if index >= self.card.queues {
            return Err(NetError::NoSuchQueue);
        }
        Ok(Cap::new(Box::new(Queue::open(self.card.clone(), index)?)))
    }

    /// By the queue's own interrupt, which software may cause (82599 §8.2.3.5.4); while it is masked the cause is kept, so a wait that is about to begin ends at once.
    fn wake(&self, index: u16) -> Result<(), NetError> {
        if index >= self.card.queues {
            return Err(NetError::NoSuchQueue);
        }
        match self.card.device.write(EICS_EX, 1 << index) {
            Ok(()) => Ok(()),
            Err(DeviceError::Call(error)) => Err(NetError::Call(error)),
            Err(_) => Err(NetError::Device),
        }
    }
}
