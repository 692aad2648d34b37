//! Driver domain for NVMe controllers: the device's logic, in safe Rust.
//!
//! What decides where the device reads and writes memory is in the trusted layer (`drivers/nvme-device`), behind `NvmeDevice`; its queues and the commands in flight
//! outlive this domain. So a start is one of two things: a controller that nobody drives is reset and initialised ([`initialise`]); one whose queues are live, since an
//! earlier generation of this domain crashed, is adopted, and goes on meanwhile.
//!
//! One I/O queue pair per CPU of the domain, each a capability that one thread uses; no lock on the way of a request. A request that takes too long is aborted; if that
//! doesn't help either, or the device lies or vanishes, this domain declares it suspect and crashes: the next generation resets it, and what was in flight comes to an end as
//! `Lost`.
//!
//! Section numbers are of the NVM Express Base Specification 2.0, or, where it says so, of the NVM Command Set Specification 1.0.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod config;
mod console;
mod controller;
mod disk;
mod identify;
mod initialise;
mod keeper;
mod queue;
mod statistics;

use alloc::{boxed::Box, format, sync::Arc};

use interfaces::{Port, block::Block, control::Control, device::nvme::NvmeDevice};
use runtime::env::{Env, StartError};

pub use config::Config;

#[derive(runtime::Imports)]
pub struct Imports {
    pub device: Port<dyn NvmeDevice>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub block: Box<dyn Block>,
    pub control: Box<dyn Control>,
}

/// Brings the device into service, or takes it over.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let (controller, admin) = initialise::take_charge(imports.device, &config, env.cpus().len())?;
    let controller = Arc::new(controller);
    let cpu = *env.cpus().first().ok_or_else(|| StartError(format!("{} has no CPU", env.name())))?;
    let mut keeper = keeper::Keeper::new(controller.clone(), admin);
    env.spawn("keeper", cpu, move || keeper.run())
        .map_err(|error| StartError(format!("no thread for the keeper: {error}")))?;
    Ok(Exports {
        block: Box::new(disk::Disk::new(controller.clone())),
        control: Box::new(console::Console::new(controller)),
    })
}
