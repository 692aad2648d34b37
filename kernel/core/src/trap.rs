//! What the platform asks when a trap has interrupted a thread: is a domain at fault, must the thread be diverted?
//!
//! Runs in exception and interrupt handlers, on the thread's own CPU, on another stack than the thread's: takes no lock, allocates nothing.

use crate::{platform::Verdict, thread::ThreadBlock};

/// A CPU exception.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    pub kind: ExceptionKind,
    pub rip: usize,
    pub rsp: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionKind {
    /// With the address that was reached for (CR2, `si_addr`).
    PageFault { address: usize },
    /// Any other, by its x86 vector number.
    Other { vector: u8 },
}

/// An exception happened in `block`'s thread, which is the one that this CPU runs.
pub fn exception(block: &ThreadBlock, exception: &Exception) -> Verdict {
    let _ = (block, exception);
    Verdict::KernelBug
}

/// The platform is about to let `block`'s thread go on at `rip` after a kick (or after any interrupt: it costs little). Also a watchdog's sample.
pub fn consider(block: &ThreadBlock, rip: usize) -> Verdict {
    let _ = (block, rip);
    Verdict::Continue
}
