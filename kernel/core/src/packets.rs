//! The packet pool: buffers of one size, the manifest's, in memory that devices reach, made once at boot.
//!
//! A buffer is in the pool, in a device's ring, or in one batch. Every thread keeps some free ones for itself, so that forwarding takes no lock.
//!
//! In a strict box (the manifest's `iommu = "strict"`) a device reaches a buffer only while it is in one of its rings ([`grant_to`], [`revoke_from`]): its pages are no other's,
//! and its head is in none of them.

use alloc::vec::Vec;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
};

use interfaces::abi::Reason;
use interfaces::packet::{Batch, BufferHead, HEADROOM, PacketFlags, buffer_stride, trusted};

use crate::{
    domain, exchange,
    incarnation::Cause,
    lock::Lock,
    machine,
    platform::{DmaMemory, NEVER, PAGE, PciFunction},
    pool::Pool,
    supervisor, thread,
};

/// Pages that are asked for at once.
const CHUNK_PAGES: usize = 64;
/// Free buffers that one thread keeps at most; half of it moves at once. Half must be more than a usual transmit ring holds: what a slow device keeps
/// there and gives back at once is then taken from here and put back here, without the pool's lock.
const CACHE: usize = 1280;
/// A thread takes no more than this part of what is left in the pool, so that where buffers are few, all get some.
const FAIR_PART: usize = 4;
/// Nor keeps more than this part of all that there are: what others could not reach would be an overload to them.
const HELD_PART: usize = 6;

/// Free buffers that a thread keeps at most.
fn limit() -> usize {
    CACHE.min(TOTAL.load(Ordering::Relaxed) as usize / HELD_PART).max(2)
}

#[derive(Clone, Copy)]
struct FreeBuffer(NonNull<BufferHead>);

// SAFETY: a free buffer belongs to whoever has it off the list.
unsafe impl Send for FreeBuffer {}

static POOL: Lock<Vec<FreeBuffer>> = Lock::new(Vec::new());
static MEMORY: Pool = Pool::new();
static TOTAL: AtomicU32 = AtomicU32::new(0);
/// Bytes of each, behind its headroom. Said once, before there are any.
static BYTES: AtomicU16 = AtomicU16::new(0);
/// Said with it.
static STRICT: AtomicBool = AtomicBool::new(false);

/// Bytes that a buffer has behind its headroom: the same of all, as long as the box lives.
#[inline]
pub fn bytes() -> u16 {
    BYTES.load(Ordering::Relaxed)
}

/// Whether a device reaches a buffer only between [`grant_to`] and [`revoke_from`]; else it reaches all of the pool that it was opened to.
pub fn is_strict() -> bool {
    STRICT.load(Ordering::Relaxed)
}

/// Free buffers that a thread keeps for itself.
pub(crate) struct BufferCache {
    len: usize,
    buffers: [Option<NonNull<BufferHead>>; CACHE],
}

impl BufferCache {
    /// Gives everything back. For the supervisor, after the thread has ended.
    pub(crate) fn flush(&mut self) {
        self.spill(0);
    }

    #[cold]
    fn refill(&mut self) {
        let mut pool = POOL.lock();
        if pool.is_empty() {
            drop(pool);
            return run_dry();
        }
        let wanted = (limit() / 2).min(pool.len().div_ceil(FAIR_PART));
        while self.len < wanted
            && let Some(buffer) = pool.pop()
        {
            self.buffers[self.len] = Some(buffer.0);
            self.len += 1;
        }
    }

    /// Takes a buffer in, where the thread keeps `limit` at most.
    #[inline(always)]
    fn put(&mut self, buffer: NonNull<BufferHead>, limit: usize) {
        if self.len >= limit {
            self.spill(limit / 2);
        }
        self.buffers[self.len] = Some(buffer);
        self.len += 1;
    }

    #[cold]
    fn spill(&mut self, keep: usize) {
        let mut pool = POOL.lock();
        while self.len > keep {
            self.len -= 1;
            pool.extend(self.buffers[self.len].take().map(FreeBuffer));
        }
    }
}

/// Somebody has gone short since the last audit.
static SHORT: AtomicBool = AtomicBool::new(false);
/// Between two audits.
const AUDIT_PAUSE: u64 = 20_000_000;

#[cold]
fn run_dry() {
    if !SHORT.swap(true, Ordering::Relaxed) {
        supervisor::notice();
    }
}

