//! Packets: a batch is one object on the exchange heap, a dense array of packet headers; the bytes are in buffers of the kernel's pool.
//!
//! Invariant: a buffer is at any time in exactly one place: the pool, a device's ring, or one batch. Only the kernel's image moves
//! buffers; so only the batch needs an owner, and a reclaimed batch gives its buffers back.

use crate::{
    RRef,
    abi::kernel,
    rref::{ExchangeFull, Returnable},
};

/// Bytes of a buffer before a received packet's first byte, which a service may use to put headers in front.
pub const HEADROOM: usize = 64;
/// Bytes of a buffer from there on, in most boxes; where frames are longer all buffers of the box are ([`buffer_for`]).
pub const USUAL_BUFFER: u16 = 2048;
/// As long as a buffer gets: what a receive descriptor of the 82599 may name (§8.2.3.8.7).
pub const LARGEST_BUFFER: u16 = 16 << 10;
/// Buffers have a multiple of this: in this unit a device is told (the same).
pub const BUFFER_UNIT: u16 = 1 << 10;

/// Bytes of the buffers of a box whose longest frame has so many: a frame is in one buffer.
pub const fn buffer_for(frame: u16) -> u16 {
    if frame <= USUAL_BUFFER { USUAL_BUFFER } else { frame.div_ceil(BUFFER_UNIT).saturating_mul(BUFFER_UNIT) }
}

/// Bytes of a page: devices are confined by whole ones.
const PAGE: usize = 4 << 10;

/// From the head of a buffer of so many bytes to the next one's. In a strict box (`iommu = "strict"`) what a device is let to has pages of its own, and the head is at the end of one more before them.
pub const fn buffer_stride(bytes: u16, strict: bool) -> usize {
    let reached = HEADROOM + bytes as usize;
    match strict {
        false => (size_of::<BufferHead>() + reached).next_multiple_of(align_of::<BufferHead>()),
        true => PAGE + reached.next_multiple_of(PAGE),
    }
}

bitflags::bitflags! {
    /// What a NIC found out about a received packet, and what it shall do with one to send.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub struct PacketFlags: u16 {
        /// The IPv4 header checksum was checked by the device and is right.
        const IP_CHECKSUM_GOOD = 1 << 0;
        /// It is wrong.
        const IP_CHECKSUM_BAD = 1 << 1;
        /// The TCP or UDP checksum was checked by the device and is right.
        const L4_CHECKSUM_GOOD = 1 << 2;
        /// It is wrong.
        const L4_CHECKSUM_BAD = 1 << 3;
        /// `rss_hash` is valid.
        const HASHED = 1 << 4;
        /// Fill in the checksum of the IPv4 header behind the Ethernet header: it has no options, and 0 in the checksum's place. (This and the next two: where `NetInfo::fills_checksums`.)
        const FILL_IP_CHECKSUM = 1 << 5;
        /// Fill in the checksum of the TCP segment behind that header, or, without `FILL_IP_CHECKSUM`, behind an IPv6 header without extensions. The sum of the pseudo-header (RFC 9293
        /// §3.1), not inverted, is in the checksum's place.
        const FILL_TCP_CHECKSUM = 1 << 6;
        /// The same for a UDP datagram.
        const FILL_UDP_CHECKSUM = 1 << 7;
        const FILL_CHECKSUMS =
            Self::FILL_IP_CHECKSUM.bits() | Self::FILL_TCP_CHECKSUM.bits() | Self::FILL_UDP_CHECKSUM.bits();
    }
}

/// The trusted head of a packet buffer, in front of its headroom. Written by the pool, never by a domain.
#[repr(C, align(64))]
pub struct BufferHead {
    /// Where a device finds the byte at headroom 0.
    pub bus: u64,
    /// The buffer's number in the pool.
    pub index: u32,
}

