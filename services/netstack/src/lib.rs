//! A network stack for services: IPv4 and IPv6, ARP and NDP, ICMP, UDP and TCP, by smoltcp, with an instance for each queue of the card.
//!
//! [`stack`] is the core, without card and threads; [`instance`] puts it at a queue and lets services' threads in; this file and [`handle`] are the domain round it. What
//! services see is `interfaces::socket`.
//!
//! The box's addresses stand in the manifest, or the network tells them ([`learner`]: DHCP, router advertisements); names are looked up by [`resolver`].
//!
//! What isn't here: reassembly of fragments (counted), DHCP for IPv6, SYN cookies (the backlog is bounded instead, and the oldest gives way), selective acknowledgements
//! beyond what smoltcp does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addresses;
pub mod bound;
pub mod config;
pub mod connection;
pub mod control;
pub mod flow;
pub mod flows;
pub mod handle;
pub mod instance;
pub mod learner;
pub mod outbox;
pub mod resolver;
pub mod stack;
pub mod statistics;
pub mod sums;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use interfaces::{
    Port,
    config::{Configuration, Fault},
    control::Control,
    net::Net,
    socket::NetStack,
};
use runtime::env::{Env, StartError};

pub use config::Config;

use crate::{control::Console, handle::Services, instance::Instances};

#[derive(runtime::Imports)]
pub struct Imports {
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub stack: Box<dyn NetStack>,
    pub control: Box<dyn Control>,
}

/// Starts an instance on each of the domain's CPUs; the i-th is at queue i.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let faults = config.validate();
    if !faults.is_empty() {
        let lines: Vec<String> = faults.iter().map(|Fault { path, message }| format!("{path}: {message}")).collect();
        return Err(StartError(lines.join("; ")));
    }
    let config = Arc::new(config);
    let instances = Arc::new(Instances::new(imports.net, env.cpus().len() as u16, &config));
    for (index, &cpu) in env.cpus().iter().enumerate() {
        let (instances, config, index) = (instances.clone(), config.clone(), index as u16);
        env.spawn(&instance::caretaker_name(index), cpu, move || instances.care(index, config))?;
    }
    let services = Services { instances: instances.clone(), config };
    Ok(Exports { stack: Box::new(services), control: Box::new(Console { instances }) })
}
