//! Driver domain for Intel's 82599 10 GbE family: the device's logic, in safe Rust.
//!
//! What decides where the device reads and writes memory is in the trusted layer (`drivers/ixgbe-device`), behind `IxgbeDevice`; its rings outlive this
//! domain. So a start is one of two things: a device that nobody drives is reset and initialised ([`initialise`]); a device whose rings are live,
//! since an earlier generation of this domain crashed, is adopted and not touched.
//!
//! One queue pair per CPU of the domain, each a capability that one thread uses; no lock and no register access on the way of a packet but the rings'
//! tails. If the device lies, hangs or vanishes, this domain declares it suspect and crashes: the next generation resets it.
//!
//! Section numbers are of Intel's 82599 10 GbE Controller Datasheet.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod card;
mod config;
mod console;
mod family;
mod initialise;
mod keeper;
mod link;
mod nic;
mod queue;
mod registers;
mod statistics;
mod steering;

use alloc::{boxed::Box, format, sync::Arc};

use interfaces::{Port, control::Control, device::ixgbe::IxgbeDevice, net::Net};
use runtime::env::{Env, StartError};

pub use config::{Config, Station};
pub use family::{VARIANTS, Variant};

#[derive(runtime::Imports)]
pub struct Imports {
    pub device: Port<dyn IxgbeDevice>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub net: Box<dyn Net>,
    pub control: Box<dyn Control>,
}

/// Brings the device into service, or takes it over.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let card = Arc::new(card::Card::take_charge(imports.device, &config, env.cpus().len())?);
    let cpu = *env.cpus().first().ok_or_else(|| StartError(format!("{} has no CPU", env.name())))?;
    let mut keeper = keeper::Keeper::new(card.clone())?;
    env.spawn("keeper", cpu, move || keeper.run())
        .map_err(|error| StartError(format!("no thread for the keeper: {error}")))?;
    Ok(Exports { net: Box::new(nic::Nic::new(card.clone())), control: Box::new(console::Console::new(card)) })
}
