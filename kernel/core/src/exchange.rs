//! The exchange heap: objects that move between domains, each with one owner, others perhaps nested in it, and lent for the time of calls.
//!
//! Slabs of size classes; in front of each object a head with owner, loans and kind, and the links of its hierarchy. Every thread keeps some free objects of each class for itself
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
    object::{self, ObjectHead as Head},
    packet::{Batch, trusted},
    title,
};

use crate::{
    blocks, call,
    incarnation::Owner,
    lock::Lock,
    machine, packets,
    platform::{Mapping, PAGE},
    thread::{self, MAX_DOMAINS, ThreadBlock},
};

const HEAD: usize = size_of::<Head>();
/// Owners that are nobody: of an object that is free, of one that is nested in another, and of an orphan. (No generation is as high.)
const FREE: u32 = u32::MAX;
const NESTED: u32 = 0xffff_fe00;
const ORPHANED: Owner = Owner(title::ORPHANED);

/// Classes are powers of two of head and object together, from 128 bytes on.
const SMALLEST: u32 = 7;
const CLASSES: usize = 11;
/// Objects of a class are made in slabs of this size at least.
const SLAB_PAGES: usize = 16;
/// The largest alignment: a head's.
const MAX_ALIGN: usize = align_of::<Head>();
/// Free objects of a class that one thread keeps.
const MAGAZINE: usize = 16;
/// Deeper than any type nests.
const MAX_NESTING: usize = 64;
/// A thread settles its count of a domain beyond this many bytes.
const SLACK: i64 = 16 * 1024;

/// Free objects that a thread keeps for itself.
pub(crate) struct Magazines([Magazine; CLASSES]);

struct Magazine {
    len: usize,
    objects: [*mut Head; MAGAZINE],
}

impl Magazines {
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
    /// By address.
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
            // SAFETY: fresh memory of `objects` strides; a head fits into one, aligned.
            let head = unsafe { first.as_ptr().add(index * stride).cast::<Head>() };
            // SAFETY: as above.
            unsafe { head.write(Head::new(FREE, class as u32)) };
            self.free[class].push(FreeObject(head));
        }
        let place = self.slabs.partition_point(|slab| slab.first < first);
        self.slabs.insert(place, Slab { first, class, objects });
    }
}

const fn stride(class: usize) -> usize {
    1 << (SMALLEST as usize + class)
}

/// The class for an object, if there is one.
fn class_of(size: usize, align: usize) -> Option<usize> {
    if align > MAX_ALIGN || size > stride(CLASSES - 1) {
        return None;
    }
    let class = (size + HEAD).next_power_of_two().trailing_zeros().saturating_sub(SMALLEST) as usize;
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
    // SAFETY: a free object's head is ours, and so is what follows it: 64 bytes at least.
    unsafe {
        // The domain may die before it has written the object, and what lies there now was somebody else's.
        if kind == Batch::KIND {
            trusted::begin(NonNull::new_unchecked(head.add(1).cast()));
        } else if kind == Requests::KIND {
            block::trusted::begin(NonNull::new_unchecked(head.add(1).cast()));
        }
        (*head).begin(kind, stride(class) as u32);
        (*head).title.give_to(owner.0);
    }
    NonNull::new(head.wrapping_add(1).cast())
}

/// Gives an object back with all that is nested in it, and the packet buffers of batches among them. What is lent to somebody else stays until it isn't.
///
/// # Safety
/// The calling thread's domain (or the kernel, on its behalf) owns the object and doesn't use it any more.
pub(crate) unsafe fn free(object: NonNull<u8>) {
    let block = thread::current();
    let root = head_of(object);
    // SAFETY: this function's contract: the whole hierarchy is the caller's.
    unsafe {
        let owner = Owner((*root).title.owner());
        let spared = |lent: *mut Head| {
            (*lent).title.give_to(owner.0);
            orphan(lent, owner)
        };
        object::dismantle(root, spared, |head| free_one(block, head, owner));
    }
}

