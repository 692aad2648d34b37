//! A client of a disk that verifies itself: it writes its region over and over, each block with its address, the number of the pass and a pattern of both, and reads it back.
//!
//! One thread per queue, each with a region of its own. What it says in the log is what a test judges by: `found` (the passes that a start finds in the region), `flushed` (a pass that is safe from now on), `verified`, and
//! `faculties` (what else the disk has been found to do), `FAILED` with the reason, after which that thread does no more. Every request must come to an end once, well, and soon.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod faculties;
mod pattern;

use alloc::{format, string::String, sync::Arc, vec::Vec};

use interfaces::{
    Port, RRef,
    block::Block,
    config::{Configuration, Fault},
    control::{Control, ControlError, Counters, Text},
};
use runtime::{
    env::{Env, StartError},
    tally::Tally,
};
use serde::{Deserialize, Serialize};

use crate::client::Client;

/// What the manifest says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    pub namespace: u16,
    /// Blocks of each thread's region.
    pub region: u32,
    /// The most blocks of one request.
    pub request: u32,
    /// Requests that a thread has in flight.
    pub depth: u32,
    /// Passes over the region; 0: for ever.
    pub passes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { namespace: 0, region: 2048, request: 24, depth: 64, passes: 0 }
    }
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (path, value) in [("region", self.region), ("request", self.request), ("depth", self.depth)] {
            if value == 0 {
                faults.push(Fault { path: path.into(), message: "there must be one at least".into() });
            }
        }
        faults
    }
}

#[derive(runtime::Imports)]
pub struct Imports {
    pub block: Port<dyn Block>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: alloc::boxed::Box<dyn Control>,
}

/// What the threads count.
#[derive(Default)]
pub struct Counts {
    pub requests: Tally,
    pub passes: Tally,
    pub failures: Tally,
}

/// Starts a thread on each CPU of the domain.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let counts: Arc<[Counts]> = env.cpus().iter().map(|_| Counts::default()).collect();
    for (index, cpu) in env.cpus().iter().enumerate() {
        let (counts, config, block) = (counts.clone(), config.clone(), imports.block);
        env.spawn("client", *cpu, move || {
            let counts = &counts[index];
            if let Err(error) = Client::open(block, index as u16, &config).and_then(|mut client| client.run(counts)) {
                counts.failures.add(1);
                log::error!("FAILED thread {index}: {error}");
            }
        })?;
    }
    Ok(Exports { control: alloc::boxed::Box::new(Shown(counts)) })
}

struct Shown(Arc<[Counts]>);

impl Control for Shown {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let all: Vec<(String, u64)> = self
            .0
            .iter()
            .enumerate()
            .flat_map(|(index, counts)| {
                [("requests", &counts.requests), ("passes", &counts.passes), ("failures", &counts.failures)]
                    .map(|(name, tally)| (format!("thread.{index}.{name}"), tally.get()))
            })
            .collect();
        for (name, value) in all.iter().skip(first as usize) {
            page.push(name, *value);
        }
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