/// One packet's header in a batch.
#[repr(C)]
pub struct Packet {
    head: *mut BufferHead,
    /// First byte of the packet, counted from the start of the headroom.
    start: u16,
    /// Where the buffer ends, counted as `start` is. As `head`, written when the buffer enters a batch, and never by a domain: so its head isn't touched for it.
    end: u16,
    /// (Not beside `start`: compilers read that with the two bytes behind it, and such a read has to wait until a length that has just been set, and all that was stored before, is in the cache.)
    len: u16,
    pub flags: PacketFlags,
    pub rss_hash: u32,
}

/// Headers of packets lie close to each other: what is forwarded costs the cache lines of these, and of what is looked at.
const _: () = assert!(size_of::<Packet>() == 24);

impl Packet {
    /// The packet's bytes, from the Ethernet header on, without the frame check sequence.
    pub fn data(&self) -> &[u8] {
        let (start, len) = self.clamped();
        // SAFETY: the buffer is ours while its packet is in our batch, and start + len lie in it (`clamped`).
        unsafe { core::slice::from_raw_parts(self.base().add(start), len) }
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.clamped();
        // SAFETY: as in `data`, and `&mut self` is unique.
        unsafe { core::slice::from_raw_parts_mut(self.base().add(start), len) }
    }

    /// Makes the packet `len` bytes long, at most what the buffer holds from its start; returns the length that it has now.
    pub fn set_len(&mut self, len: usize) -> usize {
        let (start, _) = self.clamped();
        self.len = len.min(usize::from(self.end) - start) as u16;
        usize::from(self.len)
    }

    /// Moves the packet's start: negative into the headroom (adds bytes in front), positive cuts bytes off. False if there is no room.
    pub fn move_start(&mut self, by: i16) -> bool {
        let (start, len) = self.clamped();
        let (start, len) = (start as i32 + i32::from(by), len as i32 - i32::from(by));
        let fits = start >= 0 && len >= 0;
        if fits {
            (self.start, self.len) = (start as u16, len as u16);
        }
        fits
    }

    fn base(&self) -> *mut u8 {
        self.head.cast::<u8>().wrapping_add(size_of::<BufferHead>())
    }

    /// Start and length, whatever stands in the header: a device may have lied, and a diverted thread may have left them half written.
    fn clamped(&self) -> (usize, usize) {
        let end = usize::from(self.end);
        let start = usize::from(self.start).min(end);
        (start, usize::from(self.len).min(end - start))
    }
}

/// Up to `CAPACITY` packets that travel together.
#[repr(C)]
pub struct Batch {
    count: u32,
    packets: [Packet; Batch::CAPACITY],
}

// SAFETY: a batch owns its buffers (see the invariant above); the pointers in it are reached only through it. It has no drop glue: the kernel
// knows its kind and releases the buffers.
unsafe impl Send for Batch {}
// SAFETY: `&Batch` gives only `&[Packet]`, and `&Packet` only reads.
unsafe impl Sync for Batch {}
// SAFETY: the addresses in a batch are of the kernel's pool, which outlives every domain and means the same in every image.
#[diagnostic::do_not_recommend]
unsafe impl crate::Exchangeable for Batch {
    const KIND: u32 = Batch::KIND;
}
// SAFETY: the kind is its own; only the kernel changes a batch, and no call of the kernel is left half done.
unsafe impl Returnable for Batch {}

impl Batch {
    pub const CAPACITY: usize = 32;
    pub const KIND: u32 = 1;

    /// An empty batch.
    pub fn allocate() -> Result<RRef<Batch>, ExchangeFull> {
        const EMPTY: Packet =
            Packet { head: core::ptr::null_mut(), start: 0, len: 0, flags: PacketFlags::empty(), end: 0, rss_hash: 0 };
        RRef::new(Batch { count: 0, packets: [EMPTY; Batch::CAPACITY] })
    }