/// Gives one object back, with nothing in it.
///
/// # Safety
/// The object is `owner`'s, for whom the caller acts; its links are not used any more.
unsafe fn free_one(block: &ThreadBlock, head: *mut Head, owner: Owner) {
    // SAFETY: this function's contract; kinds that own something are given to their types alone. The magazines are the thread's own.
    unsafe {
        match (*head).kind.load(Ordering::Relaxed) {
            Batch::KIND => packets::release(&mut *head.add(1).cast::<Batch>(), u32::MAX),
            Requests::KIND => blocks::release(&mut *head.add(1).cast::<Requests>(), u32::MAX),
            _ => {}
        }
        let class = (*head).class.load(Ordering::Relaxed) as usize;
        count(block, owner, -(stride(class) as i64));
        (*head).title.give_to(FREE);
        let magazine = &mut (*block.magazines.get()).0[class];
        if magazine.len == MAGAZINE {
            magazine.spill(class, MAGAZINE / 2);
        }
        magazine.objects[magazine.len] = head;
        magazine.len += 1;
    }
}

/// Leaves a root that is lent to whoever has it, if somebody still does. Otherwise it is as before.
///
/// # Safety
/// The object is a root of `owner`, for whom the caller acts and who is dead, so that it isn't lent anew but by those to whom it is lent.
unsafe fn orphan(head: *mut Head, owner: Owner) -> bool {
    // SAFETY: heads are never unmapped.
    let head = unsafe { &*head };
    // The orphan's bytes are the kernel's: who frees it takes them off again.
    let (block, bytes) = (thread::current(), i64::from(head.bytes()));
    let left = head.title.orphan(owner.0);
    if left {
        count(block, owner, -bytes);
        count(block, ORPHANED, bytes);
    }
    left
}

/// Counts a loan.
#[inline(always)]
pub(crate) fn lend(object: NonNull<u8>) {
    // SAFETY: the lender has the object, borrowed or owned, and isn't reclaimed while the call crosses.
    unsafe { (*head_of(object)).title.lend() };
}

/// Ends a loan; frees the object if its owner has died meanwhile and this was the last one.
#[inline(always)]
pub(crate) fn give_back(object: NonNull<u8>) {
    // SAFETY: counted by `lend`: until now nobody has freed it.
    let head = unsafe { &*head_of(object) };
    // SAFETY: its owner is dead, and we are the last to whom it was lent.
    let orphaned = || unsafe { free_orphan(object) };
    if head.title.give_back() {
        orphaned();
    }
}

/// # Safety
/// Nobody uses the object but those who run this, each after a loan of its own.
#[cold]
#[inline(never)]
unsafe fn free_orphan(object: NonNull<u8>) {
    // SAFETY: this function's contract: whoever changes the owner frees.
    unsafe {
        if claim(object, ORPHANED, Owner::KERNEL) {
            free(object);
        }
    }
}

/// The object that an address is in.
fn object_at(address: usize) -> Option<*mut Head> {
    let store = STORE.lock();
    let after = store.slabs.partition_point(|slab| slab.first.as_ptr().addr() <= address);
    let slab = &store.slabs[after.checked_sub(1)?];
    let (offset, stride) = (address - slab.first.as_ptr().addr(), stride(slab.class));
    let inside = offset / stride < slab.objects && offset % stride >= HEAD;
    // SAFETY: as in `grow`.
    inside.then(|| unsafe { slab.first.as_ptr().add(offset / stride * stride).cast() })
}

/// Hangs an object into the one that `place` is in, both of the domain that the calling thread acts for. The put's ticket; 0: `place` is in none.
///
/// # Safety
/// `object` is a live root that the caller has; nobody else uses it or what `place` is in.
pub(crate) unsafe fn put(place: usize, object: NonNull<u8>) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let (acting, child) = (call::acting_owner(), head_of(object));
    let Some(parent) = object_at(place) else { return 0 };
    // SAFETY: this function's contract. A head that isn't the caller's is only read.
    unsafe {
        let owner = |head: *mut Head| (*head).title.owner();
        let mine = matches!(owner(parent), NESTED) || owner(parent) == acting.0;
        if !mine || owner(child) != acting.0 {
            return 0;
        }
        let root = object::root(parent);
        if owner(root) != acting.0 || root == child {
            return 0;
        }
        // 0 is none; they are given again only after four thousand million.
        let ticket = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        object::nest(parent, child, place, ticket);
        (*child).title.give_to(NESTED);
        ticket
    }
}

