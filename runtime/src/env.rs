//! What a domain is given at its start.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

use interfaces::abi::kernel;

/// The domain's place in the box.
#[derive(Clone, Debug)]
pub struct Env {
    pub(crate) name: String,
    pub(crate) generation: u32,
    pub(crate) cpus: Vec<u32>,
}

impl Env {
    /// For tests of domains on the host.
    pub fn new(name: &str, generation: u32, cpus: &[u32]) -> Self {
        Env { name: name.into(), generation, cpus: cpus.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// 1 at the first start, one more at each restart.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The CPUs that the manifest gives to this domain.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Starts a thread pinned to `cpu`, which must be one of the domain's. It ends when `work` returns.
    pub fn spawn(&self, name: &str, cpu: u32, work: impl FnOnce() + Send + 'static) -> Result<(), SpawnError> {
        let argument = Box::into_raw(Box::new(Box::new(work) as Box<dyn FnOnce() + Send>));
        // SAFETY: `run_boxed` takes `argument` back, once.
        let id = unsafe { (kernel().thread_spawn)(name.as_ptr(), name.len(), cpu, 0, run_boxed, argument.cast()) };
        if id == 0 {
            // SAFETY: the kernel started no thread, so the box is still ours.
            drop(unsafe { Box::from_raw(argument) });
            return Err(SpawnError);
        }
        Ok(())
    }
}

extern "C" fn run_boxed(argument: *mut u8) {
    // SAFETY: `spawn` made this pointer from a box and handed it to one thread.
    let work = unsafe { Box::from_raw(argument.cast::<Box<dyn FnOnce() + Send>>()) };
    work();
}

/// The kernel has no memory for another thread of this domain, the manifest admits no more (`threads`), or the CPU isn't the domain's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnError;

/// Why a domain can't start, in words for the operator.
#[derive(Clone, Debug)]
pub struct StartError(pub String);

impl<T: fmt::Display> From<T> for StartError {
    fn from(error: T) -> Self {
        StartError(alloc::format!("{error}"))
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory for another thread, as many as the manifest admits (`threads`), or a CPU that is not this domain's")
    }
}
