//! The core's spin lock: its holder isn't switched away from, so nobody spins for long.
//!
//! Locks are leaves or taken in the order of the modules that own them; none is held across domain code, a `park`, or a call of the platform that may
//! block. None is taken in a trap or an interrupt handler.

use alloc::collections::BTreeMap;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    panic::Location,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use crate::thread;

/// A place in the kernel's code that takes a lock.
struct Site {
    at: AtomicPtr<Location<'static>>,
    taken: AtomicU64,
}

/// Where domains' own threads have taken locks while they had something to do. Filled in debug builds only; taking a lock to count locks won't do.
static SITES: [Site; 256] = [const { Site { at: AtomicPtr::new(ptr::null_mut()), taken: AtomicU64::new(0) } }; 256];

/// Counts a lock taken there. What finds no place any more is counted at the last one.
pub(crate) fn count_at(at: &'static Location<'static>) {
    let this = ptr::from_ref(at).cast_mut();
    let place = SITES.iter().find(|site| {
        let known = site.at.compare_exchange(ptr::null_mut(), this, Ordering::Relaxed, Ordering::Relaxed);
        known.map_or_else(|known| ptr::eq(known, this), |_| true)
    });
    place.unwrap_or(&SITES[SITES.len() - 1]).taken.fetch_add(1, Ordering::Relaxed);
}

/// How many locks domains' own threads have taken, by the place in the kernel's code; what they do only to fall asleep is left out.
pub fn sites() -> BTreeMap<(&'static str, u32), u64> {
    let mut sites = BTreeMap::new();
    for site in &SITES {
        // SAFETY: null, or a `'static` location.
        if let Some(at) = unsafe { site.at.load(Ordering::Relaxed).as_ref() } {
            // The compiler may have made one place in the source several.
            *sites.entry((at.file(), at.line())).or_default() += site.taken.load(Ordering::Relaxed);
        }
    }
    sites
}

pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `lock` lets one thread at a time to the value.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Lock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T> {
        thread::preemption_off();
        if cfg!(debug_assertions) {
            // For the tests that what is said to take no lock takes none.
            thread::current().count_lock(Location::caller());
        }
        while self.held.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.held.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
        Guard { lock: self }
    }
}

pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard's existence means that this thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed uniquely.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
        thread::preemption_on();
    }
}
