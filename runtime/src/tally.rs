//! Counts with one writer and any readers: what a thread counts on a packet's way, and another one shows.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread changes and all may read. Adding is a plain addition, no atomic read-modify-write; if two threads add, counts get lost, but
/// nothing worse.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub const fn new() -> Self {
        Tally(AtomicU64::new(0))
    }

    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_sets_and_wraps() {
        let tally = Tally::new();
        tally.add(2);
        tally.add(3);
        assert_eq!(tally.get(), 5);
        tally.set(u64::MAX);
        tally.add(2);
        assert_eq!(tally.get(), 1);
    }
}
