//! A classifier: one card for two clients, such as a load balancer and a network stack. It exports `net` twice: frames to the addresses that its manifest lists go to the client
//! of port `listed`, all others to that of `others`; answers to ARP to both. What either sends goes out as it is.
//!
//! Promises: each client sees a card of its own, with as many queues; frames stay in order on each side; a client that is away or slow costs the other nothing, and loses no more
//! than what goes beyond `waiting`; a crash of what is below is an error to both, as without a classifier, and they may go on with the same queues.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod control;
pub mod lane;
pub mod sorting;

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc};
use core::net::Ipv4Addr;

use interfaces::{
    Cap, Port, RRef,
    control::Control,
    net::{Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use runtime::{
    env::{Env, StartError},
    sync::Mutex,
};

pub use config::Config;

use crate::{
    control::Console,
    lane::{Lane, Side},
};

#[derive(runtime::Imports)]
pub struct Imports {
    /// The card.
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    /// As its client sees the card: the listed addresses' frames, and all others.
    pub listed: Box<dyn Net>,
    pub others: Box<dyn Net>,
    pub control: Box<dyn Control>,
}

/// Starts the classifier: it has no threads of its own, and asks the card for a queue when a client asks for one.
pub fn start(_env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let lanes = Arc::new(Lanes {
        below: imports.net,
        listed: config.listed.into(),
        waiting: config.waiting as usize,
        all: Mutex::new(BTreeMap::new()),
    });
    let half = |side| Box::new(Half { side, lanes: lanes.clone() });
    Ok(Exports {
        listed: half(Side::Listed),
        others: half(Side::Others),
        control: Box::new(Console { lanes: lanes.clone() }),
    })
}

/// The lanes, by queue, as far as somebody has asked for them.
pub struct Lanes {
    below: Port<dyn Net>,
    listed: Arc<[Ipv4Addr]>,
    waiting: usize,
    all: Mutex<BTreeMap<u16, Arc<Lane>>>,
}

impl Lanes {
    fn lane(&self, index: u16) -> Arc<Lane> {
        let new = || Arc::new(Lane::new(self.below, index, self.listed.clone(), self.waiting));
        self.all.lock().entry(index).or_insert_with(new).clone()
    }

    fn each(&self, mut show: impl FnMut(&Lane)) {
        self.all.lock().values().for_each(|lane| show(lane));
    }
}

/// What one client sees.
struct Half {
    side: Side,
    lanes: Arc<Lanes>,
}

impl Net for Half {
    fn info(&self) -> Result<NetInfo, NetError> {
        self.lanes.below.info()
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if index >= self.info()?.queues {
            return Err(NetError::NoSuchQueue);
        }
        let lane = self.lanes.lane(index);
        lane.open(self.side)?;
        Ok(Cap::new(Box::new(Handle { side: self.side, lane }) as Box<dyn NetQueue>))
    }

    fn wake(&self, index: u16) -> Result<(), NetError> {
        self.lanes.lane(index).wake(self.side)
    }
}

/// A client's queue.
struct Handle {
    side: Side,
    lane: Arc<Lane>,
}

impl NetQueue for Handle {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.lane.receive(self.side, batch)
    }

    fn send(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.lane.send(self.side, batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        self.lane.wait(self.side, deadline)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.lane.close(self.side);
    }
}
