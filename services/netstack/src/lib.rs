//! A network stack in a domain of its own, for any number of services: `netstack-library` behind a port. A service that wants no domain between itself and the card links the same
//! library (`services/kv`, `services/httpd`).
//!
//! ```toml
//! [domains.stack]
//! image = "netstack"
//! imports = { net = "ixgbe0.net" }
//! cpus = [0, 1]              # as many as the card has queues: an instance for each
//! [domains.stack.config]     # netstack_library::Config
//! address = "10.0.1.3/24"
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;

use alloc::boxed::Box;

use interfaces::{Port, control::Control, net::Net, socket::NetStack};
use netstack_library::Services;
use runtime::env::{Env, StartError};

pub use netstack_library::Config;

use crate::control::Console;

#[derive(runtime::Imports)]
pub struct Imports {
    pub net: Port<dyn Net>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub stack: Box<dyn NetStack>,
    pub control: Box<dyn Control>,
}

pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let services = Services::start(&env, imports.net, config)?;
    Ok(Exports { stack: Box::new(services.clone()), control: Box::new(Console { services }) })
}
