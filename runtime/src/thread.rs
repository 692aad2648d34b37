//! The calling thread.

use interfaces::{Cancelled, abi::kernel};

/// Lets other threads of this CPU run.
pub fn yield_now() {
    (kernel().thread_yield)()
}

/// Sleeps until `deadline`, in nanoseconds since boot.
pub fn sleep_until(deadline: u64) -> Result<(), Cancelled> {
    match (kernel().thread_sleep)(deadline) {
        0 => Ok(()),
        _ => Err(Cancelled),
    }
}
