//! A kernel table made of the host's allocator and standard library, so that domains are unit-tested like any crate.
//!
//! What it promises: [`connect`] may be called by every test, any number of times. Each thread belongs to an *account* (a test's thread has one of its own,
//! threads that a domain spawns share that of their spawner), so that counts, limits and clocks of tests that run side by side don't mix. Objects and
//! buffers stay on the account of whoever allocated them, wherever they are dropped: a test that ends with [`live_objects`] and [`buffers_out`] at 0
//! has leaked nothing.
//!
//! It is no isolation: a crash here ends the process. Isolation is tested in the rig.

pub mod sockets;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
};
use core::{
    alloc::Layout,
    cell::RefCell,
    mem::MaybeUninit,
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};
use std::{
    alloc::{alloc_zeroed, dealloc},
    collections::HashMap,
    eprintln,
    hash::{BuildHasher, RandomState},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    thread_local,
    time::Instant,
};

use crate::{
    CallError,
    abi::{KernelTable, Reason, kernel},
    block::{self, LARGEST_BUFFER, Order, Requests, Status},
    object::{self, ObjectHead},
    packet::{self, Batch, BufferHead, HEADROOM, PacketFlags, USUAL_BUFFER, buffer_for, trusted},
};

/// What is counted and limited for one test.
struct Account {
    objects: AtomicUsize,
    object_limit: AtomicUsize,
    buffers: AtomicUsize,
    buffer_limit: AtomicUsize,
    /// Bytes that a packet buffer has for a frame.
    packet_bytes: AtomicU16,
    /// Nanoseconds that this account's clock is ahead of the host's.
    ahead: AtomicU64,
    /// Seconds since 1970 when the clock was 0; 0 if the box knows no date.
    boot_date: AtomicU64,
}

impl Default for Account {
    fn default() -> Self {
        Account {
            objects: AtomicUsize::new(0),
            object_limit: AtomicUsize::new(usize::MAX),
            buffers: AtomicUsize::new(0),
            buffer_limit: AtomicUsize::new(usize::MAX),
            packet_bytes: AtomicU16::new(USUAL_BUFFER),
            ahead: AtomicU64::new(0),
            boot_date: AtomicU64::new(0),
        }
    }
}

thread_local! {
    static ACCOUNT: RefCell<Arc<Account>> = RefCell::default();
}

fn account() -> Arc<Account> {
    ACCOUNT.with_borrow(Arc::clone)
}

/// Takes one from a limited stock; false if there is none left.
fn take_one(taken: &AtomicUsize, limit: &AtomicUsize) -> bool {
    let limit = limit.load(SeqCst);
    taken.fetch_update(SeqCst, SeqCst, |taken| (taken < limit).then_some(taken + 1)).is_ok()
}

/// The host's table. Tests that bring a packet pool of their own (one that a device model can reach) put their `packets_` functions in place.
pub const fn table() -> KernelTable {
    KernelTable {
        log,
        crash,
        now,
        date,
        random,
        heap_grow,
        exchange_allocate,
        exchange_free,
        exchange_put,
        exchange_take,
        packets_allocate,
        packets_transfer,
        packets_release,
        blocks_add,
        blocks_transfer,
        blocks_share,
        blocks_release,
        thread_spawn,
        thread_yield,
        thread_sleep,
        wait,
        wake,
        cap_release,
        alive,
        want_back,
        given_back,
    }
}

/// Connects this process to the host's table.
pub fn connect() {
    static TABLE: KernelTable = table();
    // SAFETY: the table is a static, and its functions keep to `KernelTable`'s documentation.
    unsafe { crate::abi::connect(&TABLE) }
}

thread_local! {
    static GIVEN_BACK: RefCell<Option<(u32, NonNull<u8>)>> = const { RefCell::new(None) };
}

/// For a callee of a test that plays a crash: what was moved to it goes back to the caller, which finds it by `RRef::given_back`.
pub fn give_back<T: crate::Exchangeable>(object: crate::RRef<T>) {
    GIVEN_BACK.set(Some((T::KIND, object.into_raw().cast())));
}

