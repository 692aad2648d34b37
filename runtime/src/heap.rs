//! A domain's private heap: the allocator `talc` over pages that the kernel accounts to the domain.
//!
//! What it promises: memory comes only from `KernelTable::heap_grow`, so a reclaim frees it in bulk; a quota that is reached makes an allocation fail, and
//! [`quota_refused`] tells the panic that follows from others.

use core::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicBool, Ordering},
};

use interfaces::abi::kernel;
use lock_api::{GuardNoSend, RawMutex};
use talc::{
    TalcLock,
    base::{Talc, binning::Binning},
    min_first_heap_size,
    source::Source,
};

use crate::sync::Lock;

const PAGE: usize = 4096;
/// The least that is asked for at once: fewer calls, longer free runs.
const GROWTH: usize = 16 * PAGE;
/// More than talc adds to an allocation: the tags around a chunk and at the ends of a heap.
const OVERHEAD: usize = 128;

/// Whether the kernel's last answer to this heap was no.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether the last attempt to grow the heap met the quota.
pub fn quota_refused() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// The heap, for `#[global_allocator]`.
pub struct Heap(TalcLock<SleepingLock, KernelPages>);

impl Heap {
    pub const fn new() -> Self {
        Heap(TalcLock::new(KernelPages))
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: talc's, under a lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: the same contract.
        unsafe { self.0.dealloc(object, layout) }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the same contract.
        unsafe { self.0.realloc(object, layout, size) }
    }
}

/// Where talc gets its memory.
#[derive(Debug)]
struct KernelPages;

// SAFETY: `acquire` touches no allocator but the one that it is given; the kernel's pages are this heap's alone, until the image is gone.
unsafe impl Source for KernelPages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let least = layout.size().saturating_add(layout.align()).saturating_add(OVERHEAD + min_first_heap_size::<B>());
        let pages = |bytes: usize| bytes.div_ceil(PAGE);
        // First a generous piece, then, near the quota, just what is needed.
        for pages in [pages(least.max(GROWTH)), pages(least)] {
            let memory = (kernel().heap_grow)(pages);
            if !memory.is_null() {
                REFUSED.store(false, Ordering::Relaxed);
                // SAFETY: `heap_grow` gave us these pages for good.
                return unsafe { talc.claim(memory, pages * PAGE) }.map(drop).ok_or(());
            }
        }
        REFUSED.store(true, Ordering::Relaxed);
        Err(())
    }
}

/// The heap's lock, as talc wants it. A thread that is diverted while it holds it takes only its own dead domain with it.
///
/// Its contenders sleep (see [`Lock`]): the kernel's threads that visit domains, to start them or to drop what a handle stood for, are more urgent than a domain's own.
pub struct SleepingLock(Lock);

// SAFETY: `Lock::lock` and `Lock::try_lock` succeed for one caller until `unlock`; acquire and release order what the lock protects.
unsafe impl RawMutex for SleepingLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api wants it so")]
    const INIT: Self = SleepingLock(Lock::new());
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::Env, sync::Event};
    use alloc::{sync::Arc, vec::Vec};

    /// `REFUSED` is one for the process: these tests take turns.
    static TURN: crate::sync::Mutex<()> = crate::sync::Mutex::new(());

    /// Protects whoever is on the CPU of a thread that has the heap, itself among them: one more urgent that only yielded until it is free would let nobody else run, for ever.
    #[test]
    fn who_waits_for_the_heap_sleeps() {
        interfaces::host::connect();
        let env = Env::new("test", 1, &[0]);
        let (lock, had) = (Arc::new(SleepingLock::INIT), Arc::new(Event::new()));
        lock.lock();
        let theirs = (lock.clone(), had.clone());
        env.spawn("waits", 0, move || {
            theirs.0.lock();
            theirs.1.set();
        })
        .unwrap();
        let deadline = crate::time::now() + 20_000_000_000;
        while !lock.0.is_wanted() {
            assert!(crate::time::now() < deadline, "nobody sleeps until the lock is free");
            crate::thread::yield_now();
        }
        // SAFETY: locked above.
        unsafe { lock.unlock() };
        assert_eq!(had.wait(deadline), Ok(true));
    }

    fn allocate(heap: &Heap, size: usize, align: usize) -> (*mut u8, Layout) {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: no size here is 0.
        (unsafe { heap.alloc(layout) }, layout)
    }

    #[test]
    fn objects_are_aligned_disjoint_and_reused() {
        interfaces::host::connect();
        let _turn = TURN.lock();
        let heap = Heap::new();
        let mut objects = Vec::new();
        for size in [1, 24, 4096, 100_000, 3_000_000] {
            for align in [1, 16, 4096] {
                let (object, layout) = allocate(&heap, size, align);
                assert!(!object.is_null() && object.addr() % align == 0);
                // SAFETY: `size` bytes that are ours.
                unsafe { object.write_bytes(objects.len() as u8, size) };
                objects.push((object, layout));
            }
        }
        for (at, (object, layout)) in objects.into_iter().enumerate() {
            // SAFETY: allocated and written above, with this layout.
            unsafe {
                let bytes = core::slice::from_raw_parts(object, layout.size());
                assert!(bytes.iter().all(|byte| *byte == at as u8), "object {at} was overwritten");
                heap.dealloc(object, layout);
            }
        }
    }

    #[test]
    fn a_layout_beyond_all_memory_is_refused_and_said_to_be_the_quota() {
        interfaces::host::connect();
        let _turn = TURN.lock();
        let heap = Heap::new();
        let (object, _) = allocate(&heap, isize::MAX as usize - 1_000_000, 1);
        assert!(object.is_null());
        assert!(quota_refused());
        let (object, _) = allocate(&heap, 100, 8);
        assert!(!object.is_null(), "a refused allocation leaves the heap usable");
        assert!(!quota_refused());
    }
}
