//! A transmit ring: buffers on their way out, and the cursor up to which the device has done with them.

use alloc::{boxed::Box, vec};
use core::{
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use interfaces::{
    device::ixgbe::RingCounts,
    packet::{Batch, BufferHead, trusted},
};

use crate::{
    descriptors::{TX_INSERT_TAG, TX_REPORT_STATUS, context, transmit, transmitted},
    hardware::Hardware,
    ring::Ring,
};

/// What the device takes for a frame; it pads to 60 itself, but hangs below this (Linux's ixgbe_xmit_frame pads to 17).
const SHORTEST: usize = 17;

/// Invariant: the `in_flight` places from `clean` on have a buffer in `buffers`, but for the ring's very first if that is a context descriptor; all others have none. They form runs,
/// one for each `send`: `ends` has at a run's first place the index of its last, whose descriptor alone asks for a status.
pub struct Transmit {
    ring: Ring,
    buffers: Box<[Option<NonNull<BufferHead>>]>,
    ends: Box<[u16]>,
    clean: u16,
    tail: u16,
    in_flight: u16,
    /// The VLAN whose tag the device puts into all frames; it is told of it in front of the first.
    vlan: Option<u16>,
    context: Context,
    pub counts: RingCounts,
}

/// What has become of the context descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Due,
    InFlight,
    Done,
}

// SAFETY: as for `Receive`.
unsafe impl Send for Transmit {}

impl Transmit {
    pub fn new(ring: Ring, vlan: Option<u16>) -> Self {
        let length = usize::from(ring.length());
        Transmit {
            ring,
            buffers: vec![None; length].into(),
            ends: vec![0; length].into(),
            clean: 0,
            tail: 0,
            in_flight: 0,
            vlan,
            context: if vlan.is_some() { Context::Due } else { Context::Done },
            counts: RingCounts::default(),
        }
    }

    /// Packets in flight.
    pub fn in_flight(&self) -> usize {
        usize::from(self.in_flight) - usize::from(self.context == Context::InFlight)
    }

    /// Moves packets from the front of `batch` into the ring while there is room. Returns how many, and the new tail for the device if it is to be
    /// told of any. A packet too short to be a frame is dropped and counted as an error.
    pub fn send(&mut self, hardware: &impl Hardware, batch: &mut Batch) -> (usize, Option<u16>) {
        let room = usize::from(self.ring.length() - 1 - self.in_flight).min(batch.len());
        if room == 0 {
            return (0, None);
        }
        let (first, mut tail, mut last, mut bytes, mut frames) = (self.tail, self.tail, None, 0, 0);
        let mut options = 0;
        if let Some(vlan) = self.vlan {
            options = TX_INSERT_TAG;
            if self.context == Context::Due {
                // The ring is empty, so there is room.
                let (low, high) = context(vlan);
                self.ring.write(tail, low, high);
                tail = self.ring.after(tail);
            }
        }
        let begun = tail;
        // SAFETY: each buffer that is taken goes into the ring, or back to the pool.
        let taken = unsafe {
            trusted::take(batch, u32::MAX >> (32 - room), |head, start, length, _, _| {
                if length < SHORTEST {
                    self.counts.errors += 1;
                    hardware.give_buffers(&mut [Some(head)]);
                    return true;
                }
                let how = transmit(length as u16) | options;
                self.ring.write(tail, head.as_ref().bus + start as u64, how);
                self.buffers[usize::from(tail)] = Some(head);
                last = Some((tail, how));
                tail = self.ring.after(tail);
                bytes += length as u64;
                frames += 1;
                true
            })
        };
        let Some((last, how)) = last else { return (taken, None) };
        if begun != first {
            self.context = Context::InFlight;
            self.in_flight += 1;
        }
        // One status for the whole run: it is written when all of it has been sent (§7.2.3.2.4, RS).
        self.ring.write(last, self.ring.first(last), how | TX_REPORT_STATUS);
        self.ends[usize::from(first)] = last;
        self.tail = tail;
        self.in_flight += frames;
        self.counts.packets += u64::from(frames);
        self.counts.bytes += bytes;
        // The descriptors are in memory before the device hears of them.
        fence(Ordering::Release);
        (taken, Some(tail))
    }

    /// Gives the buffers of runs that the device has done with back to the pool.
    #[inline]
    pub fn reclaim(&mut self, hardware: &impl Hardware) {
        while self.in_flight > 0 {
            let (first, last) = (self.clean, self.ends[usize::from(self.clean)]);
            if !transmitted(self.ring.second(last)) {
                break;
            }
            let (from, to) = (usize::from(first), usize::from(last) + 1);
            let run = if from < to { &mut self.buffers[from..to] } else { &mut self.buffers[from..] };
            let mut count = run.len();
            // SAFETY: the run's buffers are ours (invariant), and the device has reported all of the run as done.
            unsafe { hardware.give_buffers(run) };
            if from >= to {
                // The run wraps.
                // SAFETY: as above.
                unsafe { hardware.give_buffers(&mut self.buffers[..to]) };
                count += to;
            }
            self.clean = self.ring.after(last);
            self.in_flight -= count as u16;
            if self.context == Context::InFlight {
                // It was in front of the first run.
                self.context = Context::Done;
            }
        }
    }

    /// Frames that a device whose head is at `head` hasn't sent; with a `head` outside the ring, all that it hasn't reported.
    pub fn unsent(&self, head: u32) -> u32 {
        let length = u32::from(self.ring.length());
        let in_flight = self.in_flight() as u32;
        if head < length { ((u32::from(self.tail) + length - head) % length).min(in_flight) } else { in_flight }
    }

    /// Gives all buffers back to the pool, and the ring's memory.
    ///
    /// # Safety
    /// The device can't reach them any more.
    pub unsafe fn dissolve(mut self, hardware: &impl Hardware) {
        // SAFETY: the buffers in the ring are ours, each once (invariant), and out of the device's reach.
        unsafe { hardware.give_buffers(&mut self.buffers) };
        // SAFETY: the caller's promise.
        unsafe { self.ring.free(hardware) };
    }
}
