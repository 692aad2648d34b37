//! Threads: the block that `gs:[0]` points at, with the continuation stack.
//!
//! A block is written by its own thread (and, as the atomics say, by the supervisor); others read it while it runs. Blocks are never unmapped, only
//! used again, so that a stale pointer to one is at worst a pointer to another thread.

use core::{
    arch::asm,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use crate::machine;

/// What the kernel knows of a thread. The first fields are the hot ones.
#[repr(C, align(64))]
pub struct ThreadBlock {
    preempt_off: AtomicU32,
    want_switch: AtomicU32,
    /// For the platform's own use: its record of this thread.
    pub platform: AtomicPtr<()>,
    /// CPU that this thread is pinned to.
    pub cpu: AtomicU32,
}

impl ThreadBlock {
    /// A block for a thread that the platform itself makes: one that idles, or the one that boots.
    pub fn resident(cpu: usize) -> &'static ThreadBlock {
        let block = alloc::boxed::Box::leak(alloc::boxed::Box::new(ThreadBlock {
            preempt_off: AtomicU32::new(0),
            want_switch: AtomicU32::new(0),
            platform: AtomicPtr::new(core::ptr::null_mut()),
            cpu: AtomicU32::new(cpu as u32),
        }));
        block
    }

    /// Whether this thread must not be switched away from now.
    pub fn preemption_is_off(&self) -> bool {
        self.preempt_off.load(Ordering::Relaxed) != 0
    }

    /// Asks the thread to yield when it turns preemption on again.
    pub fn want_switch(&self) {
        self.want_switch.store(1, Ordering::Relaxed);
    }

    /// Whether the domain that this thread is in is ending: blocking calls return.
    pub fn is_cancelled(&self) -> bool {
        false
    }
}

/// The running thread's block.
#[inline(always)]
pub fn current() -> &'static ThreadBlock {
    let block: *const ThreadBlock;
    // SAFETY: `gs:[0]` holds the running thread's block on every CPU at any time (the platform's contract), and blocks are never unmapped.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) block, options(nostack, preserves_flags, readonly));
        &*block
    }
}

pub fn preemption_off() {
    let block = current();
    block.preempt_off.store(block.preempt_off.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

pub fn preemption_on() {
    let block = current();
    let count = block.preempt_off.load(Ordering::Relaxed) - 1;
    block.preempt_off.store(count, Ordering::Relaxed);
    if count == 0 && block.want_switch.swap(0, Ordering::Relaxed) != 0 {
        machine().thread_yield();
    }
}

/// `block`'s thread has left its stack for good. Called by the platform from another thread or stack, holding no lock of its scheduler; afterwards the
/// platform doesn't touch the block or the stack.
pub fn ended(block: &'static ThreadBlock) {
    let _ = block;
}
