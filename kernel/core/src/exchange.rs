//! The exchange heap: objects that move between domains, each with one owner.
//!
//! Slabs of size classes; in front of each object a head with owner and kind. Every thread keeps some free objects of each class for itself
//! (its magazines), so that allocating and freeing take no lock once warm. A dead domain's objects are found by walking the slabs.
//!
//! Accounting: each domain has a count of bytes; a thread adds what it moves to counts of its own and settles them when they grow, so that a domain's true
//! count is its own plus those of all threads ([`bytes`] sums them).

use alloc::vec::Vec;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicI64, AtomicU32, Ordering},
};

use interfaces::{
    block::{self, Requests},
    packet::{Batch, trusted},
};

use crate::{
    blocks, call,
    incarnation::Owner,
    lock::Lock,
    machine, packets,
    platform::{Mapping, PAGE},
    thread::{self, MAX_DOMAINS, ThreadBlock},
};

/// In front of each object.
#[repr(C, align(16))]
struct Head {
    /// [`Owner`], or `FREE`.
    owner: AtomicU32,
    kind: AtomicU32,
    class: u32,
    /// Shared borrows by other domains; an object that is borrowed isn't freed before they end.
    borrows: AtomicU32,
}

const HEAD: usize = size_of::<Head>();
/// Owner of an object that nobody has.
const FREE: u32 = u32::MAX;

/// Classes are powers of two of head and object together, from 64 bytes on.
const SMALLEST: u32 = 6;
const CLASSES: usize = 12;
/// Objects of a class are made in slabs of this size at least.
const SLAB_PAGES: usize = 16;
/// The largest alignment; larger than 16, it costs a head's place of its own.
const MAX_ALIGN: usize = 64;
/// Free objects of a class that one thread keeps.
const MAGAZINE: usize = 16;
/// A thread settles its count of a domain beyond this many bytes.
const SLACK: i64 = 16 * 1024;

/// Free objects that a thread keeps for itself.
pub(crate) struct Magazines([Magazine; CLASSES]);

struct Magazine {
    len: usize,
    objects: [*mut Head; MAGAZINE],
}

impl Magazines {
    pub(crate) const fn new() -> Self {
        Magazines([const { Magazine { len: 0, objects: [core::ptr::null_mut(); MAGAZINE] } }; CLASSES])
    }

    /// Gives everything back. For the supervisor, after the thread has ended.
    pub(crate) fn flush(&mut self) {
        for (class, magazine) in self.0.iter_mut().enumerate() {
            magazine.spill(class, 0);
        }
    }
}

impl Magazine {
    /// Takes half a magazine from the common store, making a slab if that is empty.
    #[cold]
    fn refill(&mut self, class: usize) {
        let mut store = STORE.lock();
        if store.free[class].is_empty() {
            store.grow(class);
        }
        while self.len < MAGAZINE / 2
            && let Some(head) = store.free[class].pop()
        {
            self.objects[self.len] = head.0;
            self.len += 1;
        }
    }

    /// Gives objects back until `keep` are left.
    #[cold]
    fn spill(&mut self, class: usize, keep: usize) {
        let mut store = STORE.lock();
        while self.len > keep {
            self.len -= 1;
            store.free[class].push(FreeObject(self.objects[self.len]));
        }
    }
}

#[derive(Clone, Copy)]
struct FreeObject(*mut Head);

// SAFETY: a free object belongs to whoever has it off the list.
unsafe impl Send for FreeObject {}

struct Slab {
    first: NonNull<u8>,
    class: usize,
    objects: usize,
}

// SAFETY: the heads in a slab are atomics; slabs are never unmapped.
unsafe impl Send for Slab {}

struct Store {
    free: [Vec<FreeObject>; CLASSES],
    slabs: Vec<Slab>,
}

static STORE: Lock<Store> = Lock::new(Store { free: [const { Vec::new() }; CLASSES], slabs: Vec::new() });

