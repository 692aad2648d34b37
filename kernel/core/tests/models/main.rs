//! The call and its killer under Loom: every order in which threads and their store buffers may come, up to a number of preemptions.
//!
//! The call itself is assembly, and its killer half a kernel; so `calls` is a model of them, which takes the order of its steps from the sources: whoever changes
//! the order there changes it here. Each swap of two steps that matters must fail.

mod calls;
mod sources;

/// Explores `scenario` with at most so many preemptions.
pub fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(scenario);
}
