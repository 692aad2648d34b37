//! A network card without a card: a batch comes back as it went in, both ways. What is left when a driver's work is taken away, for benchmarks of the rest.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

use interfaces::{
    Cap, RRef,
    config::NoConfig,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use runtime::env::{Env, StartError};

#[derive(runtime::Exports)]
pub struct Exports {
    pub net: Box<dyn Net>,
}

pub fn start(_env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { net: Box::new(NullNet) })
}

struct NullNet;

impl Net for NullNet {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo { mac: MacAddress([2; 6]), queues: 1, max_frame: 1514, fills_checksums: false, link: Link::Down })
    }

    fn open_queue(&self, _index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        Ok(Cap::new(Box::new(NullQueue) as Box<dyn NetQueue>))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(())
    }
}

struct NullQueue;

impl NetQueue for NullQueue {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        Ok(batch)
    }

    fn send(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        Ok(batch)
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), NetError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::host;

    #[test]
    fn a_batch_comes_back_as_it_went_in() {
        host::connect();
        let net = start(Env::new("null", 1, &[0]), (), NoConfig {}).unwrap().net;
        let mut queue = net.open_queue(0).unwrap();
        let mut batch = Batch::allocate().unwrap();
        batch.fill(5);
        let batch = queue.receive(batch).unwrap();
        assert_eq!(queue.send(batch).unwrap().len(), 5);
    }
}
