//! What threads of one domain wait for each other with: a mutex and an event over the kernel's `wait` and `wake`.
//!
//! Both live in the domain's private heap and die with it: a thread that is diverted while it holds a lock takes only its own dead domain with it. Neither
//! crosses a boundary. No lock is to be held over a call to another domain: the callee may take its time.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use interfaces::{CallError, Cancelled, abi::kernel};

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may be waiting.
const WANTED: u32 = 2;

/// What is held by one thread of the domain at a time. Whoever else wants it sleeps: a thread that only yielded would keep a holder of lower priority on its own CPU from ever letting go.
pub(crate) struct Lock(AtomicU32);

impl Lock {
    pub(crate) const fn new() -> Self {
        Lock(AtomicU32::new(FREE))
    }

    /// Waits until nobody else holds it. While the domain is being stopped waiting is cancelled by the kernel; then this polls, until the holder lets go
    /// or the thread is diverted.
    pub(crate) fn lock(&self) {
        if !self.try_lock() {
            while self.0.swap(WANTED, Acquire) != FREE {
                // SAFETY: the word lives as long as `self` (SOUNDNESS: shared statics).
                let ended = unsafe { (kernel().wait)(&self.0, WANTED, NEVER) };
                if ended == CallError::Cancelled as u32 {
                    (kernel().thread_yield)();
                }
            }
        }
    }

    pub(crate) fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok()
    }

    /// Whether somebody may be waiting for it.
    #[cfg(test)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.load(Relaxed) == WANTED
    }

    /// Only by who holds it.
    pub(crate) fn unlock(&self) {
        if self.0.swap(FREE, Release) == WANTED {
            // SAFETY: only the word's address is used.
            unsafe { (kernel().wake)(&self.0, 1) }
        }
    }
}

/// Data that one thread of the domain uses at a time.
pub struct Mutex<T: ?Sized> {
    lock: Lock,
    data: UnsafeCell<T>,
}

// SAFETY: the data is reached by one thread at a time, through a guard (SOUNDNESS: shared statics).
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// The right to use a mutex's data, until it is dropped.
#[must_use = "the mutex is unlocked at once if its guard is not kept"]
pub struct Guard<'a, T: ?Sized>(&'a Mutex<T>);

// SAFETY: shared access to a guard gives `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for Guard<'_, T> {}

impl<T> Mutex<T> {
    pub const fn new(data: T) -> Self {
        Mutex { lock: Lock::new(), data: UnsafeCell::new(data) }
    }

    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until nobody else holds it.
    pub fn lock(&self) -> Guard<'_, T> {
        self.lock.lock();
        Guard(self)
    }

    /// The guard, if nobody holds the mutex.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.lock.try_lock().then(|| Guard(self))
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one (SOUNDNESS: shared statics).
        unsafe { &*self.0.data.get() }
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.lock.unlock();
    }
}

/// Something that happens, and that one or more threads wait for. Set once, it stays so until somebody has waited for it.
pub struct Event(AtomicU32);

impl Event {
    pub const fn new() -> Self {
        Event(AtomicU32::new(0))
    }

    /// Sets the event, and wakes one thread that waits for it.
    pub fn set(&self) {
        if self.0.swap(1, Release) == 0 {
            // SAFETY: only the word's address is used.
            unsafe { (kernel().wake)(&self.0, 1) }
        }
    }

    /// Waits until the event is set, and unsets it; or until `deadline`, in nanoseconds since boot. True if it was set.
    pub fn wait(&self, deadline: u64) -> Result<bool, Cancelled> {
        loop {
            if self.0.swap(0, Acquire) == 1 {
                return Ok(true);
            }
            // SAFETY: the word lives as long as `self` (SOUNDNESS: shared statics).
            match unsafe { (kernel().wait)(&self.0, 0, deadline) } {
                0 => {}
                1 => return Ok(self.0.swap(0, Acquire) == 1),
                _ => return Err(Cancelled),
            }
        }
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use alloc::sync::Arc;

    const THREADS: u64 = 4;

    #[test]
    fn no_increment_is_lost_and_everybody_is_woken() {
        interfaces::host::connect();
        let env = Env::new("test", 1, &[0]);
        let shared = Arc::new((Mutex::new(0u64), Mutex::new(0u64), Event::new()));
        for _ in 0..THREADS {
            let shared = shared.clone();
            env.spawn("adds", 0, move || {
                for _ in 0..20_000 {
                    *shared.0.lock() += 1;
                }
                *shared.1.lock() += 1;
                shared.2.set();
            })
            .unwrap();
        }
        let deadline = crate::time::now() + 20_000_000_000;
        while *shared.1.lock() < THREADS {
            assert!(crate::time::now() < deadline, "a thread was never woken");
            shared.2.wait(deadline).unwrap();
        }
        assert_eq!(*shared.0.lock(), THREADS * 20_000);
    }

    #[test]
    fn an_event_is_remembered_once_and_times_out() {
        interfaces::host::connect();
        let event = Event::new();
        event.set();
        event.set();
        assert_eq!(event.wait(NEVER), Ok(true));
        assert_eq!(event.wait(crate::time::now() + 1_000_000), Ok(false));
    }

    #[test]
    fn a_held_mutex_is_not_had_twice() {
        let mutex = Mutex::new(1);
        let guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
        drop(guard);
        assert_eq!(mutex.try_lock().map(|guard| *guard), Some(1));
    }
}