/// Where somebody has gone short of buffers, whoever keeps more of them than its manifest admits dies of that. So counting costs nothing where there are enough. Returns when to come
/// again; `audited` is when this was done last. For the supervisor.
pub(crate) fn audit(audited: &mut u64) -> u64 {
    if !SHORT.load(Ordering::Relaxed) {
        return NEVER;
    }
    let now = machine().now();
    if now < *audited + AUDIT_PAUSE {
        return *audited + AUDIT_PAUSE;
    }
    *audited = now;
    SHORT.store(false, Ordering::Relaxed);
    let kept = exchange::buffers();
    for domain in domain::all() {
        if kept[domain.index] > domain.spec.packet_buffers
            && let Some(incarnation) = domain.incarnation()
        {
            incarnation.die(
                Cause::Crash(Reason::Quota),
                None,
                b"it keeps more packet buffers than its own, and others go short",
            );
        }
    }
    NEVER
}

/// What of a buffer a device is let to: headroom and bytes.
fn reached(bytes: u16) -> usize {
    HEADROOM + usize::from(bytes)
}

/// Where the buffers of a chunk are.
struct Layout {
    /// Where the first one's head is.
    first: usize,
    /// From one buffer's head to the next, at a place as aligned as the one before.
    stride: usize,
    count: usize,
}

impl Layout {
    fn new(bytes: u16, strict: bool) -> Layout {
        let stride = buffer_stride(bytes, strict);
        // In a strict box the head ends where a page does, and behind it are the pages that a device is let to.
        let first = if strict { PAGE - size_of::<BufferHead>() } else { 0 };
        Layout { first, stride, count: CHUNK_PAGES * PAGE / stride }
    }
}

/// Makes the pool, of buffers that have `bytes` behind their headroom. False if memory is short: then it is as large as it got.
pub fn make(buffers: usize, bytes: u16, strict: bool) -> bool {
    BYTES.store(bytes, Ordering::Relaxed);
    STRICT.store(strict, Ordering::Relaxed);
    if strict {
        MEMORY.grant_one_by_one();
    }
    let Layout { first, stride, count } = Layout::new(bytes, strict);
    let mut pool = POOL.lock();
    pool.reserve(buffers);
    let mut made = 0;
    while made < buffers {
        let Some(memory) = machine().dma_map(CHUNK_PAGES) else { break };
        if !MEMORY.add(memory) {
            // SAFETY: just mapped, and no device has been let to it.
            unsafe { machine().dma_unmap(memory) };
            break;
        }
        for at in (0..count.min(buffers - made)).map(|index| first + index * stride) {
            // SAFETY: a chunk has room for `count` strides, and `first` and a stride keep the head's alignment.
            let head = unsafe { memory.address.as_ptr().add(at).cast::<BufferHead>() };
            let bus = memory.bus + (at + size_of::<BufferHead>()) as u64;
            // SAFETY: as above.
            unsafe { head.write(BufferHead { bus, index: made as u32 }) };
            pool.extend(NonNull::new(head).map(FreeBuffer));
            made += 1;
        }
    }
    TOTAL.store(made as u32, Ordering::Relaxed);
    made == buffers
}

/// Lets a network card to the buffers, of which it is given some; in a strict box it has room for them by that, and reaches none yet. False: it can't be.
pub fn open_to(card: &'static dyn PciFunction) -> bool {
    MEMORY.open_to(card)
}

/// Buffers that are granted or revoked at once.
const AT_ONCE: usize = 64;

/// Lets a card reach these buffers, in a strict box. False: it can't be, and reaches none of them; not so where it was opened to the pool.
pub fn grant_to(card: &dyn PciFunction, buffers: &[Option<NonNull<BufferHead>>]) -> bool {
    let granted = in_parts(buffers, |part| card.grant(part));
    if !granted {
        revoke_from(card, buffers);
    }
    granted
}

/// Takes these buffers out of a card's reach, where it has them. When this returns, it has no access to them under way.
pub fn revoke_from(card: &dyn PciFunction, buffers: &[Option<NonNull<BufferHead>>]) {
    in_parts(buffers, |part| {
        card.revoke(part);
        true
    });
}

/// Hands the pages of these buffers to `each`, many at once, until that returns false; false then.
fn in_parts(buffers: &[Option<NonNull<BufferHead>>], mut each: impl FnMut(&[DmaMemory]) -> bool) -> bool {
    let pages = reached(bytes()).div_ceil(PAGE);
    buffers.chunks(AT_ONCE).all(|buffers| {
        let mut part = [DmaMemory { address: NonNull::dangling(), bus: 0, pages }; AT_ONCE];
        let mut count = 0;
        for head in buffers.iter().flatten() {
            // SAFETY: heads are never unmapped, nor written again; what it stands before belongs to it.
            (part[count].bus, part[count].address) = unsafe { (head.as_ref().bus, head.add(1).cast()) };
            count += 1;
        }
        count == 0 || each(&part[..count])
    })
}

/// The calling thread's cache. Every use of it ends before another begins.
#[inline(always)]
fn cache() -> *mut BufferCache {
    thread::current().buffers.get()
}

