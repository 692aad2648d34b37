//! What works without locks, under Loom: every order in which threads and their store buffers may come, up to a number of preemptions.
//!
//! Two kinds. Where a protocol is a file of its own, that very file is compiled here a second time, over Loom's atomics instead of the core's (the seam is
//! `crate::atomic`). The call itself is assembly, and its killer half a kernel: of these there is a model (`appliance`, `killer`), which takes the order of its steps from the
//! sources (`orders`), so that whoever changes the order there changes it here; and each swap of two steps that matters must fail.

extern crate alloc;

mod appliance;
mod atomic;
mod calls;
mod ground;
mod killer;
mod loans;
mod orders;
mod sources;
mod states;
mod wakeups;

// Where the kernel's files look for them.
use ground::{lock, machine, platform, thread};

/// Explores `scenario` with at most so many preemptions.
pub fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(scenario);
}
