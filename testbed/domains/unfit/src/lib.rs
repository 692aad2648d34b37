//! A domain that never gets as far as serving: it crashes while it starts, or refuses to.
#![no_std]
#![forbid(unsafe_code)]

use interfaces::{
    Cancelled, Port,
    config::NoConfig,
    probe::{Deed, Probe},
};
use runtime::{
    env::{Env, StartError},
    sync::{Event, NEVER},
};

/// Crashes while it starts.
pub fn start(_env: Env, _imports: (), _config: NoConfig) -> Result<(), StartError> {
    panic!("this domain crashes while it starts")
}

/// Has a reason not to start.
pub fn start_refusing(_env: Env, _imports: (), _config: NoConfig) -> Result<(), StartError> {
    Err("this domain has a reason not to start".into())
}

/// Never comes back, and takes no time.
pub fn start_waiting(_env: Env, _imports: (), _config: NoConfig) -> Result<(), StartError> {
    Event::new().wait(NEVER).map(drop).map_err(|Cancelled| "nobody waits for it any more".into())
}

#[derive(runtime::Imports)]
pub struct Imports {
    pub next: Port<dyn Probe>,
}

/// Waits in another domain, which never comes back.
pub fn start_asking(_env: Env, imports: Imports, _config: NoConfig) -> Result<(), StartError> {
    imports.next.act(Deed::WaitForever).map_err(StartError::from)
}

/// Never comes back.
pub fn start_hanging(_env: Env, _imports: (), _config: NoConfig) -> Result<(), StartError> {
    loop {
        core::hint::spin_loop();
    }
}
