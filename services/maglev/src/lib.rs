//! A layer-4 load balancer after Google's Maglev (NSDI'16): clients' packets to a VIP go to one of its backends, chosen by consistent
//! hashing and remembered by connection; backends answer clients directly (direct server return), so a packet is forwarded by a change of
//! its link addresses alone.
//!
//! One worker per CPU owns a queue pair and everything on a packet's way: [`frame`] looks into it, [`director`] decides, [`connections`]
//! remembers, and the [`plan`] in force (lookup [`table`]s and link addresses) is read without a lock. The first CPU's worker also makes
//! the plan ([`planner`]), by what [`neighbours`] answer to ARP and the operator wishes. [`drops`] and [`statistics`] account for every
//! packet.
//!
//! What isn't here yet: IPv6 (counted as an unknown protocol), reassembly of fragments (counted), backends off the box's segment.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod connections;
pub mod control;
pub mod director;
pub mod drops;
pub mod frame;
pub mod holding;
pub mod neighbours;
pub mod plan;
pub mod planner;
pub mod shared;
pub mod statistics;
pub mod table;
pub mod worker;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use interfaces::{
    Port,
    config::{Configuration, Fault},
    control::Control,
    net::Net,
};
use runtime::env::{Env, StartError};

pub use config::Config;

use crate::{
    connections::{Connections, Lifetimes},
    control::Console,
    director::Director,
    holding::Holding,
    plan::{Services, View},
    planner::Planner,
    shared::Shared,
    statistics::CpuCounters,
    worker::{Duty, Worker},
};

#[derive(runtime::Imports)]
pub struct Imports {
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

/// Starts a worker on each of the domain's CPUs; the i-th serves queue i.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let faults = config.validate();
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(|Fault { path, message }| format!("{path}: {message}")).collect();
        return Err(StartError(lines.join("; ")));
    }
    let config = Arc::new(config);
    let services = Arc::new(Services::new(&config));
    let shared = Arc::new(Shared::new(config.backends.len()));
    let planner = Planner::new(config.clone(), runtime::time::now());
    let published = planner.published().clone();
    let cpus: Arc<[Arc<CpuCounters>]> =
        env.cpus().iter().map(|_| Arc::new(CpuCounters::new(config.vips.len(), config.backends.len()))).collect();
    let mut duty = Some(Duty { planner, wishes_seen: 0, announced: false, spare: None });
    for (index, (&cpu, counters)) in env.cpus().iter().zip(cpus.iter()).enumerate() {
        let connections = Connections::new(config.connections as usize, config.backends.len(), lifetimes(&config));
        let (view, services, shared) = (View::new(published.clone()), services.clone(), shared.clone());
        let (counters, duty, port) = (counters.clone(), duty.take(), imports.net);
        let (index, workers) = (index as u16, env.cpus().len());
        env.spawn(&format!("queue{index}"), cpu, move || {
            // Asked for here, not before: the card may be restarting too, and a start must not wait for it.
            let Ok(info) = worker::persist(|| port.info()) else { return };
            if index == 0 && usize::from(info.queues) != workers {
                log::error!("the card has {} queues, but this domain {workers} CPUs: give both the same", info.queues);
            }
            if index >= info.queues {
                return;
            }
            let director = Director::new(info.mac.0, services.clone(), view, connections, counters);
            Worker { index, port, director, services, shared, duty, holding: Holding::new() }.run();
        })?;
    }
    Ok(Exports { control: Box::new(Console { config, shared, published, cpus }) })
}

fn lifetimes(config: &Config) -> Lifetimes {
    let config::Lifetimes { opening, established, closing, reset, datagram } = config.lifetimes;
    Lifetimes {
        opening: opening.nanos(),
        established: established.nanos(),
        closing: closing.nanos(),
        reset: reset.nanos(),
        datagram: datagram.nanos(),
    }
}