/// What the domains own, apart from what threads have not yet settled; and their quotas.
struct Account {
    bytes: AtomicI64,
    quota: AtomicI64,
}

static ACCOUNTS: [Account; MAX_DOMAINS] =
    [const { Account { bytes: AtomicI64::new(0), quota: AtomicI64::new(i64::MAX) } }; MAX_DOMAINS];

impl Store {
    fn grow(&mut self, class: usize) {
        let stride = stride(class);
        let pages = (stride * 4).div_ceil(PAGE).max(SLAB_PAGES);
        let Some(first) = machine().map(pages, Mapping::Heap) else { return };
        let objects = pages * PAGE / stride;
        for index in 0..objects {
            // SAFETY: fresh memory of `objects` strides; a class's offset and head fit into one, aligned.
            let head = unsafe { first.as_ptr().add(index * stride + head_offset(class)).cast::<Head>() };
            // SAFETY: as above.
            unsafe {
                head.write(Head {
                    owner: AtomicU32::new(FREE),
                    kind: AtomicU32::new(0),
                    class: class as u32,
                    borrows: AtomicU32::new(0),
                })
            };
            self.free[class].push(FreeObject(head));
        }
        self.slabs.push(Slab { first, class, objects });
    }
}

const fn stride(class: usize) -> usize {
    1 << (SMALLEST as usize + class)
}

/// Where the head stands in its stride: so that the object behind it is aligned to 64, in all but the smallest class.
const fn head_offset(class: usize) -> usize {
    if class == 0 { 0 } else { MAX_ALIGN - HEAD }
}

/// The class for an object, if there is one.
fn class_of(size: usize, align: usize) -> Option<usize> {
    if align > MAX_ALIGN || size > stride(CLASSES - 1) {
        return None;
    }
    if align <= HEAD && size + HEAD <= stride(0) {
        return Some(0);
    }
    let class = (size + MAX_ALIGN).next_power_of_two().trailing_zeros().saturating_sub(SMALLEST) as usize;
    (class < CLASSES).then_some(class)
}

fn head_of(object: NonNull<u8>) -> *mut Head {
    object.as_ptr().wrapping_sub(HEAD).cast()
}

/// A new object for the domain that the calling thread acts for; `None` if quota, memory or size don't admit it.
pub(crate) fn allocate(kind: u32, size: usize, align: usize) -> Option<NonNull<u8>> {
    let class = class_of(size, align)?;
    let block = thread::current();
    let owner = call::acting_owner();
    if beyond_quota(block, owner, stride(class) as i64) {
        return None;
    }
    // SAFETY: the thread's own magazines, in the kernel: nobody else has a reference to them.
    let magazine = unsafe { &mut (*block.magazines.get()).0[class] };
    if magazine.len == 0 {
        magazine.refill(class);
        if magazine.len == 0 {
            return None;
        }
    }
    magazine.len -= 1;
    let head = magazine.objects[magazine.len];
    count(block, owner, stride(class) as i64);
    // SAFETY: a free object's head is ours, and so is what follows it: 48 bytes at least.
    unsafe {
        // The domain may die before it has written the object, and what lies there now was somebody else's.
        if kind == Batch::KIND {
            trusted::begin(NonNull::new_unchecked(head.add(1).cast()));
        } else if kind == Requests::KIND {
            block::trusted::begin(NonNull::new_unchecked(head.add(1).cast()));
        }
        (*head).kind.store(kind, Ordering::Relaxed);
        (*head).borrows.store(0, Ordering::Relaxed);
        (*head).owner.store(owner.0, Ordering::Release);
    }
    NonNull::new(head.wrapping_add(1).cast())
}