/// Fills `into` from its front with buffers that are nobody else's; returns how many there were.
#[inline]
pub fn take(into: &mut [Option<NonNull<BufferHead>>]) -> usize {
    // SAFETY: the thread's own cache, in the kernel: nobody else has a reference to it.
    let cache = unsafe { &mut *cache() };
    let mut taken = 0;
    while taken < into.len() {
        if cache.len == 0 {
            cache.refill();
            if cache.len == 0 {
                break;
            }
        }
        let count = cache.len.min(into.len() - taken);
        cache.len -= count;
        into[taken..taken + count].copy_from_slice(&cache.buffers[cache.len..cache.len + count]);
        taken += count;
    }
    taken
}

/// Gives all buffers in `from` back, leaving `None`.
///
/// # Safety
/// They are from [`take`], each is given back once, and no device reaches them any more.
#[inline]
pub unsafe fn give(from: &mut [Option<NonNull<BufferHead>>]) {
    // SAFETY: as in `take`.
    let cache = unsafe { &mut *cache() };
    let limit = limit();
    from.iter_mut().filter_map(Option::take).for_each(|buffer| cache.put(buffer, limit));
}

/// Puts up to `count` empty packets at the end of `batch`.
pub(crate) fn fill(batch: &mut Batch, count: usize) -> usize {
    let (mut buffers, bytes) = ([None; Batch::CAPACITY], bytes());
    let wanted = count.min(Batch::CAPACITY - batch.len());
    let added = take(&mut buffers[..wanted]);
    for head in buffers.into_iter().take(added).flatten() {
        // SAFETY: the buffer is ours, and the batch has room for it.
        unsafe { trusted::push(batch, head, bytes, 0, PacketFlags::empty(), 0) };
    }
    added
}

/// Gives the buffers of the packets whose bit is set back to the pool.
pub(crate) fn release(batch: &mut Batch, mask: u32) {
    // SAFETY: as in `take`; `take` calls nothing but this.
    let cache = unsafe { &mut *cache() };
    let limit = limit();
    // SAFETY: a packet's buffer is its batch's alone, and not in a device's reach.
    unsafe {
        trusted::take(batch, mask, |head, _, _, _| {
            cache.put(head, limit);
            true
        });
    }
}

/// Moves packets between two batches of one owner.
pub(crate) fn transfer(from: &mut Batch, mask: u32, to: &mut Batch) -> usize {
    // SAFETY: we are the kernel.
    unsafe { trusted::transfer(from, mask, to) }
}

/// Buffers that exist, and those that are free. Exact while nothing moves.
pub fn counts() -> (usize, usize) {
    // SAFETY: `len` is read while another thread may write it: a hint, except while nothing moves.
    let cached: usize =
        thread::all().map(|block| unsafe { (&raw const (*block.buffers.get()).len).read_volatile() }).sum();
    (TOTAL.load(Ordering::Relaxed) as usize, POOL.lock().len() + cached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::packet::{BUFFER_UNIT, LARGEST_BUFFER, USUAL_BUFFER};

    fn sizes() -> impl Iterator<Item = u16> {
        (USUAL_BUFFER..=LARGEST_BUFFER).step_by(BUFFER_UNIT.into())
    }

    /// In a strict box the pages that a device is let to with one buffer have nothing of another, nor any head; all of them are in the chunk.
    #[test]
    fn in_a_strict_box_a_buffer_has_its_pages_for_itself() {
        for bytes in sizes() {
            let Layout { first, stride, count } = Layout::new(bytes, true);
            let heads: Vec<usize> = (0..count).map(|index| first + index * stride).collect();
            let pages = |head: usize| {
                let data = head + size_of::<BufferHead>();
                assert!(data.is_multiple_of(PAGE), "what is granted begins with the buffer");
                data / PAGE..data / PAGE + reached(bytes).div_ceil(PAGE)
            };
            assert!(count > 0);
            for (at, head) in heads.iter().enumerate() {
                let own = pages(*head);
                assert!(own.len() * PAGE >= reached(bytes) && own.end <= CHUNK_PAGES);
                assert!(heads.iter().all(|head| !own.contains(&(head / PAGE))), "a head within reach");
                let next = heads.get(at + 1).map_or(CHUNK_PAGES, |head| pages(*head).start);
                assert!(own.end <= next, "a page of two buffers");
                assert!(head.is_multiple_of(align_of::<BufferHead>()));
            }
        }
    }

    /// Elsewhere buffers are as close to each other as they can be.
    #[test]
    fn elsewhere_no_byte_is_wasted() {
        for bytes in sizes() {
            let Layout { first, stride, count } = Layout::new(bytes, false);
            assert_eq!((first, stride), (0, size_of::<BufferHead>() + reached(bytes)));
            assert_eq!(count, CHUNK_PAGES * PAGE / stride);
        }
    }
}
