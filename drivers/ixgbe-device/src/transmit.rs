//! A transmit ring: buffers on their way out, and the cursor up to which the device has done with them.

use alloc::{boxed::Box, vec};
use core::{
    ptr::NonNull,
    slice,
    sync::atomic::{Ordering, fence},
};

use interfaces::{
    device::ixgbe::RingCounts,
    packet::{Batch, BufferHead, PacketFlags, trusted},
};

use crate::{
    descriptors::{Context, TX_INSERT_TAG, TX_REPORT_STATUS, filling, shortest_with, transmit, transmitted},
    hardware::Hardware,
    ring::Ring,
};

/// What the device takes for a frame; it pads to 60 itself, but hangs below this (Linux's ixgbe_xmit_frame pads to 17).
const SHORTEST: usize = 17;

/// Invariant: the `in_flight` places from `clean` on have a buffer in `buffers`, but for `contexts` of them, whose descriptors only tell the device about the frames behind them; all others
/// have none. They form runs, one for each `send`: `runs` has at a run's first place where it ends. Where buffers are granted, those in `buffers` are, but for some whose run the device has
/// reported as done.
pub struct Transmit {
    ring: Ring,
    buffers: Box<[Option<NonNull<BufferHead>>]>,
    runs: Box<[Run]>,
    clean: u16,
    tail: u16,
    in_flight: u16,
    contexts: u16,
    /// The VLAN whose tag the device puts into all frames.
    vlan: Option<u16>,
    /// The device reaches a buffer only while it is in the ring (`Hardware::grants_buffers`).
    strict: bool,
    /// What it will have been told when it has come to the tail.
    context: Option<Context>,
    pub counts: RingCounts,
}

#[derive(Clone, Copy, Default)]
struct Run {
    /// The run's last place, whose descriptor alone asks for a status.
    last: u16,
    /// Context descriptors in it.
    contexts: u16,
}

// SAFETY: as for `Receive`.
unsafe impl Send for Transmit {}

impl Transmit {
    pub fn new(ring: Ring, vlan: Option<u16>, strict: bool) -> Self {
        let length = usize::from(ring.length());
        Transmit {
            ring,
            buffers: vec![None; length].into(),
            runs: vec![Run::default(); length].into(),
            clean: 0,
            tail: 0,
            in_flight: 0,
            contexts: 0,
            vlan,
            strict,
            context: None,
            counts: RingCounts::default(),
        }
    }

    /// Packets in flight.
    pub fn in_flight(&self) -> usize {
        usize::from(self.in_flight - self.contexts)
    }

    /// Moves packets from the front of `batch` into the ring while there is room. Returns how many, and the new tail for the device if it is to be
    /// told of any. A packet too short to be a frame, or for the checksums that it wants, is dropped and counted as an error; so are all for which the IOMMU has no room.
    pub fn send(&mut self, hardware: &impl Hardware, batch: &mut Batch) -> (usize, Option<u16>) {
        let room = self.ring.length() - 1 - self.in_flight;
        if room == 0 {
            return (0, None);
        }
        let first = self.tail;
        let (mut tail, mut left, mut last, mut bytes, mut run) = (first, room, None, 0, Run::default());
        // The first frame in a VLAN is as special as one that wants checksums.
        let is_first = self.vlan.is_some() && self.context.is_none();
        let mut first_of_all = if is_first { PacketFlags::FILL_CHECKSUMS } else { PacketFlags::empty() };
        let options = if self.vlan.is_some() { TX_INSERT_TAG } else { 0 };
        // SAFETY: each buffer that is taken goes into the ring, or back to the pool.
        let taken = unsafe {
            trusted::take(batch, u32::MAX, |head, start, length, flags| {
                let is_special = (flags | first_of_all).intersects(PacketFlags::FILL_CHECKSUMS);
                if length < SHORTEST || is_special && length < shortest_with(flags) {
                    self.counts.errors += 1;
                    hardware.give_buffers(&mut [Some(head)]);
                    return true;
                }
                let mut how = transmit(length as u16) | options;
                if is_special {
                    let Some((filling, places)) = self.tell(flags, tail, left) else { return false };
                    if places > 0 {
                        tail = self.ring.after(tail);
                        left -= places;
                        run.contexts += places;
                        first_of_all = PacketFlags::empty();
                    }
                    how |= filling;
                }
                if left == 0 {
                    return false;
                }
                self.ring.write(tail, head.as_ref().bus + start as u64, how);
                self.buffers[usize::from(tail)] = Some(head);
                last = Some((tail, how));
                tail = self.ring.after(tail);
                left -= 1;
                bytes += length as u64;
                true
            })
        };
        let Some((last, how)) = last else { return (taken, None) };
        if self.strict && !self.grant(hardware, first, room - left) {
            self.drop_run(hardware, first, room - left);
            return (taken, None);
        }
        // One status for the whole run: it is written when all of it has been sent (§7.2.3.2.4, RS).
        self.ring.write(last, self.ring.first(last), how | TX_REPORT_STATUS);
        run.last = last;
        self.runs[usize::from(first)] = run;
        self.tail = tail;
        self.in_flight += room - left;
        self.contexts += run.contexts;
        self.counts.packets += u64::from(room - left - run.contexts);
        self.counts.bytes += bytes;
        // The descriptors are in memory before the device hears of them.
        fence(Ordering::Release);
        (taken, Some(tail))
    }

