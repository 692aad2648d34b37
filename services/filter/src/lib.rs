//! A packet filter: counts, and drops by rule, what passes between a card (or another filter, or a shadow) and a service. It exports what
//! it imports, so it stands anywhere in a chain, any number of times, by the manifest alone.
//!
//! A batch that passes is one object moving through; nothing is copied, allocated or locked on a packet's way. What is above sees the
//! errors of what is below, and may go on with the same queue: the filter opens the one below anew by itself.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod control;
pub mod headers;
pub mod queue;
pub mod rules;
pub mod statistics;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use interfaces::{
    Cap, Port,
    config::{Configuration, Fault},
    control::Control,
    net::{Net, NetError, NetInfo, NetQueue},
};
use runtime::env::{Env, StartError};

pub use config::Config;

use crate::{control::Console, queue::FilteredQueue, rules::Rules, statistics::Statistics};

#[derive(runtime::Imports)]
pub struct Imports {
    /// What is filtered.
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    /// The same, filtered.
    pub net: Box<dyn Net>,
    pub control: Box<dyn Control>,
}

/// Starts the filter: it has no threads of its own.
pub fn start(_env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let faults = config.validate();
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(|Fault { path, message }| format!("{path}: {message}")).collect();
        return Err(StartError(lines.join("; ")));
    }
    let rules = Arc::new(Rules::new(&config));
    let statistics = Arc::new(Statistics::new(rules.len()));
    let names = config.rules.iter().map(|rule| rule.name.clone()).collect();
    Ok(Exports {
        net: Box::new(Filter { below: imports.net, rules, statistics: statistics.clone() }),
        control: Box::new(Console { names, statistics }),
    })
}

/// The card that is shown above.
struct Filter {
    below: Port<dyn Net>,
    rules: Arc<Rules>,
    statistics: Arc<Statistics>,
}

impl Net for Filter {
    fn info(&self) -> Result<NetInfo, NetError> {
        self.below.info()
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        let queue = self.below.open_queue(index)?;
        let tallies = self.statistics.of_queue(index);
        let filtered = FilteredQueue::new(self.below, index, queue, self.rules.clone(), tallies);
        Ok(Cap::new(Box::new(filtered) as Box<dyn NetQueue>))
    }

    fn wake(&self, index: u16) -> Result<(), NetError> {
        self.below.wake(index)
    }
}
