//! A vector: an interrupt as an event that one thread waits for.

use core::ptr;

use crate::{
    atomic::{AtomicPtr, AtomicU64, Ordering},
    machine,
    platform::NEVER,
    thread,
    thread::ThreadBlock,
};

/// Counts how often an interrupt has fired, and wakes the thread that waits for it. Lives as long as a handler may fire it.
pub struct Vector {
    fired: AtomicU64,
    seen: AtomicU64,
    waiter: AtomicPtr<ThreadBlock>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Fired,
    TimedOut,
    /// The domain of the waiting thread is ending: return to it at once, it won't get far.
    Cancelled,
}

impl Vector {
    pub const fn new() -> Self {
        Vector { fired: AtomicU64::new(0), seen: AtomicU64::new(0), waiter: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The interrupt happened. For interrupt handlers; takes no lock.
    pub fn fire(&self) {
        self.fired.fetch_add(1, Ordering::SeqCst);
        let waiter = self.waiter.load(Ordering::SeqCst);
        // SAFETY: a waiter takes itself out before it leaves `wait`, and blocks are type-stable: at worst a thread that no longer waits gets a wake-up too
        // many, which `park` allows (SOUNDNESS: threads).
        if let Some(waiter) = unsafe { waiter.as_ref() } {
            machine().unpark(waiter);
        }
    }

    /// Blocks the calling thread until the vector has fired since the last wait that saw it, or `deadline`. One waiter at a time; a second one returns
    /// `TimedOut` when the first is woken.
    pub fn wait(&self, deadline: u64) -> Waited {
        let block = thread::current();
        block.sign_of_life();
        self.waiter.store(ptr::from_ref(block).cast_mut(), Ordering::SeqCst);
        let waited = loop {
            let fired = self.fired.load(Ordering::SeqCst);
            if self.seen.swap(fired, Ordering::Relaxed) != fired {
                break Waited::Fired;
            }
            if block.is_cancelled() {
                break Waited::Cancelled;
            }
            if deadline != NEVER && machine().now() >= deadline {
                break Waited::TimedOut;
            }
            thread::park(deadline);
        };
        self.waiter.store(ptr::null_mut(), Ordering::SeqCst);
        waited
    }

    /// Whether the vector has fired since the last wait that saw it.
    pub fn is_pending(&self) -> bool {
        self.fired.load(Ordering::Relaxed) != self.seen.load(Ordering::Relaxed)
    }
}

impl Default for Vector {
    fn default() -> Self {
        Self::new()
    }
}
