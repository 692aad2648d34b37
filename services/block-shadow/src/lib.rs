//! The shadow of a disk's driver: the same interface above and below, so that what stands above doesn't notice when the driver is restarted.
//!
//! Promises, whatever the driver does (panics, faults, hangs until the watchdog ends it, uses up its quota, is killed, resets its device):
//!
//! - A client's call comes back with what it would have come back with, later: no error, and the client's queue stays good.
//! - Every request comes to an end once. It is in one place only: in a batch, or in the lease. Those in the lease go on without the driver, and the next
//!   generation adopts them; a batch that was in the driver's hands is asked back from the kernel ([`RRef::given_back`](interfaces::RRef::given_back)): what the driver hadn't
//!   submitted is submitted by the next generation, what it had taken up is handed on.
//! - A request that was lost with a reset of the controller is submitted again, the same buffer with it. One that is lost again and again, with nothing done meanwhile, is
//!   passed on as it is.
//!
//! An error is passed on only if there is no next generation to wait for: the operator has stopped the driver, or the supervisor has given it up; or if a batch
//! didn't come back (then the client asks `in_flight`, as it would without a shadow). When the shadow itself crashes its client sees what a client of a driver sees, and
//! resumes with the next one.
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
    block::{Block, BlockError, BlockInfo, BlockQueue, Opening},
    config::NoConfig,
    control::Control,
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
    pub block: Port<dyn Block>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    /// The same, for ever.
    pub block: Box<dyn Block>,
    pub control: Box<dyn Control>,
}

/// Starts the shadow: it has no threads of its own, and doesn't ask for the driver before a client does.
pub fn start(_env: Env, imports: Imports, _config: NoConfig) -> Result<Exports, StartError> {
    want_back();
    let statistics = Arc::new(Statistics::new());
    let shadow = Shadow { below: imports.block, statistics: statistics.clone() };
    Ok(Exports { block: Box::new(shadow), control: Box::new(Console { statistics }) })
}

struct Shadow {
    below: Port<dyn Block>,
    statistics: Arc<Statistics>,
}

impl Shadow {
    /// Asks the driver, as soon as there is one.
    fn ask<T>(&self, mut ask: impl FnMut(Port<dyn Block>) -> Result<T, BlockError>) -> Result<T, BlockError> {
        let mut absence = Absence::new();
        loop {
            match ask(self.below) {
                Err(error) if Absence::ends(error) => absence.wait(NEVER)?,
                result => return result,
            }
        }
    }
}

impl Block for Shadow {
    fn info(&self, namespace: u16) -> Result<BlockInfo, BlockError> {
        self.ask(|below| below.info(namespace))
    }

    fn open_queue(&self, index: u16, opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError> {
        let queue = self.ask(|below| below.open_queue(index, opening))?;
        let shadowed = ShadowQueue::new(self.below, index, queue, self.statistics.of_queue(index));
        Ok(Cap::new(Box::new(shadowed) as Box<dyn BlockQueue>))
    }
}
