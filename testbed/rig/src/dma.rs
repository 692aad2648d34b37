//! What devices of the rig may reach: the memory that the core has mapped for DMA, by its address in this process; or, where they are confined, what of it one of them was granted.

use std::{
    ptr::copy_nonoverlapping,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, Release, SeqCst},
        },
    },
};

use kernel_core::platform::{self, PAGE};
use model::{DmaMemory, DmaRefused};

/// First and last-plus-one addresses, sorted.
static RANGES: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());
/// Counts their changes.
static CHANGES: AtomicU64 = AtomicU64::new(0);
static CONFINED: AtomicBool = AtomicBool::new(false);
/// Accesses elsewhere.
static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

/// From now on devices reach only what they are granted.
pub fn confine() {
    CONFINED.store(true, SeqCst);
}

pub fn are_confined() -> bool {
    CONFINED.load(SeqCst)
}

/// Pieces of memory that are within reach now.
pub fn pieces() -> usize {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner).len()
}

pub fn admit(address: u64, bytes: usize) {
    let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
    let place = ranges.partition_point(|(first, _)| *first < address);
    ranges.insert(place, (address, address + bytes as u64));
    CHANGES.fetch_add(1, SeqCst);
}

pub fn forbid(address: u64) {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner).retain(|(first, _)| *first != address);
    CHANGES.fetch_add(1, SeqCst);
}

/// Lets a device to memory, where they are confined.
pub fn grant(memory: &[platform::DmaMemory]) {
    if are_confined() {
        memory.iter().for_each(|run| admit(run.bus, run.pages * PAGE));
    }
}

/// Takes it back. False: devices reach it all the same.
pub fn revoke(memory: &[platform::DmaMemory]) -> bool {
    let are_confined = are_confined();
    memory.iter().filter(|_| are_confined).for_each(|run| forbid(run.bus));
    are_confined
}

/// How often a device has tried to reach what isn't mapped for it.
pub fn violations() -> u64 {
    VIOLATIONS.load(Relaxed)
}

/// A device's way to memory. It knows the ranges by heart until they change.
#[derive(Default)]
pub struct Reach {
    ranges: Vec<(u64, u64)>,
    known: u64,
    last: (u64, u64),
}

impl Reach {
    #[inline]
    fn check(&mut self, address: u64, length: usize) -> Result<*mut u8, DmaRefused> {
        let changes = CHANGES.load(Relaxed);
        if changes != self.known {
            self.known = changes;
            self.ranges.clone_from(&RANGES.lock().unwrap_or_else(PoisonError::into_inner));
            self.last = (0, 0);
        }
        let end = address.saturating_add(length as u64);
        if address < self.last.0 || end > self.last.1 {
            let at = self.ranges.partition_point(|(first, _)| *first <= address).checked_sub(1);
            let range = at.and_then(|at| self.ranges.get(at)).filter(|(_, last)| end <= *last);
            let Some(range) = range else {
                VIOLATIONS.fetch_add(1, Relaxed);
                return Err(DmaRefused { address, length });
            };
            self.last = *range;
        }
        Ok(std::ptr::with_exposed_provenance_mut(address as usize))
    }
}

impl DmaMemory for Reach {
    #[inline]
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        let from = self.check(address, into.len())?;
        // SAFETY: mapped for devices, so nobody has references to it; a core that unmaps it has stopped the device first.
        unsafe { copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
        let to = self.check(address, bytes.len())?;
        // SAFETY: as above.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    #[inline]
    fn publish(&mut self, address: u64, word: u64) -> Result<(), DmaRefused> {
        if !address.is_multiple_of(8) {
            return self.write(address, &word.to_le_bytes());
        }
        let to = self.check(address, 8)?;
        // SAFETY: as above, and aligned.
        unsafe { AtomicU64::from_ptr(to.cast()) }.store(word.to_le(), Release);
        Ok(())
    }
}
