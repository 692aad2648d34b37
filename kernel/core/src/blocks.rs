//! The block pool: buffers for disks' requests, page-aligned and contiguous for devices, in four sizes.
//!
//! A buffer's holds are in batches or in a device's queues; with the last of them it comes back. Memory is taken in runs of the largest size as it is needed,
//! up to a quarter of the box's, and stays, as slabs of the exchange heap do.

use alloc::{boxed::Box, vec::Vec};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use interfaces::block::{
    BufferHead, LARGEST_BUFFER, Order, Requests, Status,
    trusted::{self, Parts},
};

use crate::{
    lock::Lock,
    machine,
    platform::{PAGE, PciFunction},
    pool::Pool,
};

/// Bytes of the buffers of each class.
const CLASSES: [usize; 4] = [PAGE, 4 * PAGE, 16 * PAGE, LARGEST_BUFFER];
const RUN_PAGES: usize = LARGEST_BUFFER / PAGE;
/// The part of the box's memory that the pool may take.
const SHARE: usize = 4;

#[derive(Clone, Copy)]
struct FreeBuffer(NonNull<BufferHead>);

// SAFETY: a free buffer belongs to whoever has it off the list.
unsafe impl Send for FreeBuffer {}

static POOL: Lock<[Vec<FreeBuffer>; CLASSES.len()]> = Lock::new([const { Vec::new() }; CLASSES.len()]);
static MEMORY: Pool = Pool::new();
static PAGES: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

fn class_of(bytes: usize) -> Option<usize> {
    CLASSES.iter().position(|size| bytes <= *size)
}

/// A buffer that is nobody else's, with one hold.
fn take(bytes: usize) -> Option<NonNull<BufferHead>> {
    let class = class_of(bytes)?;
    let mut found = POOL.lock()[class].pop();
    if found.is_none() {
        grow(class)?;
        found = POOL.lock()[class].pop();
    }
    let FreeBuffer(head) = found?;
    // SAFETY: heads are never freed, and this one is ours.
    unsafe { head.as_ref() }.holds.store(1, Ordering::Relaxed);
    Some(head)
}

/// Cuts another run into buffers of a class. No lock is held while memory is asked for.
#[cold]
fn grow(class: usize) -> Option<()> {
    let pages = machine().pages();
    let limit = (pages.used + pages.free) / SHARE;
    let before = PAGES.fetch_add(RUN_PAGES, Ordering::Relaxed);
    let run = if before + RUN_PAGES <= limit { machine().dma_map(RUN_PAGES) } else { None };
    let run = run.filter(|run| {
        let is_reached = MEMORY.add(*run);
        if !is_reached {
            // SAFETY: just mapped, and no device has been let to it.
            unsafe { machine().dma_unmap(*run) };
        }
        is_reached
    });
    let Some(run) = run else {
        PAGES.fetch_sub(RUN_PAGES, Ordering::Relaxed);
        return None;
    };
    let bytes = CLASSES[class];
    let heads: Vec<FreeBuffer> = (0..LARGEST_BUFFER / bytes)
        .map(|at| {
            // SAFETY: inside the run.
            let address = unsafe { run.address.add(at * bytes) };
            let bus = run.bus + (at * bytes) as u64;
            let head = BufferHead { address, bus, bytes: bytes as u32, holds: AtomicU32::new(0) };
            FreeBuffer(NonNull::from(Box::leak(Box::new(head))))
        })
        .collect();
    TOTAL.fetch_add(heads.len(), Ordering::Relaxed);
    let mut pool = POOL.lock();
    // Room for all there are, so that giving back never allocates.
    let room = TOTAL.load(Ordering::Relaxed);
    pool[class].reserve(room);
    pool[class].extend(heads);
    Some(())
}

/// Lets a disk's controller to the buffers. False: it can't be.
pub fn open_to(controller: &'static dyn PciFunction) -> bool {
    MEMORY.open_to(controller)
}

/// Lets go of a hold.
///
/// # Safety
/// The hold is the caller's, and no device reaches the buffer by it any more.
pub unsafe fn release_hold(head: NonNull<BufferHead>) {
    // SAFETY: heads are never freed.
    let buffer = unsafe { head.as_ref() };
    // What this holder did is done before the next one writes.
    if buffer.holds.fetch_sub(1, Ordering::AcqRel) == 1
        && let Some(class) = class_of(buffer.bytes as usize)
    {
        POOL.lock()[class].push(FreeBuffer(head));
    }
}

/// Puts a request with a buffer (none for 0 bytes) at the end of a batch; false if batch or pool doesn't admit it.
pub(crate) fn add(batch: &mut Requests, order: Order, bytes: usize) -> bool {
    if batch.len() == Requests::CAPACITY {
        return false;
    }
    let buffer = if bytes == 0 { None } else { take(bytes) };
    // SAFETY: the hold is ours to give, and there is a place for it.
    (bytes == 0 || buffer.is_some()) && unsafe { trusted::push(batch, Parts { buffer, order, status: Status::Open }) }
}

/// Moves requests between two batches of one owner.
pub(crate) fn transfer(from: &mut Requests, mask: u32, to: &mut Requests) -> usize {
    // SAFETY: `push` takes the hold over exactly if it returns true.
    unsafe { trusted::take(from, mask, |parts| trusted::push(to, parts)) }
}

/// Copies requests from one batch of an owner to another of the same, with holds of the same buffers.
pub(crate) fn share(from: &Requests, mask: u32, to: &mut Requests) -> usize {
    let room = Requests::CAPACITY - to.len();
    let wanted = trusted::parts(from).enumerate().filter(|(at, _)| mask & (1 << at) != 0).take(room);
    let mut shared = 0;
    for (_, parts) in wanted {
        if let Some(head) = parts.buffer {
            // SAFETY: the batch's own hold keeps the buffer.
            unsafe { head.as_ref() }.holds.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the hold was just made, and there is a place for it.
        unsafe { trusted::push(to, parts) };
        shared += 1;
    }
    shared
}

/// Drops the requests whose bit is set.
pub(crate) fn release(batch: &mut Requests, mask: u32) {
    // SAFETY: a batch's holds are its own, and not in a device's reach.
    unsafe {
        trusted::take(batch, mask, |parts| {
            if let Some(head) = parts.buffer {
                release_hold(head);
            }
            true
        });
    }
}

/// Buffers that exist, and those that are free. Exact while nothing moves.
pub fn counts() -> (usize, usize) {
    (TOTAL.load(Ordering::Relaxed), POOL.lock().iter().map(Vec::len).sum())
}

/// Pages that the pool has taken.
pub fn pages() -> usize {
    PAGES.load(Ordering::Relaxed)
}