    /// Has the device know what it must about a frame, if it doesn't yet; what the frame's own descriptor says of that, and how many places it took. None: there is no room for that and the
    /// frame behind it, with which a run ends.
    #[cold]
    fn tell(&mut self, flags: PacketFlags, tail: u16, left: u16) -> Option<(u64, u16)> {
        let wanted = flags & PacketFlags::FILL_CHECKSUMS;
        let context = Context::new(self.vlan, wanted);
        let is_news = self.context != Some(context);
        if is_news {
            if left < 2 {
                return None;
            }
            self.ring.write(tail, context.first, context.second);
            self.context = Some(context);
        }
        Some((filling(wanted), u16::from(is_news)))
    }

    /// So many places from `first` on, in two parts if they wrap.
    fn places(&self, first: u16, count: u16) -> [&[Option<NonNull<BufferHead>>]; 2] {
        let (start, behind) = self.buffers.split_at(usize::from(first));
        let wrapped = usize::from(count).saturating_sub(behind.len());
        [&behind[..usize::from(count) - wrapped], &start[..wrapped]]
    }

    /// Lets the device to the buffers of a run before it hears of them. False: to none of them.
    #[inline(never)]
    fn grant(&self, hardware: &impl Hardware, first: u16, count: u16) -> bool {
        let [run, wrapped] = self.places(first, count);
        if !hardware.grant_buffers(run) {
            return false;
        }
        let granted = wrapped.is_empty() || hardware.grant_buffers(wrapped);
        if !granted {
            hardware.revoke_buffers(run);
        }
        granted
    }

    /// Gives the buffers of a run back that the device can't be let to; it never hears of them, nor of what it was to be told before them.
    #[cold]
    fn drop_run(&mut self, hardware: &impl Hardware, first: u16, count: u16) {
        for at in 0..count {
            let place = (u32::from(first) + u32::from(at)) % u32::from(self.ring.length());
            let buffer = &mut self.buffers[place as usize];
            self.counts.errors += u64::from(buffer.is_some());
            // SAFETY: taken out of a batch just now, and never in the device's reach.
            unsafe { hardware.give_buffers(slice::from_mut(buffer)) };
        }
        self.context = None;
    }

    /// Takes the buffers of runs that the device has done with out of its reach, all at once. Returns how many places they are, from `clean` on: those alone may leave the ring,
    /// whatever the device writes meanwhile.
    #[inline(never)]
    fn withdraw(&self, hardware: &impl Hardware) -> u16 {
        let (mut first, mut count) = (self.clean, 0);
        while count < self.in_flight {
            let last = self.runs[usize::from(first)].last;
            if !transmitted(self.ring.second(last)) {
                break;
            }
            count += if last >= first { last - first } else { last + self.ring.length() - first } + 1;
            first = self.ring.after(last);
        }
        self.places(self.clean, count)
            .into_iter()
            .filter(|done| !done.is_empty())
            .for_each(|done| hardware.revoke_buffers(done));
        count
    }

    /// Gives the buffers of runs that the device has done with back to the pool.
    #[inline]
    pub fn reclaim(&mut self, hardware: &impl Hardware) {
        let mut left = if self.strict { self.withdraw(hardware) } else { self.in_flight };
        while left > 0 {
            let (first, Run { last, contexts }) = (self.clean, self.runs[usize::from(self.clean)]);
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
            left -= count as u16;
            self.in_flight -= count as u16;
            self.contexts -= contexts;
        }
    }

    /// Frames that a device whose head is at `head` hasn't sent; with a `head` outside the ring, all that it hasn't reported.
    pub fn unsent(&self, head: u32) -> u32 {
        let length = u32::from(self.ring.length());
        let in_flight = u32::from(self.in_flight);
        let places =
            if head < length { ((u32::from(self.tail) + length - head) % length).min(in_flight) } else { in_flight };
        let buffer = |back: u32| self.buffers[((u32::from(self.tail) + length - back) % length) as usize];
        (1..=places).filter(|back| buffer(*back).is_some()).count() as u32
    }

    /// Gives all buffers back to the pool, and the ring's memory.
    ///
    /// # Safety
    /// The device can't reach them any more.
    pub unsafe fn dissolve(mut self, hardware: &impl Hardware) {
        if self.strict {
            hardware.revoke_buffers(&self.buffers);
        }
        // SAFETY: the buffers in the ring are ours, each once (invariant), and out of the device's reach.
        unsafe { hardware.give_buffers(&mut self.buffers) };
        // SAFETY: the caller's promise.
        unsafe { self.ring.free(hardware) };
    }
}
