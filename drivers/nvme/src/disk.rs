//! The `block` port.

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Cap,
    block::{Block, BlockError, BlockInfo, BlockQueue, Opening},
};

use crate::{controller::Controller, queue::Queue};

pub struct Disk {
    controller: Arc<Controller>,
}

impl Disk {
    pub fn new(controller: Arc<Controller>) -> Self {
        Disk { controller }
    }
}

impl Block for Disk {
    fn info(&self, namespace: u16) -> Result<BlockInfo, BlockError> {
        self.controller.info(namespace).ok_or(BlockError::NoSuchNamespace)
    }

    fn open_queue(&self, index: u16, opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError> {
        if index >= self.controller.queues {
            return Err(BlockError::NoSuchQueue);
        }
        let mut queue = Queue::open(self.controller.clone(), index)?;
        if opening == Opening::Fresh {
            queue.drain()?;
        }
        Ok(Cap::new(Box::new(queue)))
    }
}