/// Gives an object back, with the packet buffers that are in it if it is a batch.
///
/// # Safety
/// The calling thread's domain (or the kernel, on its behalf) owns the object and doesn't use it any more.
pub(crate) unsafe fn free(object: NonNull<u8>) {
    let block = thread::current();
    // SAFETY: this function's contract.
    unsafe {
        let head = head_of(object);
        empty(head);
        let owner = Owner((*head).owner.load(Ordering::Relaxed));
        let class = (*head).class as usize;
        count(block, owner, -(stride(class) as i64));
        (*head).owner.store(FREE, Ordering::Relaxed);
        let magazine = &mut (*block.magazines.get()).0[class];
        if magazine.len == MAGAZINE {
            magazine.spill(class, MAGAZINE / 2);
        }
        magazine.objects[magazine.len] = head;
        magazine.len += 1;
    }
}

/// Gives back what an object owns besides its bytes.
///
/// # Safety
/// The caller owns the object.
unsafe fn empty(head: *mut Head) {
    // SAFETY: this function's contract; a batch's kind is given to batches alone.
    unsafe {
        match (*head).kind.load(Ordering::Relaxed) {
            Batch::KIND => packets::release(&mut *head.add(1).cast::<Batch>(), u32::MAX),
            Requests::KIND => blocks::release(&mut *head.add(1).cast::<Requests>(), u32::MAX),
            _ => {}
        }
    }
}

/// Makes `to` the owner of what was `from`'s. One store and two counts.
#[inline(always)]
pub(crate) fn transfer(object: NonNull<u8>, from: Owner, to: Owner) {
    let block = thread::current();
    let head = head_of(object);
    // SAFETY: an `RRef` crosses only by value: the object is live and the sender's, and while the call crosses nobody reclaims it.
    let bytes = unsafe {
        (*head).owner.store(to.0, Ordering::Relaxed);
        stride((*head).class as usize) as i64
    };
    count(block, from, -bytes);
    count(block, to, bytes);
}

/// Makes `to` the owner of what is `from`'s, unless it isn't any more. For objects that somebody else may claim at the same time.
pub(crate) fn claim(object: NonNull<u8>, from: Owner, to: Owner) -> bool {
    let head = head_of(object);
    // SAFETY: heads are never unmapped.
    let claimed = unsafe { (*head).owner.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() };
    if claimed {
        let block = thread::current();
        // SAFETY: as above; a class never changes.
        let bytes = unsafe { stride((*head).class as usize) as i64 };
        count(block, from, -bytes);
        count(block, to, bytes);
    }
    claimed
}

/// Whether the object is `owner`'s, and of `kind`.
pub(crate) fn is(object: NonNull<u8>, owner: Owner, kind: u32) -> bool {
    // SAFETY: heads are never unmapped.
    let head = unsafe { &*head_of(object) };
    head.owner.load(Ordering::Acquire) == owner.0 && head.kind.load(Ordering::Relaxed) == kind
}

/// Adds to the thread's count of a domain.
#[inline(always)]
fn count(block: &ThreadBlock, owner: Owner, bytes: i64) {
    let count = &block.exchange[owner.domain() % MAX_DOMAINS];
    let sum = count.load(Ordering::Relaxed) + bytes;
    count.store(sum, Ordering::Relaxed);
    if !(-SLACK..=SLACK).contains(&sum) {
        settle_one(block, owner.domain());
    }
}

#[cold]
fn settle_one(block: &ThreadBlock, domain: usize) {
    let sum = block.exchange[domain % MAX_DOMAINS].swap(0, Ordering::Relaxed);
    ACCOUNTS[domain % MAX_DOMAINS].bytes.fetch_add(sum, Ordering::Relaxed);
}

/// Settles all counts of a thread that has ended.
pub(crate) fn settle(block: &ThreadBlock) {
    for domain in 0..MAX_DOMAINS {
        settle_one(block, domain);
    }
}

fn beyond_quota(block: &ThreadBlock, owner: Owner, more: i64) -> bool {
    let account = &ACCOUNTS[owner.domain() % MAX_DOMAINS];
    let unsettled = block.exchange[owner.domain() % MAX_DOMAINS].load(Ordering::Relaxed);
    account.bytes.load(Ordering::Relaxed) + unsettled + more > account.quota.load(Ordering::Relaxed)
}

