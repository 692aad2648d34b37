//! The shadow of a network card's driver: the same interface above and below, so that what stands above doesn't notice when the driver is restarted.
//!
//! Promises, whatever the driver does (panics, faults, hangs until the watchdog ends it, uses up its quota, is killed, resets its device):
//!
//! - A client's call comes back with what it would have come back with, later: no error, and the client's queue stays good.
//! - A batch that was in the driver's hands is asked back from the kernel ([`RRef::given_back`](interfaces::RRef::given_back)). What the driver had received is handed on, what
//!   it had not sent is sent by the next generation: nothing is lost, and nothing twice, since a packet is in one place only.
//! - `receive` doesn't keep its caller from other work: while the driver is away it comes back empty after a millisecond. `send` comes back when the packets are in
//!   the ring, and `wait` by its deadline.
//!
//! An error is passed on only if there is no next generation to wait for: the operator has stopped the driver, or the supervisor has given it up. The shadow itself is
//! no driver: it holds nothing but the queue below, and when it crashes its client sees what a client of a driver sees.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod absence;
mod control;
mod queue;
mod statistics;

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Cap, Port,
    config::NoConfig,
    control::Control,
    net::{Net, NetError, NetInfo, NetQueue},
    want_back,
};
use runtime::{
    env::{Env, StartError},
    sync::NEVER,
};

use crate::{absence::Absence, control::Console, queue::ShadowQueue, statistics::Statistics};

#[derive(runtime::Imports)]
pub struct Imports {
    /// The driver, or whatever else may be restarted.
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    /// The same, for ever.
    pub net: Box<dyn Net>,
    pub control: Box<dyn Control>,
}

/// Starts the shadow: it has no threads of its own, and doesn't ask for the driver before a client does.
pub fn start(_env: Env, imports: Imports, _config: NoConfig) -> Result<Exports, StartError> {
    want_back();
    let statistics = Arc::new(Statistics::new());
    let shadow = Shadow { below: imports.net, statistics: statistics.clone() };
    Ok(Exports { net: Box::new(shadow), control: Box::new(Console { statistics }) })
}

struct Shadow {
    below: Port<dyn Net>,
    statistics: Arc<Statistics>,
}

impl Shadow {
    /// Asks the driver, as soon as there is one.
    fn ask<T>(&self, mut ask: impl FnMut(Port<dyn Net>) -> Result<T, NetError>) -> Result<T, NetError> {
        let mut absence = Absence::new();
        loop {
            match ask(self.below) {
                Err(error) if Absence::ends(error) => absence.wait(NEVER)?,
                result => return result,
            }
        }
    }
}

impl Net for Shadow {
    fn info(&self) -> Result<NetInfo, NetError> {
        self.ask(|below| below.info())
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        let queue = self.ask(|below| below.open_queue(index))?;
        let shadowed = ShadowQueue::new(self.below, index, queue, self.statistics.of_queue(index));
        Ok(Cap::new(Box::new(shadowed) as Box<dyn NetQueue>))
    }

    /// Asked again of the next generation: a wait that is carried on there ends too.
    fn wake(&self, index: u16) -> Result<(), NetError> {
        self.ask(|below| below.wake(index))
    }
}