/// Makes a nested object a root of the domain that the calling thread acts for.
///
/// # Safety
/// It is nested in an object of that domain, and nobody else uses that.
pub(crate) unsafe fn take(object: NonNull<u8>) {
    let head = head_of(object);
    // SAFETY: this function's contract.
    unsafe {
        // Two roots of one owner are what they were as one: whenever the domain dies, both are found.
        let owner = (*object::root(head)).title.owner();
        object::unnest(head);
        (*head).title.give_to(owner);
    }
}

/// Makes `to` the owner of what was `from`'s, with all that is nested in it. One store and two counts.
#[inline(always)]
pub(crate) fn transfer(object: NonNull<u8>, from: Owner, to: Owner) {
    let block = thread::current();
    let head = head_of(object);
    // SAFETY: an `RRef` crosses only by value: the object is live and the sender's, and while the call crosses nobody reclaims it.
    let bytes = unsafe {
        (*head).title.give_to(to.0);
        i64::from((*head).bytes())
    };
    if cfg!(debug_assertions) {
        // For the test that what is in an object costs nothing when that moves.
        block.count_move();
    }
    count(block, from, -bytes);
    count(block, to, bytes);
}

/// Makes `to` the owner of what is `from`'s, with all that is nested in it, unless it isn't any more. For objects that somebody else may claim at the same time.
pub(crate) fn claim(object: NonNull<u8>, from: Owner, to: Owner) -> bool {
    // SAFETY: heads are never unmapped.
    let head = unsafe { &*head_of(object) };
    let claimed = head.title.claim(from.0, to.0);
    if claimed {
        let (block, bytes) = (thread::current(), i64::from(head.bytes()));
        count(block, from, -bytes);
        count(block, to, bytes);
    }
    claimed
}

/// Has `to` inherit what the dead `from` had, if it still has it. What is lent of it to somebody who is alive is not `to`'s to change: then it is freed, as by the
/// dead one's reclaim.
pub(crate) fn inherit(object: NonNull<u8>, from: Owner, to: Owner) -> bool {
    if !claim(object, from, Owner::KERNEL) {
        return false;
    }
    // SAFETY: the kernel's by now, from a dead owner: nobody else changes the hierarchy, and loans of it only end.
    unsafe {
        if object::is_lent(head_of(object)) {
            abandon(object);
            return false;
        }
    }
    transfer(object, Owner::KERNEL, to);
    true
}

/// Frees what a dead domain had; what is lent to others as soon as it is given back.
///
/// # Safety
/// The object was claimed for the kernel just now, from a dead owner whom nobody acts for.
unsafe fn abandon(object: NonNull<u8>) {
    let head = head_of(object);
    // SAFETY: this function's contract.
    unsafe {
        if !((*head).title.is_lent() && orphan(head, Owner::KERNEL)) {
            free(object);
        }
    }
}

