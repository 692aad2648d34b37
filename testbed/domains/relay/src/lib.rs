//! A probe that has another one behind it: chains of domains for the isolation tests, of any length, by the manifest alone.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

// The same source as the last probe's: a domain depends on no other domain's crate.
#[path = "../../probe/src/deeds.rs"]
pub mod deeds;
#[path = "../../probe/src/places.rs"]
mod places;
#[path = "../../probe/src/served.rs"]
pub mod served;
#[path = "../../probe/src/work.rs"]
mod work;

use alloc::boxed::Box;

use interfaces::{Port, config::NoConfig, probe::Probe};
use runtime::env::{Env, StartError};

use crate::{deeds::State, served::Probed};

#[derive(runtime::Imports)]
pub struct Imports {
    pub next: Port<dyn Probe>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub probe: Box<dyn Probe>,
}

/// Starts the domain: it has no threads until it is told to.
pub fn start(env: Env, imports: Imports, _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { probe: Box::new(Probed(State::new(env, Some(imports.next)))) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::{
        CallError, host,
        probe::{Deed, Relayed},
    };

    #[test]
    fn a_chain_relays_as_far_as_it_goes() {
        host::connect();
        let last: &dyn Probe = Box::leak(Box::new(Probed(State::new(Env::new("last", 1, &[0]), None))));
        let imports = Imports { next: Port::new(last) };
        let probe = start(Env::new("relay", 1, &[0]), imports, NoConfig {}).unwrap().probe;
        assert_eq!(probe.relay(1, Deed::Keep(2)), Ok(Relayed::Done));
        assert_eq!(host::live_objects(), 2, "the last probe keeps them");
        assert_eq!(probe.relay(2, Deed::Nothing), Ok(Relayed::Failed(CallError::Gone)));
        probe.act(Deed::KeepHandle).unwrap();
        assert_eq!(last.census(), Ok((1, 1)));
        drop(probe);
        assert_eq!(last.census(), Ok((1, 0)));
    }
}
