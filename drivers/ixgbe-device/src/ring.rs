//! A ring of descriptors in memory that the device reads and writes at any time: accessed by volatile words, never by reference.

use core::ptr::NonNull;

use crate::{
    descriptors::DESCRIPTOR,
    hardware::{DmaMemory, Hardware},
};

/// Greatest number of descriptors: the cursors' arithmetic and the device admit more (82599 §7.1.9), the interface doesn't.
pub const MAX_LENGTH: u16 = 4096;

pub struct Ring {
    memory: DmaMemory,
    length: u16,
}

// SAFETY: the memory is the ring's alone (`Hardware::allocate`), and so goes with it from thread to thread.
unsafe impl Send for Ring {}

impl Ring {
    /// `None` if there is no memory. `length` is a multiple of 8 (§8.2.3.8.3: RDLEN counts 128 bytes), at most `MAX_LENGTH`.
    pub fn new(hardware: &impl Hardware, length: u16) -> Option<Self> {
        let memory = hardware.allocate(usize::from(length) * DESCRIPTOR)?;
        Some(Ring { memory, length })
    }

    /// # Safety
    /// The device can't reach the ring any more.
    pub unsafe fn free(self, hardware: &impl Hardware) {
        // SAFETY: from `allocate`; the rest is the caller's promise.
        unsafe { hardware.free(self.memory) }
    }

    pub fn length(&self) -> u16 {
        self.length
    }

    pub fn bus(&self) -> u64 {
        self.memory.bus
    }

    pub fn bytes(&self) -> u32 {
        u32::from(self.length) * DESCRIPTOR as u32
    }

    /// The place after `index`.
    #[inline]
    pub fn after(&self, index: u16) -> u16 {
        if index + 1 >= self.length { 0 } else { index + 1 }
    }

    #[inline]
    fn word(&self, index: u16, word: usize) -> NonNull<u64> {
        assert!(index < self.length, "a cursor outside its ring");
        // SAFETY: `index` is below the length, so both words lie in the ring's memory.
        unsafe { self.memory.address.cast::<u64>().add(2 * usize::from(index) + word) }
    }

    #[inline]
    pub fn first(&self, index: u16) -> u64 {
        // SAFETY: inside the ring, aligned; volatile, since the device writes it.
        u64::from_le(unsafe { self.word(index, 0).read_volatile() })
    }

    #[inline]
    pub fn second(&self, index: u16) -> u64 {
        // SAFETY: as above.
        u64::from_le(unsafe { self.word(index, 1).read_volatile() })
    }

    /// Writes a descriptor that the device does not own.
    #[inline]
    pub fn write(&self, index: u16, first: u64, second: u64) {
        // SAFETY: inside the ring, aligned.
        unsafe { self.word(index, 0).write_volatile(first.to_le()) };
        // SAFETY: as above.
        unsafe { self.word(index, 1).write_volatile(second.to_le()) };
    }
}
