//! Census: passes frames on as they are, and counts them by their EtherType.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod queue;

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use interfaces::{
    Cap, Port, RRef,
    control::{Control, ControlError, Counters, Text},
    net::{Net, NetError, NetInfo, NetQueue},
};
use runtime::{
    env::{Env, StartError},
    tally::Tally,
};

use crate::{config::Config, queue::CountedQueue};

#[derive(runtime::Imports)]
pub struct Imports {
    /// Whose frames are counted.
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    /// The same card, counted.
    pub net: Box<dyn Net>,
    /// The counts, for the console.
    pub control: Box<dyn Control>,
}

/// Starts the domain.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let info = imports.net.info().map_err(|error| StartError(alloc::format!("the card does not answer: {error:?}")))?;
    let config = Arc::new(config);
    // One set of counts for each queue: it is used by one thread, so counting takes no lock.
    let tallies = (0..info.queues).map(|_| config.count.iter().map(|_| Tally::new()).collect()).collect();
    let census = Arc::new(Census { config, tallies });
    log::info!("{} counts {} kinds of frames on {} queues", env.name(), census.config.count.len(), info.queues);
    Ok(Exports {
        net: Box::new(Counted { below: imports.net, census: census.clone() }),
        control: Box::new(Console(census)),
    })
}

/// What has been counted: by queue, then by kind.
pub struct Census {
    config: Arc<Config>,
    tallies: Vec<Vec<Tally>>,
}

/// The card, as those above see it.
struct Counted {
    below: Port<dyn Net>,
    census: Arc<Census>,
}

impl Net for Counted {
    fn info(&self) -> Result<NetInfo, NetError> {
        self.below.info()
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if usize::from(index) >= self.census.tallies.len() {
            return Err(NetError::NoSuchQueue);
        }
        let below = self.below.open_queue(index)?;
        Ok(Cap::new(Box::new(CountedQueue { below, census: self.census.clone(), index: index.into() })))
    }

    fn wake(&self, index: u16) -> Result<(), NetError> {
        self.below.wake(index)
    }
}

struct Console(Arc<Census>);

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let kinds = self.0.config.count.iter().enumerate().skip(first as usize);
        for (at, kind) in kinds {
            let sum = self.0.tallies.iter().map(|tallies| tallies[at].get()).sum();
            if !page.push(&kind.name, sum) {
                break;
            }
        }
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
