//! The exam: a domain that has others crash in every way and at every point of a call, and looks at what its own calls come back with. It is the same on the metal in
//! QEMU and in the rig: what only an operator can do it asks for in the log (`exam: please kill b`), and whoever runs the exam does it. After each
//! round it says so and rests until c is restarted, so that counts can be taken.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod exam;

use interfaces::{Port, config::NoConfig, probe::Probe};
use runtime::env::{Env, StartError};

/// Three probes, of which `a` calls `b`, and `b` calls `c`.
#[derive(runtime::Imports)]
pub struct Imports {
    pub a: Port<dyn Probe>,
    pub b: Port<dyn Probe>,
    pub c: Port<dyn Probe>,
}

/// Starts the exam on the domain's first CPU; others of its threads run on the last.
pub fn start(env: Env, imports: Imports, _config: NoConfig) -> Result<(), StartError> {
    let first = env.cpus().first().copied().ok_or("an exam needs a CPU")?;
    let Imports { a, b, c } = imports;
    env.clone().spawn("exam", first, move || exam::run(&exam::Candidates { env, a, b, c }))?;
    Ok(())
}