extern "C" fn want_back() {}

extern "C" fn given_back(kind: u32) -> *mut u8 {
    GIVEN_BACK.take().filter(|(of, _)| *of == kind).map_or(null_mut(), |(_, object)| object.as_ptr())
}

/// Objects on the exchange heap that this thread's account has allocated and nobody has freed.
pub fn live_objects() -> usize {
    account().objects.load(SeqCst)
}

/// Packet buffers that this thread's account has taken from the pool and nobody has given back.
pub fn buffers_out() -> usize {
    account().buffers.load(SeqCst)
}

/// From now on this account's box knows the date: it is this, in seconds since 1970.
pub fn set_date(date: u64) {
    account().boot_date.store(date - now() / 1_000_000_000, SeqCst);
}

/// From now on this account has an exchange quota of `objects`.
pub fn limit_objects(objects: usize) {
    account().object_limit.store(objects, SeqCst);
}

/// From now on the pool has `buffers` buffers for this account.
pub fn limit_buffers(buffers: usize) {
    account().buffer_limit.store(buffers, SeqCst);
}

/// From now on packet buffers of this account hold frames of so many bytes, as those of a box do whose cards take such.
pub fn set_longest_frame(bytes: u16) {
    account().packet_bytes.store(buffer_for(bytes), SeqCst);
}

/// Puts this account's clock forward, for tests of what happens after a long time.
pub fn advance_clock(by: Duration) {
    account().ahead.fetch_add(by.as_nanos() as u64, SeqCst);
}

/// In front of each object: what is this table's own, then what every exchange heap has there.
#[repr(C)]
struct Head {
    account: Arc<Account>,
    layout: Layout,
    object: ObjectHead,
}

const _: () = assert!(core::mem::offset_of!(Head, object) + size_of::<ObjectHead>() == size_of::<Head>());

/// The owner of every root; nested objects have none.
const OWNED: u32 = 1;
const NESTED: u32 = 0;

/// The memory block of an object, head included, and the object's place in it.
fn block(size: usize, align: usize) -> Option<(Layout, usize)> {
    let align = align.max(align_of::<Head>());
    let (layout, place) = Layout::new::<Head>().extend(Layout::from_size_align(size, align).ok()?).ok()?;
    Some((layout.pad_to_align(), place))
}

/// Where objects are, and their sizes. (Also the lock under which hierarchies change.)
fn extents() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    static EXTENTS: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());
    EXTENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn head_of(object: *mut u8) -> *mut ObjectHead {
    object.cast::<ObjectHead>().wrapping_sub(1)
}

extern "C" fn exchange_allocate(kind: u32, size: usize, align: usize) -> *mut u8 {
    let account = account();
    let Some((layout, place)) = block(size, align) else { return null_mut() };
    if !take_one(&account.objects, &account.object_limit) {
        return null_mut();
    }
    // SAFETY: the layout has the head's size at least. The head lies directly before the object: `place` is a multiple of the head's alignment.
    unsafe {
        let Some(memory) = NonNull::new(alloc_zeroed(layout)) else { return null_mut() };
        let object = memory.as_ptr().add(place);
        object.expose_provenance();
        object.cast::<Head>().sub(1).write(Head { account, layout, object: ObjectHead::new(OWNED, 0) });
        (*head_of(object)).begin(kind, size as u32);
        extents().insert(object.addr(), size);
        object
    }
}

unsafe extern "C" fn exchange_free(object: *mut u8) {
    let free = |head: *mut ObjectHead| {
        let object = head.wrapping_add(1).cast::<u8>();
        // SAFETY: the caller owns the hierarchy, and each object in it came from `exchange_allocate`: its head is directly before it, its block starts
        // `place` before it.
        unsafe {
            match (*head).kind.load(SeqCst) {
                Batch::KIND => (kernel().packets_release)(object.cast(), u32::MAX),
                Requests::KIND => (kernel().blocks_release)(object.cast(), u32::MAX),
                _ => {}
            }
            extents().remove(&object.addr());
            let head = object.cast::<Head>().sub(1).read();
            let place = block(0, head.layout.align()).expect("it was computed when the object was made").1;
            dealloc(object.sub(place), head.layout);
            head.account.objects.fetch_sub(1, SeqCst);
        }
    };
    // SAFETY: the caller owns `object`, a root. Nothing is lent here: whoever borrows keeps the `RRef`.
    unsafe { object::dismantle(head_of(object), |_| false, free) }
}