    pub fn len(&self) -> usize {
        (self.count as usize).min(Self::CAPACITY)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn packets(&self) -> &[Packet] {
        &self.packets[..self.len()]
    }
}

/// Changing a batch goes through its `RRef`: nobody gets a `&mut Batch`.
impl RRef<Batch> {
    pub fn packets_mut(&mut self) -> PacketsMut<'_> {
        let batch = self.object_mut();
        let len = batch.len();
        PacketsMut { packets: &mut batch.packets[..len] }
    }

    /// Adds up to `count` packets of length 0 with [`HEADROOM`] before them; returns how many (fewer if batch or pool run short).
    pub fn fill(&mut self, count: usize) -> usize {
        // SAFETY: `self` is a batch of this domain.
        unsafe { (kernel().packets_allocate)(self.object_mut(), count) }
    }

    /// Moves the packets whose bit is set in `mask` (bit i = packet i) to the end of `to`, as far as it has place; the others close up in
    /// order. Returns how many moved.
    pub fn transfer(&mut self, mask: u32, to: &mut RRef<Batch>) -> usize {
        // SAFETY: both are batches of this domain, and `&mut` says they are two.
        unsafe { (kernel().packets_transfer)(self.object_mut(), mask, to.object_mut()) }
    }

    /// Drops the packets whose bit is set in `mask`; the others close up in order.
    pub fn discard(&mut self, mask: u32) {
        // SAFETY: `self` is a batch of this domain.
        unsafe { (kernel().packets_release)(self.object_mut(), mask) }
    }

    /// Drops all packets.
    pub fn clear(&mut self) {
        self.discard(u32::MAX);
    }
}

/// The packets of a batch, to be changed in place. (No `&mut Packet` is handed out, since two packets that were swapped between batches would each be
/// elsewhere than the kernel put them; and half a swap would be seen after a crash.)
pub struct PacketsMut<'a> {
    packets: &'a mut [Packet],
}

/// One packet of a batch, to be changed in place.
pub struct PacketMut<'a>(&'a mut Packet);

impl<'a> PacketsMut<'a> {
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub fn get(&mut self, index: usize) -> Option<PacketMut<'_>> {
        self.packets.get_mut(index).map(PacketMut)
    }
}

impl<'a> IntoIterator for PacketsMut<'a> {
    type Item = PacketMut<'a>;
    type IntoIter = core::iter::Map<core::slice::IterMut<'a, Packet>, fn(&'a mut Packet) -> PacketMut<'a>>;
    fn into_iter(self) -> Self::IntoIter {
        self.packets.iter_mut().map(PacketMut)
    }
}

impl PacketMut<'_> {
    pub fn data(&self) -> &[u8] {
        self.0.data()
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    pub fn set_len(&mut self, len: usize) -> usize {
        self.0.set_len(len)
    }

    pub fn move_start(&mut self, by: i16) -> bool {
        self.0.move_start(by)
    }

    pub fn flags(&self) -> PacketFlags {
        self.0.flags
    }

    pub fn set_flags(&mut self, flags: PacketFlags) {
        self.0.flags = flags;
    }

    pub fn rss_hash(&self) -> u32 {
        self.0.rss_hash
    }
}

/// What trusted code (the kernel, its packet pool and device crates) does with the insides of a batch.
pub mod trusted {
    use super::{Batch, BufferHead, HEADROOM, Packet, PacketFlags};
    use crate::RRef;
    use core::ptr::NonNull;

    /// The batch itself, for `push` and `take`.
    ///
    /// # Safety
    /// Only the kernel's image calls this, at depth > 0, and moves buffers with `push` and `take` alone.
    pub unsafe fn batch(batch: &mut RRef<Batch>) -> &mut Batch {
        batch.object_mut()
    }

    /// Makes fresh memory a batch without packets, as far as whoever frees or reclaims it looks.
    ///
    /// # Safety
    /// The memory is large enough for a batch's head, aligned for a batch, and nobody else's.
    pub unsafe fn begin(memory: NonNull<Batch>) {
        // SAFETY: this function's contract.
        unsafe { (&raw mut (*memory.as_ptr()).count).write(0) }
    }

