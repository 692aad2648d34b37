//! An exported object is called from many threads.
use interfaces::{
    Cap,
    net::{Net, NetError, NetInfo, NetQueue},
};
use std::rc::Rc;

struct Card(Rc<()>);

impl Net for Card {
    fn info(&self) -> Result<NetInfo, NetError> {
        Err(NetError::Device)
    }
    fn open_queue(&self, _: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        Err(NetError::Device)
    }
    fn wake(&self, _: u16) -> Result<(), NetError> {
        Err(NetError::Device)
    }
}

fn main() {}
