//! The `net` port.

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Cap,
    net::{Net, NetError, NetInfo, NetQueue},
};

use crate::{card::Card, queue::Queue};

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
        Ok(NetInfo { mac: card.mac, queues: card.queues, max_frame: card.max_frame(), link: card.link() })
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if index >= self.card.queues {
            return Err(NetError::NoSuchQueue);
        }
        Ok(Cap::new(Box::new(Queue::open(self.card.clone(), index)?)))
    }
}
