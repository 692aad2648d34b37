//! The domain core: what makes domains of Rust images. Exchange heap, calls and their continuations, slots, capabilities, loader, supervisor,
//! console. It knows no machine; [`platform`] is the seam to one, and `kernel/metal` and `testbed/rig` both link this crate.
//!
//! Its promises are the invariants of docs/SOUNDNESS.md; the order of steps in [`call`] and [`supervisor`] is what they rest on.
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod blocks;
pub mod boot;
pub mod call;
pub mod capability;
mod console;
mod control;
pub mod device;
pub mod domain;
pub mod exchange;
pub mod feed;
mod given_back;
pub mod image;
pub mod incarnation;
pub mod interrupt;
pub mod lock;
pub mod log;
pub mod packets;
pub mod platform;
mod pool;
mod random;
pub mod record;
mod registry;
mod start;
mod state;
pub mod supervisor;
mod table;
pub mod thread;
pub mod trap;
mod wait;
mod watchdog;

use platform::Platform;

/// The atomics of what works without locks. A seam: a model checker's may stand in their place.
mod atomic {
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
}

/// The one machine that this core runs on.
struct Machine(core::cell::UnsafeCell<Option<&'static dyn Platform>>);
// SAFETY: written once, by `install`, before there is a second thread.
unsafe impl Sync for Machine {}
static MACHINE: Machine = Machine(core::cell::UnsafeCell::new(None));

/// Tells the core what it runs on.
///
/// # Safety
/// Called once, before anything else of this crate but [`thread::ThreadBlock::resident`], by the only thread.
pub unsafe fn install(platform: &'static dyn Platform) {
    // SAFETY: nobody else reads or writes now, by this function's contract.
    unsafe { *MACHINE.0.get() = Some(platform) }
}

/// The machine.
#[inline]
pub fn machine() -> &'static dyn Platform {
    // SAFETY: not written any more once there are readers (`install`).
    unsafe { (*MACHINE.0.get()).expect("kernel_core::install comes first") }
}
