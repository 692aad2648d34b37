//! The packet pool: buffers of one size, the manifest's, in memory that devices reach, made once at boot.
//!
//! A buffer is in the pool, in a device's ring, or in one batch. Every thread keeps some free ones for itself, so that forwarding takes no lock.

use alloc::vec::Vec;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
};

use interfaces::abi::Reason;
use interfaces::packet::{Batch, BufferHead, HEADROOM, PacketFlags, trusted};

use crate::{
    domain, exchange,
    incarnation::Cause,
    lock::Lock,
    machine,
    platform::{NEVER, PAGE, PciFunction},
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

/// Bytes that a buffer has behind its headroom: the same of all, as long as the box lives.
#[inline]
pub fn bytes() -> u16 {
    BYTES.load(Ordering::Relaxed)
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

/// Makes the pool, of buffers that have `bytes` behind their headroom. False if memory is short: then it is as large as it got.
pub(crate) fn make(buffers: usize, bytes: u16) -> bool {
    BYTES.store(bytes, Ordering::Relaxed);
    // From one buffer's head to the next, at a place as aligned as the one before.
    let stride = (size_of::<BufferHead>() + HEADROOM + usize::from(bytes)).next_multiple_of(align_of::<BufferHead>());
    let in_chunk = CHUNK_PAGES * PAGE / stride;
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
        for index in 0..in_chunk.min(buffers - made) {
            // SAFETY: a chunk has room for `in_chunk` strides, and a stride keeps the head's alignment.
            let head = unsafe { memory.address.as_ptr().add(index * stride).cast::<BufferHead>() };
            let bus = memory.bus + (index * stride + size_of::<BufferHead>()) as u64;
            // SAFETY: as above.
            unsafe { head.write(BufferHead { bus, index: made as u32 }) };
            pool.extend(NonNull::new(head).map(FreeBuffer));
            made += 1;
        }
    }
    TOTAL.store(made as u32, Ordering::Relaxed);
    made == buffers
}

/// Lets a network card to the buffers, of which it is given some. False: it can't be.
pub fn open_to(card: &'static dyn PciFunction) -> bool {
    MEMORY.open_to(card)
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
