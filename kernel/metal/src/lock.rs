//! The kernel's spin lock. Whoever holds one runs with interrupts off, so that an interrupt handler may take the same
//! locks, and is never preempted.
//!
//! Order, where two are held: paging, then window, then heap, then frames; a scheduler lock is taken with none of these
//! and takes none but heap. No lock is held while another CPU is waited for (`cpu::barrier`, `cpu::flush_everywhere`).
//!
//! Debug builds count what each thread takes, together with the core's locks (`ThreadBlock::locks`).

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
};

use x86_64::instructions::interrupts;

pub struct SpinLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and there is one guard at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

pub struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
    interrupts_were_on: bool,
}

impl<T> SpinLock<T> {
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> Guard<'_, T> {
        let interrupts_were_on = interrupts::are_enabled();
        interrupts::disable();
        // Interrupts are on only where a thread runs: neither in handlers nor before there are threads.
        #[cfg(debug_assertions)]
        if interrupts_were_on {
            kernel_core::thread::current().count_lock(core::panic::Location::caller());
        }
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.taken.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
        Guard { lock: self, interrupts_were_on }
    }

    /// Takes the lock if it becomes free within `spins` looks: for a panic, whose victim may hold it.
    pub fn lock_within(&self, spins: usize) -> Option<Guard<'_, T>> {
        let interrupts_were_on = interrupts::are_enabled();
        interrupts::disable();
        for _ in 0..spins {
            if self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Guard { lock: self, interrupts_were_on });
            }
            core::hint::spin_loop();
        }
        if interrupts_were_on {
            interrupts::enable();
        }
        None
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.taken.store(false, Ordering::Release);
        if self.interrupts_were_on {
            interrupts::enable();
        }
    }
}
