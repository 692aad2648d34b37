//! The last probe of a chain: a domain that the isolation tests and the benchmark of calls tell what to do. It calls nobody.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod deeds;
mod places;
pub mod served;
mod work;

use alloc::boxed::Box;

use interfaces::{
    config::NoConfig,
    probe::{Deed, Probe},
};
use runtime::env::{Env, StartError};

use crate::{deeds::State, served::Probed};

#[derive(runtime::Exports)]
pub struct Exports {
    pub probe: Box<dyn Probe>,
}

/// Starts the domain: it has no threads until it is told to.
pub fn start(env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { probe: Box::new(Probed(State::new(env, None))) })
}

/// Starts every other generation; those between do a deed on the way, each another one, the last of them staying there.
pub fn start_stumbling(env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    let generation = env.generation() as usize;
    let state = State::new(env, None);
    if generation.is_multiple_of(2) {
        let deeds = Deed::DEADLY.len() + 1;
        let deed = Deed::DEADLY.get(generation / 2 % deeds).copied().unwrap_or(Deed::Stay);
        state.act(deed)?;
    }
    Ok(Exports { probe: Box::new(Probed(state)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::{
        CallError, RRef, host,
        probe::{Deed, Relayed, Word},
    };

    fn probe() -> Box<dyn Probe> {
        host::connect();
        start(Env::new("probe", 3, &[0]), (), NoConfig {}).unwrap().probe
    }

    #[test]
    fn calls_objects_and_handles_come_back() {
        let probe = probe();
        assert_eq!(probe.next(41), Ok(42));
        assert_eq!(*probe.pass(RRef::new(Word(1)).unwrap()).unwrap(), Word(2));
        let mut handle = probe.handle().unwrap();
        assert_eq!((handle.next(1), probe.census()), (Ok(2), Ok((3, 1))));
        drop(handle);
        assert_eq!(probe.census(), Ok((3, 0)));
        drop(probe);
        assert_eq!(host::live_objects(), 0);
    }

    #[test]
    fn what_is_kept_is_held_until_the_end() {
        let probe = probe();
        probe.act(Deed::Keep(5)).unwrap();
        probe.keep(RRef::new(Word(0)).unwrap()).unwrap();
        probe.act(Deed::KeepPackets(40)).unwrap();
        assert_eq!((host::live_objects(), host::buffers_out()), (8, 40));
        host::limit_objects(20);
        probe.act(Deed::HoardExchange).unwrap();
        assert_eq!(host::live_objects(), 20);
        drop(probe);
        assert_eq!((host::live_objects(), host::buffers_out()), (0, 0));
    }

    #[test]
    fn the_last_of_a_chain_relays_to_nobody() {
        let probe = probe();
        assert_eq!(probe.relay(0, Deed::Nothing), Ok(Relayed::Done));
        assert_eq!(probe.relay(1, Deed::Nothing), Ok(Relayed::Failed(CallError::Gone)));
        assert_eq!(probe.act(Deed::KeepHandle), Err(CallError::Gone));
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn a_deed_is_done_in_the_probes_own_code() {
        // The panic is the probe's; on the host nobody contains it.
        let _ = probe().act(Deed::IndexOutOfBounds);
    }
}