    /// How many packets are in a batch that somebody else may be changing, or has freed: a guess.
    ///
    /// # Safety
    /// `begin` was once called for the memory, which is never unmapped.
    pub unsafe fn count(memory: NonNull<Batch>) -> usize {
        // SAFETY: this function's contract; the word is read whole, whatever stands there.
        let count = unsafe { (&raw const (*memory.as_ptr()).count).read_volatile() };
        (count as usize).min(Batch::CAPACITY)
    }

    /// Puts a freshly received buffer, which has `bytes` behind its headroom, at the end of a batch; false, and nothing done, if it is full.
    ///
    /// # Safety
    /// The caller owns `head`'s buffer, of that size, and gives it to the batch. Only the kernel's image calls this, at depth > 0.
    pub unsafe fn push(
        batch: &mut Batch,
        head: NonNull<BufferHead>,
        bytes: u16,
        len: u16,
        flags: PacketFlags,
        rss_hash: u32,
    ) -> bool {
        let start = HEADROOM as u16;
        append(batch, Packet { head: head.as_ptr(), start, len, flags, end: start + bytes, rss_hash })
    }

    fn append(batch: &mut Batch, packet: Packet) -> bool {
        let at = batch.len();
        let fits = at < Batch::CAPACITY;
        if fits {
            batch.packets[at] = packet;
            batch.count = at as u32 + 1;
        }
        fits
    }

    /// Takes the packets whose bit is set in `mask` out, in order, handing each to `take(head, start, len, flags)` until that returns false; those
    /// not taken close up in order. Returns how many were taken.
    ///
    /// # Safety
    /// `take` returning true means that it owns the buffer now. Only the kernel's image calls this, at depth > 0.
    pub unsafe fn take(
        batch: &mut Batch,
        mask: u32,
        mut take: impl FnMut(NonNull<BufferHead>, usize, usize, PacketFlags) -> bool,
    ) -> usize {
        extract(batch, mask, |packet| {
            let (start, size) = packet.clamped();
            NonNull::new(packet.head).is_some_and(|head| take(head, start, size, packet.flags))
        })
    }

    /// Moves the packets whose bit is set in `mask` to the end of `to`, in order, as far as there is place; the others close up. Returns how many moved.
    ///
    /// # Safety
    /// Only the kernel's image calls this, at depth > 0.
    pub unsafe fn transfer(from: &mut Batch, mask: u32, to: &mut Batch) -> usize {
        extract(from, mask, |packet| append(to, Packet { ..*packet }))
    }

    #[inline(always)]
    fn extract(batch: &mut Batch, mask: u32, mut take: impl FnMut(&Packet) -> bool) -> usize {
        let len = batch.len();
        let first = len.min(mask.trailing_zeros() as usize);
        let (mut kept, mut taken, mut open) = (first, 0, true);
        for at in first..len {
            let wanted = open && mask & (1 << at) != 0;
            if wanted && take(&batch.packets[at]) {
                taken += 1;
            } else {
                open &= !wanted;
                if kept != at {
                    batch.packets.swap(kept, at);
                }
                kept += 1;
            }
        }
        batch.count = kept as u32;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame is in one buffer, whose size a device can be told; boxes with frames as usual have buffers as usual.
    #[test]
    fn a_buffer_holds_the_longest_frame() {
        for frame in 0..=LARGEST_BUFFER {
            let bytes = buffer_for(frame);
            assert!(
                bytes >= frame && bytes.is_multiple_of(BUFFER_UNIT) && (USUAL_BUFFER..=LARGEST_BUFFER).contains(&bytes)
            );
            assert!(bytes == USUAL_BUFFER || bytes - frame < BUFFER_UNIT, "{frame}: {bytes}");
        }
    }
}