/// Whether the object is `owner`'s, and of `kind`.
pub(crate) fn is(object: NonNull<u8>, owner: Owner, kind: u32) -> bool {
    // SAFETY: heads are never unmapped.
    let head = unsafe { &*head_of(object) };
    head.title.owner() == owner.0 && head.kind.load(Ordering::Relaxed) == kind
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

/// Whether a domain's quota has room for so many bytes more, so that they may be moved to it.
#[inline(always)]
pub(crate) fn has_room(owner: Owner, bytes: i64) -> bool {
    !beyond_quota(thread::current(), owner, bytes)
}

/// Bytes of an object that is about to be moved, with all that is nested in it.
#[inline(always)]
pub(crate) fn weight(object: NonNull<u8>) -> i64 {
    // SAFETY: heads are never unmapped.
    i64::from(unsafe { (*head_of(object)).bytes() })
}

pub(crate) fn set_quota(domain: usize, bytes: u64) {
    ACCOUNTS[domain].quota.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
}

/// Bytes that a domain owns, heads and rounding included. Exact while nothing moves.
pub fn bytes(domain: usize) -> i64 {
    let unsettled: i64 = thread::all().map(|block| block.exchange[domain].load(Ordering::Relaxed)).sum();
    ACCOUNTS[domain].bytes.load(Ordering::Relaxed) + unsettled
}

/// Frees all objects of a dead owner (what is lent to others, as soon as it is given back); returns how many roots there were.
///
/// # Safety
/// The owner's incarnation is quiet, and no thread is moving anything from it or to it.
pub(crate) unsafe fn reclaim(owner: Owner) -> usize {
    let mut found = Vec::new();
    for_each(|head| {
        // SAFETY: heads are never unmapped.
        if unsafe { (*head).title.owner() } == owner.0 {
            found.push(head);
        }
    });
    let mut reclaimed = 0;
    for head in found {
        // SAFETY: a head has an object behind it.
        let object = unsafe { NonNull::new_unchecked(head.add(1).cast()) };
        // The caller whose call brought it may be quicker, and have it back (`given_back`).
        if claim(object, owner, Owner::KERNEL) {
            reclaimed += 1;
            // SAFETY: claimed, and this function's contract.
            unsafe { abandon(object) };
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
            visit(unsafe { first.as_ptr().add(index * stride(class)).cast() });
        }
    }
}

/// Pages of all slabs. They stay: an object may come back to its slab at any time.
pub fn slab_pages() -> usize {
    STORE.lock().slabs.iter().map(|slab| (slab.objects * stride(slab.class)).div_ceil(PAGE)).sum()
}

/// The domain whose hierarchy an object is in, if it isn't free. Others may change it meanwhile, and then it is a guess; heads are never unmapped.
fn domain_of(head: *mut Head) -> Option<usize> {
    let mut root = head;
    for _ in 0..MAX_NESTING {
        // SAFETY: heads are never unmapped, and links lead to heads.
        match unsafe { ((*root).title.owner(), NonNull::new((*root).parent())) } {
            (FREE, _) => return None,
            (NESTED, Some(parent)) => root = parent.as_ptr(),
            (NESTED, None) => return None,
            (owner, _) => return Some(Owner(owner).domain()),
        }
    }
    None
}

/// Packet buffers in the batches of each domain. As exact as [`domain_of`].
pub(crate) fn buffers() -> [u32; MAX_DOMAINS] {
    let mut buffers = [0; MAX_DOMAINS];
    for_each(|head| {
        // SAFETY: heads are never unmapped, and have an object behind them; what is of this kind begins as a batch does.
        let count = |batch| unsafe { trusted::count(batch) };
        // SAFETY: as above.
        let is_batch = unsafe { (*head).kind.load(Ordering::Relaxed) } == Batch::KIND;
        if is_batch
            && let Some(domain) = domain_of(head)
            && let Some(batch) = NonNull::new(head.wrapping_add(1).cast())
        {
            buffers[domain % MAX_DOMAINS] += count(batch) as u32;
        }
    });
    buffers
}

/// Objects that a domain's generations own, nested ones included, and packet buffers in its batches; the kernel's are also those whose owner has died while
/// they are lent. For tests and `domains`; exact while nothing moves.
pub fn objects(domain: usize) -> (usize, usize) {
    let mut objects = 0;
    for_each(|head| {
        objects += usize::from(domain_of(head) == Some(domain));
    });
    (objects, buffers()[domain] as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_head_and_object_and_keeps_the_alignment() {
        for size in [1, 16, 63, 64, 65, 100, 776, 1000, 4032, 4096, 60_000, 131_008] {
            for align in [1, 8, 16, 64] {
                let Some(class) = class_of(size, align) else { panic!("no class for {size} aligned to {align}") };
                assert!(HEAD + size <= stride(class), "{size} in class {class}");
                assert!(HEAD.is_multiple_of(align) && stride(class).is_multiple_of(align), "{align} in class {class}");
            }
        }
        assert_eq!(class_of(1 << 20, 8), None);
        assert_eq!(class_of(8, 128), None);
    }
}
