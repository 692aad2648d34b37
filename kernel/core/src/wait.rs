//! Waiting for a word to change, for domains (as Linux's futex): the only way in which a domain's thread blocks, besides sleeping and interrupts.
//!
//! Every wait can be cancelled: when the thread's innermost domain dies, the supervisor wakes it, and it returns into a kernel entry that doesn't go back.

use alloc::vec::Vec;

use interfaces::CallError;

use crate::{
    atomic::{AtomicU32, Ordering},
    lock::Lock,
    machine,
    platform::NEVER,
    thread::{self, ThreadBlock},
};

const BUCKETS: usize = 64;

struct Waiter {
    address: usize,
    thread: &'static ThreadBlock,
}

static WAITERS: [Lock<Vec<Waiter>>; BUCKETS] = [const { Lock::new(Vec::new()) }; BUCKETS];

fn bucket(address: usize) -> &'static Lock<Vec<Waiter>> {
    &WAITERS[(address >> 2) % BUCKETS]
}

/// As `KernelTable::wait` says.
///
/// # Safety
/// `word` is valid until this returns.
pub(crate) unsafe fn wait(word: *const AtomicU32, expected: u32, deadline: u64) -> u32 {
    let thread = thread::current();
    let address = word.addr();
    bucket(address).lock().push(Waiter { address, thread });
    let result = loop {
        // SAFETY: this function's contract. Read after the entry was made, so that whoever changes the word later finds us.
        if unsafe { (*word).load(Ordering::SeqCst) } != expected {
            break 0;
        }
        if thread.is_cancelled() {
            break CallError::Cancelled as u32;
        }
        if deadline != NEVER && machine().now() >= deadline {
            break 1;
        }
        thread::park(deadline);
        if !bucket(address).lock().iter().any(|waiter| core::ptr::eq(waiter.thread, thread)) {
            return 0;
        }
    };
    bucket(address).lock().retain(|waiter| !core::ptr::eq(waiter.thread, thread));
    result
}

/// As `KernelTable::wake` says.
pub(crate) fn wake(word: *const AtomicU32, count: u32) {
    let mut waiters = bucket(word.addr()).lock();
    let mut left = count;
    waiters.retain(|waiter| {
        let woken = left > 0 && waiter.address == word.addr();
        if woken {
            left -= 1;
            machine().unpark(waiter.thread);
        }
        !woken
    });
}

/// As `KernelTable::thread_sleep` says.
pub(crate) fn sleep(deadline: u64) -> u32 {
    let thread = thread::current();
    while machine().now() < deadline {
        if thread.is_cancelled() {
            return CallError::Cancelled as u32;
        }
        thread::park(deadline);
    }
    0
}