unsafe extern "C" fn exchange_put(place: *mut u8, object: *mut u8) -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let extents = extents();
    let found = extents.range(..=place.addr()).next_back().filter(|(start, size)| place.addr() < *start + *size);
    let Some((start, _)) = found else { return 0 };
    let (parent, child) = (head_of(core::ptr::with_exposed_provenance_mut(*start)), head_of(object));
    // SAFETY: both are live, as `KernelTable::exchange_put` says; hierarchies are changed under the lock.
    unsafe {
        if object::root(parent) == child {
            return 0;
        }
        let ticket = LAST.fetch_add(1, SeqCst) + 1;
        object::nest(parent, child, place.addr(), ticket);
        (*child).title.give_to(NESTED);
        ticket
    }
}

unsafe extern "C" fn exchange_take(object: *mut u8) {
    let _changing = extents();
    // SAFETY: nested in an object of the caller's, as `KernelTable::exchange_take` says.
    unsafe {
        object::unnest(head_of(object));
        (*head_of(object)).title.give_to(OWNED);
    }
}

/// A packet buffer with the account that it came from. However many of its bytes are in use, it has room for the longest frame of all.
#[repr(C)]
struct Buffer {
    head: BufferHead,
    bytes: [MaybeUninit<u8>; HEADROOM + packet::LARGEST_BUFFER as usize],
    account: Arc<Account>,
}

impl Buffer {
    /// What a real pool hands out has somebody's old bytes in it: nobody may rely on zeroes.
    fn new(account: &Arc<Account>, bytes: u16) -> Box<Buffer> {
        let head = BufferHead { bus: 0, index: 0 };
        let mut buffer = Box::new(Buffer { head, bytes: [MaybeUninit::uninit(); _], account: account.clone() });
        buffer.bytes[..HEADROOM + usize::from(bytes)].fill(MaybeUninit::new(0xa5));
        buffer
    }
}

unsafe extern "C" fn packets_allocate(batch: *mut Batch, count: usize) -> usize {
    // SAFETY: the caller's batch, exclusively.
    let batch = unsafe { &mut *batch };
    let account = account();
    let bytes = account.packet_bytes.load(SeqCst);
    let mut added = 0;
    while added < count && batch.len() < Batch::CAPACITY && take_one(&account.buffers, &account.buffer_limit) {
        let head = NonNull::from(Box::leak(Buffer::new(&account, bytes))).cast();
        // SAFETY: the buffer is ours to give, has that many bytes, all written, and the batch has a place for it.
        unsafe { trusted::push(batch, head, bytes, 0, PacketFlags::empty(), 0) };
        added += 1;
    }
    added
}

unsafe extern "C" fn packets_transfer(from: *mut Batch, mask: u32, to: *mut Batch) -> usize {
    // SAFETY: two batches of the caller, exclusively.
    let (from, to) = unsafe { (&mut *from, &mut *to) };
    // SAFETY: this table is the kernel here.
    unsafe { trusted::transfer(from, mask, to) }
}

unsafe extern "C" fn packets_release(batch: *mut Batch, mask: u32) {
    // SAFETY: the caller's batch, exclusively; every buffer in it came from `packets_allocate`.
    unsafe {
        trusted::take(&mut *batch, mask, |head, _, _, _| {
            let buffer = Box::from_raw(head.cast::<Buffer>().as_ptr());
            buffer.account.buffers.fetch_sub(1, SeqCst);
            true
        });
    }
}

/// A block buffer with the account that it came from: its bytes are where a device would find them.
#[repr(C)]
struct BlockBuffer {
    head: block::BufferHead,
    layout: Layout,
    account: Arc<Account>,
}