/// Whether a domain has reached its quota, so that nothing more may be moved to it.
#[inline(always)]
pub(crate) fn is_full(owner: Owner) -> bool {
    beyond_quota(thread::current(), owner, 0)
}

pub(crate) fn set_quota(domain: usize, bytes: u64) {
    ACCOUNTS[domain].quota.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
}

/// Bytes that a domain owns, heads and rounding included. Exact while nothing moves.
pub fn bytes(domain: usize) -> i64 {
    let unsettled: i64 = thread::all().map(|block| block.exchange[domain].load(Ordering::Relaxed)).sum();
    ACCOUNTS[domain].bytes.load(Ordering::Relaxed) + unsettled
}

/// Frees all objects of a dead owner; returns how many there were.
///
/// # Safety
/// The owner's incarnation is quiet, and no thread is moving anything from it or to it.
pub(crate) unsafe fn reclaim(owner: Owner) -> usize {
    let mut found = Vec::new();
    for_each(|head| {
        // SAFETY: heads are never unmapped.
        if unsafe { (*head).owner.load(Ordering::Acquire) } == owner.0 {
            found.push(head);
        }
    });
    let mut reclaimed = 0;
    for head in found {
        // SAFETY: a head has an object behind it.
        let object = unsafe { NonNull::new_unchecked(head.add(1).cast()) };
        // The caller whose call brought it may be quicker, and have it back (`given_back`).
        if claim(object, owner, Owner::KERNEL) {
            // SAFETY: claimed for the kernel, from a dead owner whom nobody acts for.
            unsafe { free(object) };
            reclaimed += 1;
        }
    }
    reclaimed
}

/// Visits every object's head, free or not.
fn for_each(mut visit: impl FnMut(*mut Head)) {
    // Slabs are only ever added: those that were there at the beginning are enough for whoever looks for a dead owner's objects.
    let slabs: Vec<(NonNull<u8>, usize, usize)> =
        STORE.lock().slabs.iter().map(|slab| (slab.first, slab.class, slab.objects)).collect();
    for (first, class, objects) in slabs {
        for index in 0..objects {
            // SAFETY: as in `grow`.
            visit(unsafe { first.as_ptr().add(index * stride(class) + head_offset(class)).cast() });
        }
    }
}

/// Pages of all slabs. They stay: an object may come back to its slab at any time.
pub fn slab_pages() -> usize {
    STORE.lock().slabs.iter().map(|slab| (slab.objects * stride(slab.class)).div_ceil(PAGE)).sum()
}

/// Objects that a domain's generations own, and packet buffers in its batches. For tests and `domains`; exact while nothing moves.
pub fn objects(domain: usize) -> (usize, usize) {
    let (mut objects, mut buffers) = (0, 0);
    for_each(|head| {
        // SAFETY: heads are never unmapped; a batch's length is read as a hint.
        unsafe {
            let owner = (*head).owner.load(Ordering::Acquire);
            if owner != FREE && Owner(owner).domain() == domain {
                objects += 1;
                if (*head).kind.load(Ordering::Relaxed) == Batch::KIND {
                    buffers += (*head.add(1).cast::<Batch>()).len();
                }
            }
        }
    });
    (objects, buffers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_head_and_object_and_keeps_the_alignment() {
        for size in [1, 16, 47, 48, 49, 64, 100, 776, 1000, 4032, 4096, 60_000] {
            for align in [1, 8, 16, 64] {
                let Some(class) = class_of(size, align) else { panic!("no class for {size} aligned to {align}") };
                let place = head_offset(class) + HEAD;
                assert!(place + size <= stride(class), "{size} in class {class}");
                assert!(place.is_multiple_of(align), "{align} in class {class}");
            }
        }
        assert_eq!(class_of(1 << 20, 8), None);
        assert_eq!(class_of(8, 128), None);
    }
}
