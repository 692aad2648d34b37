//! A packet pool that knows where each of its buffers is, as far as a pool can: in it or not. Giving one back twice fails the test at once.

use std::{
    alloc::{Layout, alloc_zeroed},
    cell::Cell,
    collections::BTreeSet,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use interfaces::{
    abi::KernelTable,
    packet::{Batch, BufferHead, HEADROOM, LARGEST_BUFFER, PacketFlags, trusted},
};

#[repr(C)]
struct Buffer {
    head: BufferHead,
    /// As many as any pool's buffers have; the pool's own size is what counts.
    bytes: [u8; HEADROOM + LARGEST_BUFFER as usize],
    pool: &'static Pool,
}

/// Buffers of one test. Never freed, so that stale pointers are found out instead of followed.
pub struct Pool {
    buffers: NonNull<Buffer>,
    count: usize,
    /// Bytes that each has for a frame.
    pub bytes: u16,
    free: Mutex<Free>,
}

struct Free {
    list: Vec<usize>,
    is_free: Vec<bool>,
    /// Where buffers are granted one by one: those that the device reaches, and how many it may have at once.
    granted: Option<BTreeSet<usize>>,
    room: usize,
}

// SAFETY: the buffers are reached by whoever holds them; the list is under a lock.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

thread_local! {
    /// The pool that `RRef<Batch>::fill` takes from.
    static POOL: Cell<Option<&'static Pool>> = const { Cell::new(None) };
}

impl Pool {
    /// A pool of `count` buffers that have `bytes` for a frame, which from now on is this thread's.
    pub fn new(count: usize, bytes: u16) -> &'static Pool {
        // SAFETY: the size isn't 0.
        let memory = unsafe { alloc_zeroed(Layout::array::<Buffer>(count.max(1)).unwrap()) };
        let buffers = NonNull::new(memory.cast::<Buffer>()).expect("memory for a test's pool");
        let free =
            Free { list: (0..count).rev().collect(), is_free: vec![true; count], granted: None, room: usize::MAX };
        let pool: &'static Pool = Box::leak(Box::new(Pool { buffers, count, bytes, free: Mutex::new(free) }));
        for index in 0..count {
            // SAFETY: inside the allocation, written before anybody reads it.
            unsafe {
                let at = buffers.add(index);
                let bus = at.cast::<BufferHead>().add(1).as_ptr().expose_provenance() as u64;
                at.cast::<BufferHead>().write(BufferHead { bus, index: index as u32 });
                (&raw mut (*at.as_ptr()).pool).write(pool);
            }
        }
        POOL.set(Some(pool));
        pool
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Buffers in the pool.
    pub fn available(&self) -> usize {
        self.free().list.len()
    }

    pub fn take(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        let mut free = self.free();
        let mut taken = 0;
        for place in into {
            assert!(place.is_none(), "a place that is to be filled holds a buffer");
            let Some(index) = free.list.pop() else { break };
            free.is_free[index] = false;
            // SAFETY: `index` is below the count.
            *place = Some(unsafe { self.buffers.add(index) }.cast());
            taken += 1;
        }
        taken
    }

    fn index(&self, head: NonNull<BufferHead>) -> usize {
        // SAFETY: a head is always of a live buffer: they are never freed.
        let (index, pool) = unsafe { (head.as_ref().index as usize, head.cast::<Buffer>().as_ref().pool) };
        assert!(std::ptr::eq(pool, self), "a buffer of another pool");
        index
    }

    /// From now on the device reaches a buffer only while it is granted.
    pub fn grant_one_by_one(&self) {
        self.free().granted = Some(BTreeSet::new());
    }

    /// How many buffers the device may have at once, from now on.
    pub fn set_room(&self, room: usize) {
        self.free().room = room;
    }

    pub fn is_strict(&self) -> bool {
        self.free().granted.is_some()
    }

    /// Buffers that the device reaches by name.
    pub fn granted(&self) -> usize {
        self.free().granted.as_ref().map_or(0, BTreeSet::len)
    }

    pub fn grant(&self, buffers: &[Option<NonNull<BufferHead>>]) -> bool {
        let indexes: Vec<usize> = buffers.iter().flatten().map(|head| self.index(*head)).collect();
        let free = &mut *self.free();
        let granted = free.granted.as_mut().expect("nobody asked for it");
        let fits = granted.len() + indexes.len() <= free.room;
        for index in indexes.iter().filter(|_| fits) {
            assert!(!free.is_free[*index], "buffer {index} is granted out of the pool");
            assert!(granted.insert(*index), "buffer {index} is granted twice");
        }
        fits
    }

    pub fn revoke(&self, buffers: &[Option<NonNull<BufferHead>>]) {
        let indexes: Vec<usize> = buffers.iter().flatten().map(|head| self.index(*head)).collect();
        let free = &mut *self.free();
        let granted = free.granted.as_mut().expect("nobody asked for it");
        granted.retain(|index| !indexes.contains(index));
    }

    pub fn give(&self, head: NonNull<BufferHead>) {
        let index = self.index(head);
        let mut free = self.free();
        assert!(!free.is_free[index], "buffer {index} was given back twice");
        let is_granted = free.granted.as_ref().is_some_and(|granted| granted.contains(&index));
        assert!(!is_granted, "buffer {index} was given back within the device's reach");
        free.is_free[index] = true;
        free.list.push(index);
        drop(free);
        // Whoever still reads it reads this.
        // SAFETY: the buffer is the pool's.
        unsafe { head.add(1).cast::<u8>().write_bytes(0xDB, HEADROOM + usize::from(self.bytes)) };
    }

    /// Whether the bytes lie in one buffer, behind its head, that is not in the pool.
    pub fn device_may_touch(&self, address: u64, length: usize) -> bool {
        let Some(offset) = address.checked_sub(self.buffers.as_ptr().addr() as u64) else { return false };
        let (index, within) = (offset as usize / size_of::<Buffer>(), offset as usize % size_of::<Buffer>());
        let end = size_of::<BufferHead>() + HEADROOM + usize::from(self.bytes);
        let fits = within >= size_of::<BufferHead>() && within + length <= end;
        let free = self.free();
        index < self.count
            && fits
            && !free.is_free[index]
            && free.granted.as_ref().is_none_or(|granted| granted.contains(&index))
    }
}

unsafe extern "C" fn packets_allocate(batch: *mut Batch, count: usize) -> usize {
    // SAFETY: the caller's batch, exclusively.
    let batch = unsafe { &mut *batch };
    let mut heads = [None; Batch::CAPACITY];
    let wanted = count.min(Batch::CAPACITY - batch.len());
    let pool = POOL.get().expect("this thread has a pool");
    let taken = pool.take(&mut heads[..wanted]);
    for head in heads.into_iter().flatten() {
        // SAFETY: the buffer is ours to give, and the batch has a place for it.
        unsafe { trusted::push(batch, head, pool.bytes, 0, PacketFlags::empty(), 0) };
    }
    taken
}

unsafe extern "C" fn packets_release(batch: *mut Batch, mask: u32) {
    // SAFETY: the caller's batch, exclusively; every buffer in it is a bench pool's.
    unsafe {
        trusted::take(&mut *batch, mask, |head, _, _, _| {
            head.cast::<Buffer>().as_ref().pool.give(head);
            true
        });
    }
}

/// Connects this process to the host's table, with packets of this pool.
pub fn connect() {
    static TABLE: KernelTable = KernelTable { packets_allocate, packets_release, ..interfaces::host::table() };
    // SAFETY: the table is a static, and its functions keep to `KernelTable`'s documentation.
    unsafe { interfaces::abi::connect(&TABLE) }
}