unsafe extern "C" fn blocks_add(batch: *mut Requests, order: *const Order, bytes: usize) -> bool {
    // SAFETY: the caller's batch, exclusively, and its order.
    let (batch, order) = unsafe { (&mut *batch, *order) };
    let account = account();
    if batch.len() == Requests::CAPACITY || bytes > LARGEST_BUFFER {
        return false;
    }
    let mut buffer = None;
    if bytes > 0 {
        let Ok(layout) = Layout::from_size_align(bytes.next_multiple_of(4096), 4096) else { return false };
        if !take_one(&account.buffers, &account.buffer_limit) {
            return false;
        }
        // SAFETY: the layout's size isn't 0.
        let Some(address) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return false };
        // What a real pool hands out has somebody's old bytes in it: nobody may rely on zeroes.
        // SAFETY: just allocated, of this size.
        unsafe { address.write_bytes(0xa5, layout.size()) };
        let head = block::BufferHead {
            address,
            bus: address.addr().get() as u64,
            bytes: layout.size() as u32,
            holds: AtomicU32::new(1),
        };
        buffer = Some(NonNull::from(Box::leak(Box::new(BlockBuffer { head, layout, account }))).cast());
    }
    // SAFETY: the hold is ours to give, and the batch has a place for it.
    unsafe { block::trusted::push(batch, block::trusted::Parts { buffer, order, status: Status::Open }) }
}

unsafe extern "C" fn blocks_transfer(from: *mut Requests, mask: u32, to: *mut Requests) -> usize {
    // SAFETY: two batches of the caller, exclusively; `push` takes a hold over exactly when it returns true.
    unsafe { block::trusted::take(&mut *from, mask, |parts| block::trusted::push(&mut *to, parts)) }
}

unsafe extern "C" fn blocks_share(from: *const Requests, mask: u32, to: *mut Requests) -> usize {
    // SAFETY: two batches of the caller.
    let (from, to) = unsafe { (&*from, &mut *to) };
    let wanted = block::trusted::parts(from).enumerate().filter(|(at, _)| mask & (1 << at) != 0);
    let mut shared = 0;
    for (_, parts) in wanted.take(Requests::CAPACITY - to.len()) {
        if let Some(head) = parts.buffer {
            // SAFETY: the batch's hold keeps the head.
            unsafe { head.as_ref() }.holds.fetch_add(1, SeqCst);
        }
        // SAFETY: the hold was just made, and there is a place for it.
        unsafe { block::trusted::push(to, parts) };
        shared += 1;
    }
    shared
}

unsafe extern "C" fn blocks_release(batch: *mut Requests, mask: u32) {
    // SAFETY: the caller's batch, exclusively; its holds are its own.
    unsafe {
        block::trusted::take(&mut *batch, mask, |parts| {
            if let Some(head) = parts.buffer {
                release_block_buffer(head);
            }
            true
        });
    }
}

/// Lets go of a block buffer's hold; for tests of device crates, which take requests out of their batches.
///
/// # Safety
/// The hold is the caller's, of a buffer of this table.
pub unsafe fn release_block_buffer(head: NonNull<block::BufferHead>) {
    // SAFETY: the hold keeps the head; the last one to go frees what `blocks_add` made.
    unsafe {
        if head.as_ref().holds.fetch_sub(1, SeqCst) == 1 {
            let buffer = Box::from_raw(head.cast::<BlockBuffer>().as_ptr());
            dealloc(buffer.head.address.as_ptr(), buffer.layout);
            buffer.account.buffers.fetch_sub(1, SeqCst);
        }
    }
}

unsafe fn text<'a>(bytes: *const u8, len: usize) -> alloc::borrow::Cow<'a, str> {
    // SAFETY: the caller's promise: `len` bytes at `bytes`, for the time of the call.
    String::from_utf8_lossy(unsafe { core::slice::from_raw_parts(bytes, len) })
}

