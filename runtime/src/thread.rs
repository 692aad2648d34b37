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

/// Tells the watchdog that this thread is alive: for a thread of the domain's own that works long without calling anybody. Every call to another domain or
/// to the kernel says so too.
pub fn alive() {
    (kernel().alive)()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_takes_until_the_deadline() {
        interfaces::host::connect();
        let deadline = crate::time::now() + 5_000_000;
        yield_now();
        alive();
        assert_eq!(sleep_until(deadline), Ok(()));
        assert!(crate::time::now() >= deadline);
    }
}
