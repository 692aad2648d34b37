//! A receive ring: posted buffers, and the cursor up to which what the device wrote has been taken.

use alloc::boxed::Box;
use core::{
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use interfaces::{
    device::ixgbe::{DeviceError, RingCounts},
    packet::{Batch, BufferHead, HEADROOM, trusted},
};

use crate::{
    descriptors::{Received, Verdict},
    hardware::Hardware,
    ring::Ring,
};

/// Invariant: the `posted` places from `next` on have a buffer in `buffers` and a descriptor that names it; all others have none. The device owns
/// the places from its head up to the tail, which is `next + posted`; the tail register never is ahead of that. Where buffers are granted, those in `buffers` are, but for some that the device
/// has reported as written.
pub struct Receive {
    ring: Ring,
    buffers: Box<[Option<NonNull<BufferHead>>]>,
    /// Bytes that each buffer has for a frame.
    bytes: u16,
    next: u16,
    posted: u16,
    /// The VLAN whose frames are received, without their tags; or frames are received as they come.
    vlan: Option<u16>,
    /// The device reaches a buffer only while it is in the ring (`Hardware::grants_buffers`).
    strict: bool,
    /// Amid a frame that is longer than a buffer: drop up to its end.
    in_long_frame: bool,
    /// The device has lied on this ring: nothing more is believed.
    lied: bool,
    pub counts: RingCounts,
}

// SAFETY: the buffers belong to this ring as long as they are in it; their pointers mean the same on every thread.
unsafe impl Send for Receive {}

impl Receive {
    pub fn new(ring: Ring, bytes: u16, vlan: Option<u16>, strict: bool) -> Self {
        let buffers = (0..ring.length()).map(|_| None).collect();
        let counts = RingCounts::default();
        Receive { ring, buffers, bytes, next: 0, posted: 0, vlan, strict, in_long_frame: false, lied: false, counts }
    }

    /// Buffers in the ring.
    pub fn posted(&self) -> usize {
        usize::from(self.posted)
    }

    fn tail(&self) -> u16 {
        let tail = self.next + self.posted;
        if tail >= self.ring.length() { tail - self.ring.length() } else { tail }
    }

    /// Posts fresh buffers wherever one is missing, all places but one (§7.1.9: head = tail means none). Returns the new tail if there are any.
    pub fn refill(&mut self, hardware: &impl Hardware) -> Option<u16> {
        if self.posted == self.ring.length() - 1 {
            return None;
        }
        let mut tail = self.tail();
        let before = self.posted;
        loop {
            let missing = usize::from(self.ring.length() - 1 - self.posted);
            let mut fresh = [None; Batch::CAPACITY];
            let wanted = missing.min(fresh.len());
            let mut got = if wanted == 0 { 0 } else { hardware.take_buffers(&mut fresh[..wanted]) };
            if self.strict && got > 0 && !hardware.grant_buffers(&fresh[..got]) {
                // No better than none.
                // SAFETY: the pool gave them to us just now, and the device reaches none of them.
                unsafe { hardware.give_buffers(&mut fresh[..got]) };
                got = 0;
            }
            for head in fresh.into_iter().take(got).flatten() {
                // SAFETY: the pool gave us the buffer with its head (`Hardware`).
                let bus = unsafe { head.as_ref() }.bus;
                // The second word becomes 0, so DD is clear until the device writes back (§7.1.6.1).
                self.ring.write(tail, bus + HEADROOM as u64, 0);
                self.buffers[usize::from(tail)] = Some(head);
                tail = self.ring.after(tail);
                self.posted += 1;
            }
            if got < wanted {
                self.counts.no_buffer += 1;
            }
            if got < Batch::CAPACITY {
                break;
            }
        }
        (self.posted != before).then_some(tail)
    }

    /// Whether `receive` has something to do or to say.
    #[inline]
    pub fn ready(&self) -> bool {
        self.lied || (self.posted > 0 && Received(self.ring.second(self.next)).done())
    }

    /// Moves up to `limit` packets to the end of `batch`; returns how many. The caller then refills.
    pub fn receive(&mut self, hardware: &impl Hardware, batch: &mut Batch, limit: usize) -> Result<usize, DeviceError> {
        let limit = limit.min(Batch::CAPACITY - batch.len());
        let (mut moved, mut received) = (0, 0);
        let mut left = if self.strict { self.withdraw(hardware, limit) } else { self.posted };
        while moved < limit && left > 0 && !self.lied {
            let index = self.next;
            let written = Received(self.ring.second(index));
            if !written.done() {
                break;
            }
            // What the device wrote before DD is read after it: the descriptor's other word, the packet.
            fence(Ordering::Acquire);
            let verdict = written.verdict(self.bytes);
            let Some(head) = self.buffers[usize::from(index)] else { break };
            if verdict == Verdict::Lie {
                self.lied = true;
                break;
            }
            self.next = self.ring.after(index);
            self.posted -= 1;
            left -= 1;
            self.buffers[usize::from(index)] = None;
            match verdict {
                Verdict::Packet(length) if !self.in_long_frame && written.is_of(self.vlan) => {
                    let (flags, hash) = written.findings(self.ring.first(index));
                    prefetch(head);
                    // SAFETY: the buffer was in this ring and is now in neither ring nor pool, nor in reach (`withdraw`); there is room (`limit`).
                    unsafe { trusted::push(batch, head, self.bytes, length, flags, hash) };
                    received += u64::from(length);
                    moved += 1;
                }
                _ => self.drop_buffer(hardware, head, verdict == Verdict::DropWithNext),
            }
        }
        self.counts.packets += moved as u64;
        self.counts.bytes += received;
        if self.lied && moved == 0 { Err(DeviceError::Lied) } else { Ok(moved) }
    }

    /// Takes buffers that the device has written out of its reach, up to `limit` of them and all at once, before anybody looks at what is in them. Returns how many places they are,
    /// from `next` on: those alone may leave the ring, whatever the device writes meanwhile.
    #[inline(never)]
    fn withdraw(&self, hardware: &impl Hardware, limit: usize) -> u16 {
        let mut written = [None; Batch::CAPACITY];
        let most = if self.lied { 0 } else { limit.min(usize::from(self.posted)) };
        let (mut index, mut count) = (self.next, 0);
        while count < most && Received(self.ring.second(index)).done() {
            written[count] = self.buffers[usize::from(index)];
            index = self.ring.after(index);
            count += 1;
        }
        if count > 0 {
            hardware.revoke_buffers(&written[..count]);
        }
        count as u16
    }

    /// Gives the buffer of a frame back that nobody gets: damaged, longer than a buffer, or of another VLAN.
    #[cold]
    fn drop_buffer(&mut self, hardware: &impl Hardware, head: NonNull<BufferHead>, more: bool) {
        self.counts.errors += u64::from(!more);
        self.in_long_frame = more;
        // SAFETY: the buffer came out of this ring just now, and the device has written its descriptor back (and reaches it no more, where buffers are granted: `withdraw`).
        unsafe { hardware.give_buffers(&mut [Some(head)]) };
    }

    /// Received frames that nobody has taken, when the device's head is at `head`: those that it says it has written, and those behind which its head
    /// has gone without its saying so. (A `head` outside the ring, as a device that has left the bus gives, says nothing.)
    pub fn waiting(&self, head: u32) -> u32 {
        let length = u32::from(self.ring.length());
        let used = if head < length { (head + length - u32::from(self.next)) % length } else { 0 };
        let (mut index, mut count) = (self.next, 0);
        for at in 0..u32::from(self.posted) {
            let written = Received(self.ring.second(index));
            let lost = match written.done() {
                true => matches!(written.verdict(self.bytes), Verdict::Packet(_) | Verdict::Lie),
                false => at < used,
            };
            count += u32::from(lost);
            index = self.ring.after(index);
        }
        count
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

/// Fetches the packet's first bytes, which whoever gets the batch reads next.
#[inline]
fn prefetch(head: NonNull<BufferHead>) {
    let first = head.as_ptr().cast::<i8>().wrapping_add(size_of::<BufferHead>() + HEADROOM);
    // SAFETY: a prefetch has no effect but on caches, at any address.
    unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(first) };
}