unsafe extern "C" fn log(level: u32, words: *const u8, len: usize) {
    const NAMES: [&str; 6] = ["", "error", "warn", "info", "debug", "trace"];
    // SAFETY: as `KernelTable::log` says.
    let words = unsafe { text(words, len) };
    eprintln!("{:5} {words}", NAMES.get(level as usize).unwrap_or(&"?"));
}

unsafe extern "C" fn crash(reason: u32, words: *const u8, len: usize) -> ! {
    let reason = Reason::ALL.into_iter().find(|known| *known as u32 == reason).map_or("unknown reason", Reason::name);
    // SAFETY: as `KernelTable::crash` says.
    eprintln!("the domain under test crashed ({reason}): {}", unsafe { text(words, len) });
    std::process::abort()
}

extern "C" fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64 + account().ahead.load(SeqCst)
}

extern "C" fn date() -> u64 {
    match account().boot_date.load(SeqCst) {
        0 => 0,
        boot => boot + now() / 1_000_000_000,
    }
}

extern "C" fn random() -> u64 {
    RandomState::new().hash_one(now())
}

extern "C" fn heap_grow(pages: usize) -> *mut u8 {
    match Layout::from_size_align(pages.saturating_mul(4096), 4096) {
        // SAFETY: the layout's size isn't 0.
        Ok(layout) if pages > 0 => unsafe { alloc_zeroed(layout) },
        _ => null_mut(),
    }
}

unsafe extern "C" fn thread_spawn(
    name: *const u8,
    len: usize,
    _cpu: u32,
    _stack: usize,
    entry: extern "C" fn(*mut u8),
    argument: *mut u8,
) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // SAFETY: as `KernelTable::thread_spawn` says.
    let name = unsafe { text(name, len) }.into_owned();
    let (account, argument) = (account(), argument.expose_provenance());
    let spawned = thread::Builder::new().name(name).spawn(move || {
        ACCOUNT.set(account);
        entry(core::ptr::with_exposed_provenance_mut(argument));
    });
    if spawned.is_ok() { LAST.fetch_add(1, SeqCst) + 1 } else { 0 }
}

extern "C" fn thread_yield() {
    thread::yield_now();
}

extern "C" fn thread_sleep(deadline: u64) -> u32 {
    thread::sleep(Duration::from_nanos(deadline.saturating_sub(now())));
    0
}

/// A thread in `wait`.
struct Waiter {
    thread: Thread,
    woken: AtomicBool,
}

/// Who waits, by the address of the word.
fn waiters() -> MutexGuard<'static, HashMap<usize, VecDeque<Arc<Waiter>>>> {
    static WAITERS: LazyLock<Mutex<HashMap<usize, VecDeque<Arc<Waiter>>>>> = LazyLock::new(Mutex::default);
    WAITERS.lock().unwrap_or_else(PoisonError::into_inner)
}

const WOKEN: u32 = 0;
const TIMED_OUT: u32 = 1;

unsafe extern "C" fn wait(word: *const AtomicU32, expected: u32, deadline: u64) -> u32 {
    debug_assert!(CallError::Cancelled as u32 > TIMED_OUT);
    let waiter = Arc::new(Waiter { thread: thread::current(), woken: AtomicBool::new(false) });
    {
        // Compared under the lock that `wake` takes, so that no wake-up falls between comparing and waiting.
        let mut waiters = waiters();
        // SAFETY: as `KernelTable::wait` says.
        if unsafe { &*word }.load(SeqCst) != expected {
            return WOKEN;
        }
        waiters.entry(word.addr()).or_default().push_back(waiter.clone());
    }
    while !waiter.woken.load(SeqCst) {
        let left = deadline.saturating_sub(now());
        if left == 0 {
            let mut waiters = waiters();
            if let Some(queue) = waiters.get_mut(&word.addr()) {
                queue.retain(|other| !Arc::ptr_eq(other, &waiter));
            }
            return if waiter.woken.load(SeqCst) { WOKEN } else { TIMED_OUT };
        }
        thread::park_timeout(Duration::from_nanos(left));
    }
    WOKEN
}

