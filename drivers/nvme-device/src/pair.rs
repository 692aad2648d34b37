//! A submission queue and its completion queue in memory that the device reads and writes at any time: accessed by volatile words, never by reference.

use core::{
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use crate::{
    commands::Entry,
    hardware::{DmaMemory, Hardware},
    registers::DOORBELLS,
};

const SUBMISSION_BYTES: usize = 64;
const COMPLETION_BYTES: usize = 16;

/// A completion queue entry (§3.3.3.2), as the device wrote it: nothing of it is true yet.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub result: u32,
    pub queue: u16,
    pub number: u16,
    /// Status code type and code.
    pub status: u16,
}

/// Invariant: entries are written at `tail`, the next one that the device hasn't been told of; at most `entries - 1` commands are in flight (its users' care), so
/// neither queue overflows. `head` and `phase` say which completion comes next (§3.3.1.5).
pub struct Pair {
    submission: DmaMemory,
    completion: DmaMemory,
    pub id: u16,
    pub entries: u16,
    stride: u32,
    tail: u16,
    head: u16,
    phase: bool,
}

// SAFETY: the memory is the pair's alone (`Hardware::allocate`), and so goes with it from thread to thread.
unsafe impl Send for Pair {}

impl Pair {
    /// `None` if there is no memory.
    pub fn new(hardware: &impl Hardware, id: u16, entries: u16, stride: u32) -> Option<Self> {
        let submission = hardware.allocate(usize::from(entries) * SUBMISSION_BYTES)?;
        let Some(completion) = hardware.allocate(usize::from(entries) * COMPLETION_BYTES) else {
            // SAFETY: just allocated; the device has never heard of it.
            unsafe { hardware.free(submission) };
            return None;
        };
        Some(Pair { submission, completion, id, entries, stride, tail: 0, head: 0, phase: true })
    }

    /// # Safety
    /// The device can't reach the queues any more.
    pub unsafe fn free(self, hardware: &impl Hardware) {
        // SAFETY: from `allocate`; the rest is the caller's promise.
        unsafe {
            hardware.free(self.submission);
            hardware.free(self.completion);
        }
    }

    pub fn submission_bus(&self) -> u64 {
        self.submission.bus
    }

    pub fn completion_bus(&self) -> u64 {
        self.completion.bus
    }

    /// Writes a command at the tail. The device doesn't know of it before `ring`.
    #[inline]
    pub fn push(&mut self, entry: &Entry) {
        let start = self.submission.address.cast::<u32>();
        for (word, value) in entry.0.iter().enumerate() {
            // SAFETY: `tail` is below the queue's length, and an entry has 16 words; the device reads it after the doorbell only.
            unsafe { start.add(16 * usize::from(self.tail) + word).write_volatile(value.to_le()) };
        }
        self.tail = if self.tail + 1 == self.entries { 0 } else { self.tail + 1 };
    }

    /// Tells the device of all commands up to the tail (NVMe over PCIe Transport 1.0 §3.1.2.1).
    #[inline]
    pub fn ring(&self, hardware: &impl Hardware) {
        // The commands are in memory before the device hears of them.
        fence(Ordering::Release);
        let doorbell = DOORBELLS + 2 * u32::from(self.id) * self.stride;
        // SAFETY: commands up to the tail name memory of the lease (`Pair`'s users).
        unsafe { hardware.write(doorbell, u32::from(self.tail)) };
    }

    /// Tells the device up to where completions have been taken.
    #[inline]
    pub fn taken(&self, hardware: &impl Hardware) {
        let doorbell = DOORBELLS + (2 * u32::from(self.id) + 1) * self.stride;
        // SAFETY: the device may overwrite completions that have been read.
        unsafe { hardware.write(doorbell, u32::from(self.head)) };
    }

    #[inline]
    fn word(&self, word: usize) -> NonNull<u32> {
        // SAFETY: `head` is below the queue's length, `word` below 4.
        unsafe { self.completion.address.cast::<u32>().add(4 * usize::from(self.head) + word) }
    }

    /// Whether there is a completion: its phase tag is the expected one (§3.3.3.2.2).
    #[inline]
    pub fn ready(&self) -> bool {
        // SAFETY: inside the queue, aligned; volatile, since the device writes it.
        (u32::from_le(unsafe { self.word(3).read_volatile() }) >> 16 & 1 == 1) == self.phase
    }

    /// The next completion, if there is one.
    #[inline]
    pub fn next(&mut self) -> Option<Completion> {
        if !self.ready() {
            return None;
        }
        // What the device wrote before the phase tag is read after it: the entry's other words, the data.
        fence(Ordering::Acquire);
        // SAFETY: as in `ready`.
        let [first, third, fourth] = [0, 2, 3].map(|word| u32::from_le(unsafe { self.word(word).read_volatile() }));
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(Completion {
            result: first,
            queue: (third >> 16) as u16,
            number: fourth as u16,
            status: (fourth >> 17 & 0x7FF) as u16,
        })
    }
}