unsafe extern "C" fn wake(word: *const AtomicU32, count: u32) {
    let mut waiters = waiters();
    let Some(queue) = waiters.get_mut(&word.addr()) else { return };
    let count = queue.len().min(count as usize);
    for waiter in queue.drain(..count) {
        waiter.woken.store(true, SeqCst);
        waiter.thread.unpark();
    }
    if queue.is_empty() {
        waiters.remove(&word.addr());
    }
}

unsafe extern "C" fn cap_release(_proxy: *mut u8) {
    // A capability here is always its maker's own box: nobody puts proxies in their place.
    eprintln!("a capability was made by `Cap::from_proxy` on the host, where there are no proxies");
    std::process::abort()
}

extern "C" fn alive() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RRef, control::Text};

    #[test]
    fn objects_are_counted_freed_and_limited() {
        connect();
        let text = RRef::new(Text::<54>::new("first")).unwrap();
        limit_objects(2);
        let batch = Batch::allocate().unwrap();
        assert_eq!(live_objects(), 2);
        assert!(Batch::allocate().is_err(), "a third object went beyond the limit of two");
        drop(batch);
        assert_eq!(text.as_str(), "first");
        drop(text);
        assert_eq!(live_objects(), 0);
    }

    #[test]
    fn alignment_is_kept_and_freed_blocks_are_the_allocated_ones() {
        for (size, align) in [(0, 1), (1, 1), (24, 8), (100, 16), (1000, 64), (5000, 4096)] {
            let object = exchange_allocate(0x100, size, align);
            assert_eq!(object.addr() % align, 0, "{size} bytes aligned to {align}");
            // SAFETY: just allocated.
            unsafe { exchange_free(object) };
        }
        assert_eq!(live_objects(), 0);
    }

    #[test]
    fn a_batch_dropped_with_packets_gives_the_buffers_back() {
        connect();
        let mut batch = Batch::allocate().unwrap();
        assert_eq!(batch.fill(40), Batch::CAPACITY);
        assert_eq!(buffers_out(), Batch::CAPACITY);
        batch.discard(0b111);
        assert_eq!((batch.len(), buffers_out()), (29, 29));
        drop(batch);
        assert_eq!((live_objects(), buffers_out()), (0, 0));
    }

    /// A packet is as long as its own buffer, whatever other boxes' are, and whatever batch it has come to.
    #[test]
    fn a_packet_ends_with_its_buffer() {
        connect();
        for (frame, bytes) in [(60, usize::from(USUAL_BUFFER)), (9_018, 9 << 10), (packet::LARGEST_BUFFER, 16 << 10)] {
            set_longest_frame(frame);
            let (mut from, mut to) = (Batch::allocate().unwrap(), Batch::allocate().unwrap());
            from.fill(1);
            from.transfer(1, &mut to);
            let mut packets = to.packets_mut();
            let mut one = packets.get(0).unwrap();
            assert_eq!(one.set_len(usize::MAX), bytes);
            assert!(one.move_start(-(HEADROOM as i16)) && !one.move_start(-1));
            assert_eq!(one.data_mut().len(), HEADROOM + bytes);
            one.data_mut().fill(1);
            assert!(one.move_start(100));
            assert_eq!(one.set_len(usize::MAX), HEADROOM + bytes - 100);
            assert!(!one.move_start(i16::MAX) && one.data()[HEADROOM + bytes - 101] == 1);
        }
    }

    /// Nor is a packet longer than that because a device has said so.
    #[test]
    fn a_length_is_cut_at_the_buffers_end() {
        connect();
        let mut batch = Batch::allocate().unwrap();
        batch.fill(1);
        // SAFETY: this table is the kernel here, and the buffer goes back to where it was.
        unsafe {
            let batch = trusted::batch(&mut batch);
            let mut buffer = None;
            trusted::take(batch, 1, |head, _, _, _| buffer.replace(head).is_none());
            trusted::push(batch, buffer.unwrap(), USUAL_BUFFER, u16::MAX, PacketFlags::empty(), 0);
        }
        assert_eq!(batch.packets()[0].data().len(), usize::from(USUAL_BUFFER));
    }

    #[test]
    fn a_transferred_packet_keeps_bytes_and_start() {
        connect();
        let (mut from, mut to) = (Batch::allocate().unwrap(), Batch::allocate().unwrap());
        from.fill(2);
        let mut packets = from.packets_mut();
        let mut packet = packets.get(1).unwrap();
        packet.set_len(10);
        packet.data_mut().copy_from_slice(b"0123456789");
        assert!(packet.move_start(4));
        assert_eq!(from.transfer(0b10, &mut to), 1);
        assert_eq!(to.packets()[0].data(), b"456789");
        assert_eq!((from.len(), to.len()), (1, 1));
    }

    /// Protects "nobody sees bytes change under a reader", and that a buffer is given back with its last hold.
    #[test]
    fn a_shared_block_buffer_is_read_only_and_freed_once() {
        connect();
        let (mut batch, mut kept) = (Requests::allocate().unwrap(), Requests::allocate().unwrap());
        let mut request = batch.add(Order { id: 7, blocks: 1, ..Order::default() }, 512).unwrap();
        request.data_mut().unwrap()[..4].copy_from_slice(b"data");
        assert_eq!(batch.share(1, &mut kept), 1);
        assert!(batch.request_mut(0).unwrap().data_mut().is_none());
        assert!(kept.request_mut(0).unwrap().data_mut().is_none());
        drop(batch);
        assert_eq!((kept.requests()[0].order().id, &kept.requests()[0].data()[..4]), (7, &b"data"[..]));
        assert!(kept.request_mut(0).unwrap().data_mut().is_some());
        assert_eq!(buffers_out(), 1);
        drop(kept);
        assert_eq!((live_objects(), buffers_out()), (0, 0));
    }

    #[test]
    fn requests_move_in_order_and_close_up() {
        connect();
        let (mut from, mut to) = (Requests::allocate().unwrap(), Requests::allocate().unwrap());
        for id in 0..5 {
            from.add(Order { id, ..Order::default() }, 4096).unwrap();
        }
        assert_eq!(from.transfer(0b10101, &mut to), 3);
        let ids = |batch: &Requests| {
            batch.requests().iter().map(|request| request.order().id).collect::<alloc::vec::Vec<_>>()
        };
        assert_eq!((ids(&from), ids(&to)), (alloc::vec![1, 3], alloc::vec![0, 2, 4]));
        from.clear();
        assert_eq!(buffers_out(), 3);
        assert!(matches!(from.add(Order::default(), LARGEST_BUFFER + 1), Err(block::AddError::NoBuffer)));
    }

    #[test]
    fn a_short_pool_fills_a_batch_partly() {
        connect();
        limit_buffers(5);
        let mut batch = Batch::allocate().unwrap();
        assert_eq!(batch.fill(32), 5);
        batch.clear();
        assert_eq!(batch.fill(3), 3);
    }

    #[test]
    fn waiting_ends_by_wake_by_a_changed_word_and_by_time() {
        connect();
        static WORD: AtomicU32 = AtomicU32::new(0);
        extern "C" fn wakes(_: *mut u8) {
            thread::sleep(Duration::from_millis(20));
            WORD.store(1, SeqCst);
            // SAFETY: a static.
            unsafe { (kernel().wake)(&WORD, 1) }
        }
        // SAFETY: statics; the entry ignores its argument.
        unsafe {
            assert_ne!((kernel().thread_spawn)(b"w".as_ptr(), 1, 0, 0, wakes, null_mut()), 0);
            assert_eq!((kernel().wait)(&WORD, 0, u64::MAX), WOKEN);
            assert_eq!((kernel().wait)(&WORD, 0, u64::MAX), WOKEN, "the word is 1 by now");
            assert_eq!((kernel().wait)(&WORD, 1, now() + 1_000_000), TIMED_OUT);
        }
        assert!(waiters().get(&(&raw const WORD).addr()).is_none_or(VecDeque::is_empty));
    }

    #[test]
    fn the_clock_can_be_put_forward() {
        let before = now();
        advance_clock(Duration::from_secs(3600));
        assert!(now() - before >= 3_600_000_000_000);
    }
}
