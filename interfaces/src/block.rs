//! Block devices: what a driver of disks exports, and what shadows and stores import.
//!
//! [`Requests`] is one object on the exchange heap: up to 32 requests that travel together, to be carried out or carried out already. The bytes are in
//! buffers of the kernel's block pool, which devices reach: nothing is copied between a client and the medium.
//!
//! Invariant: a buffer's *holds* (requests that name it) are in batches or in a device's queues, and only the kernel's image makes, moves and drops
//! them. A device writes only to a buffer with one hold, its own; a domain too. So a shadow may keep a hold of what is being written, to write it once more
//! should the driver die with it, and nobody ever sees bytes change under a reader.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    CallError, Cap, Exchangeable, RRef,
    abi::kernel,
    interface,
    rref::{ExchangeFull, Returnable},
};

/// The largest buffer, and so the largest transfer.
pub const LARGEST_BUFFER: usize = 256 * 1024;

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Exchangeable)]
pub enum Operation {
    /// Blocks into the buffer.
    #[default]
    Read,
    /// The buffer to blocks. Without `force_unit_access` it may stay in the device's volatile cache until a flush.
    Write,
    /// What has been completed before is on the medium when this completes.
    Flush,
    /// The blocks read as zeroes from now on.
    WriteZeroes,
    /// The blocks' contents aren't needed any more; what they read as is the device's choice.
    Deallocate,
}

/// One request, but for its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Exchangeable)]
pub struct Order {
    /// The client's own; comes back with the completion.
    pub id: u64,
    pub operation: Operation,
    /// Which of the device's namespaces, from 0.
    pub namespace: u16,
    /// The first block.
    pub block: u64,
    /// How many blocks; a flush has none.
    pub blocks: u32,
    /// Where the data begin in the buffer: a multiple of 4.
    pub offset: u32,
    /// A write is on the medium when it completes.
    pub force_unit_access: bool,
}

/// How a request came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Exchangeable)]
pub enum Status {
    /// It hasn't been carried out yet.
    #[default]
    Open,
    Done,
    /// The medium can't read or write these blocks.
    Medium,
    /// What was asked for can't be: beyond the end, too long, misaligned, no buffer or too small a one, one that others hold too (to be read into), no
    /// such namespace. Nothing has been done.
    Refused,
    /// The device was reset, or gave the request up, when it was in flight: it has been carried out or not, block by block. Ask again.
    Lost,
    /// The device's own words (NVMe 2.0 §3.3.3.2.1: status code type and code).
    Device(u16),
}

/// What a client wants to know of a disk, or of one namespace of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub struct BlockInfo {
    pub namespaces: u16,
    /// Bytes of a block: a power of two, 512 or 4,096 on most.
    pub block_size: u32,
    /// Blocks of this namespace.
    pub blocks: u64,
    /// Blocks that one request may have.
    pub max_blocks: u32,
    /// Queues; queue `i` is served on the `i`-th CPU of the driver.
    pub queues: u16,
    /// Requests that one queue has in flight at most.
    pub depth: u16,
    /// What has been written is safe only after a flush.
    pub volatile_cache: bool,
    pub write_zeroes: bool,
    pub deallocate: bool,
}

/// Why a disk did not do what was asked. (What became of a single request is in its [`Status`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum BlockError {
    /// The call itself failed. After `Crashed` open the queue anew, with [`Opening::Resume`].
    Call(CallError),
    /// No queue of that number.
    NoSuchQueue,
    NoSuchNamespace,
    /// The queue has been opened by somebody else and not released.
    QueueBusy,
    /// The device does not answer as it should; the driver is resetting it.
    Device,
}

impl From<CallError> for BlockError {
    fn from(error: CallError) -> Self {
        BlockError::Call(error)
    }
}

/// What a client knows of requests that are in flight in the queue which it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Opening {
    /// Nothing: they are an earlier client's. The queue is open when all of them have ended, and nobody hears of them.
    Fresh,
    /// They are its own, since only the driver has crashed: they complete here.
    Resume,
}

/// Requests that are in flight.
#[derive(Clone, Copy, Exchangeable)]
pub struct InFlight {
    len: u32,
    ids: [u64; InFlight::CAPACITY],
}

impl InFlight {
    /// The most requests that a queue has.
    pub const CAPACITY: usize = 1024;

    pub fn push(&mut self, id: u64) -> bool {
        let at = self.len as usize;
        let fits = at < Self::CAPACITY;
        if fits {
            self.ids[at] = id;
            self.len += 1;
        }
        fits
    }

    pub fn ids(&self) -> &[u64] {
        &self.ids[..(self.len as usize).min(Self::CAPACITY)]
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for InFlight {
    fn default() -> Self {
        InFlight { len: 0, ids: [0; Self::CAPACITY] }
    }
}

/// A disk, or something that looks like one.
#[interface]
pub trait Block {
    /// What namespace `namespace` is.
    fn info(&self, namespace: u16) -> Result<BlockInfo, BlockError>;

    /// Opens queue `index` (0-based, below `BlockInfo::queues`) for use by one thread.
    fn open_queue(&self, index: u16, opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError>;
}

/// One queue of a disk, for all its namespaces: used by one thread, so it needs no lock. Requests are carried out in any order.
#[interface]
pub trait BlockQueue {
    /// Takes the requests of `batch`, and gives the batch back with those for which there was no place, in order.
    fn submit(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError>;

    /// Puts requests that have come to an end at the end of `batch`, with buffers and status.
    fn poll(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError>;

    /// Blocks until a request may have come to an end or `deadline` (nanoseconds of `runtime::time`) is past. Returns at once if one is there.
    fn wait(&mut self, deadline: u64) -> Result<(), BlockError>;

    /// The ids of all requests that were taken and have not come out of `poll` yet, those of before a crash included.
    fn in_flight(&mut self, list: RRef<InFlight>) -> Result<RRef<InFlight>, BlockError>;
}

/// The trusted head of a block buffer. Written by the pool, never by a domain.
#[repr(C)]
pub struct BufferHead {
    pub address: NonNull<u8>,
    /// Where a device finds the first byte: a multiple of 4,096; the others follow.
    pub bus: u64,
    pub bytes: u32,
    /// Requests that name this buffer.
    pub holds: AtomicU32,
}

/// One request of a batch.
#[repr(C)]
pub struct Request {
    buffer: Option<NonNull<BufferHead>>,
    order: Order,
    status: Status,
}

impl Request {
    pub fn order(&self) -> Order {
        self.order
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// The whole buffer; empty if the request has none.
    pub fn data(&self) -> &[u8] {
        let Some(buffer) = self.buffer else { return &[] };
        // SAFETY: the request's hold keeps the buffer, and while it has others too nobody writes to it (SOUNDNESS: block buffers).
        unsafe { core::slice::from_raw_parts(buffer.as_ref().address.as_ptr(), buffer.as_ref().bytes as usize) }
    }
}

/// Up to `CAPACITY` requests that travel together.
#[repr(C)]
pub struct Requests {
    count: u32,
    requests: [Request; Requests::CAPACITY],
}

// SAFETY: a batch has its holds of buffers (see the invariant above); the pointers in it are reached only through it. It has no drop glue: the kernel
// knows its kind and lets go of the buffers.
unsafe impl Send for Requests {}
// SAFETY: `&Requests` gives only `&[Request]`, and `&Request` only reads.
unsafe impl Sync for Requests {}
// SAFETY: the addresses in it are of the kernel's pool, which outlives every domain and means the same in every image.
#[diagnostic::do_not_recommend]
unsafe impl crate::Exchangeable for Requests {
    const KIND: u32 = Requests::KIND;
}
// SAFETY: the kind is its own; only the kernel changes a batch, and no call of the kernel is left half done.
unsafe impl Returnable for Requests {}

/// Why a request wasn't added to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The batch has [`Requests::CAPACITY`] already.
    Full,
    /// The pool is exhausted, or has no buffers that large.
    NoBuffer,
}

impl core::fmt::Display for AddError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            AddError::Full => "the batch is full",
            AddError::NoBuffer => "no buffer of that size is free",
        })
    }
}

impl Requests {
    pub const CAPACITY: usize = 32;
    pub const KIND: u32 = 0x30;

    /// An empty batch.
    pub fn allocate() -> Result<RRef<Requests>, ExchangeFull> {
        RRef::new(Requests {
            count: 0,
            requests: [const { Request { buffer: None, order: trusted::NOTHING, status: Status::Open } };
                Self::CAPACITY],
        })
    }

    pub fn len(&self) -> usize {
        (self.count as usize).min(Self::CAPACITY)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn requests(&self) -> &[Request] {
        &self.requests[..self.len()]
    }
}

/// Changing a batch goes through its `RRef`: nobody gets a `&mut Requests`.
impl RRef<Requests> {
    /// Adds a request with a buffer of at least `bytes` (none for 0; at most [`LARGEST_BUFFER`]), whose contents are anything.
    pub fn add(&mut self, order: Order, bytes: usize) -> Result<RequestMut<'_>, AddError> {
        let at = self.len();
        if at == Requests::CAPACITY {
            return Err(AddError::Full);
        }
        // SAFETY: `self` is a batch of this domain.
        if !unsafe { (kernel().blocks_add)(self.object_mut(), &order, bytes) } {
            return Err(AddError::NoBuffer);
        }
        Ok(RequestMut(&mut self.object_mut().requests[at]))
    }

    pub fn request_mut(&mut self, index: usize) -> Option<RequestMut<'_>> {
        let batch = self.object_mut();
        let len = batch.len();
        batch.requests[..len].get_mut(index).map(RequestMut)
    }

    /// Moves the requests whose bit is set in `mask` (bit i = request i) to the end of `to`, as far as it has place; the others close up in order.
    /// Returns how many moved.
    pub fn transfer(&mut self, mask: u32, to: &mut RRef<Requests>) -> usize {
        // SAFETY: both are batches of this domain, and `&mut` says they are two.
        unsafe { (kernel().blocks_transfer)(self.object_mut(), mask, to.object_mut()) }
    }

    /// Puts copies of the requests whose bit is set in `mask` at the end of `to`, as far as it has place; both name the same buffers, which can't be
    /// written to before one of them has let go. Returns how many were copied.
    pub fn share(&self, mask: u32, to: &mut RRef<Requests>) -> usize {
        // SAFETY: both are batches of this domain; the first is only read.
        unsafe { (kernel().blocks_share)(self.address().as_ptr(), mask, to.object_mut()) }
    }

    /// Drops the requests whose bit is set in `mask`; the others close up in order.
    pub fn discard(&mut self, mask: u32) {
        // SAFETY: `self` is a batch of this domain.
        unsafe { (kernel().blocks_release)(self.object_mut(), mask) }
    }

    /// Drops all requests.
    pub fn clear(&mut self) {
        self.discard(u32::MAX);
    }
}

/// One request of a batch, to be changed in place. (No `&mut Request` is handed out: two that were swapped between batches would each have the other's
/// buffer, and half a swap would be seen after a crash.)
pub struct RequestMut<'a>(&'a mut Request);

impl RequestMut<'_> {
    pub fn order(&self) -> Order {
        self.0.order
    }

    /// Another order for the same buffer; the status is `Open` again.
    pub fn set_order(&mut self, order: Order) {
        self.0.order = order;
        self.0.status = Status::Open;
    }

    /// For shadows and drivers, which answer in the device's place.
    pub fn set_status(&mut self, status: Status) {
        self.0.status = status;
    }

    pub fn status(&self) -> Status {
        self.0.status
    }

    pub fn data(&self) -> &[u8] {
        self.0.data()
    }

    /// The whole buffer; `None` while others hold it too. Empty if the request has none.
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        let Some(mut buffer) = self.0.buffer else { return Some(&mut []) };
        // SAFETY: the request's hold keeps the head.
        let head = unsafe { buffer.as_mut() };
        // Acquire: what others did with it before they let go is done.
        if head.holds.load(Ordering::Acquire) != 1 {
            return None;
        }
        // SAFETY: this is the only request that names the buffer, and it is borrowed uniquely: only by way of it could another be made.
        Some(unsafe { core::slice::from_raw_parts_mut(head.address.as_ptr(), head.bytes as usize) })
    }
}

/// What trusted code (the kernel, its block pool and device crates) does with the insides of a batch.
pub mod trusted {
    use super::{BufferHead, Operation, Order, Request, Requests, Status};
    use crate::RRef;
    use core::ptr::NonNull;

    /// The order of a request that isn't there.
    pub const NOTHING: Order = Order {
        id: 0,
        operation: Operation::Flush,
        namespace: 0,
        block: 0,
        blocks: 0,
        offset: 0,
        force_unit_access: false,
    };

    /// A request out of its batch, with its hold.
    #[derive(Clone, Copy)]
    pub struct Parts {
        pub buffer: Option<NonNull<BufferHead>>,
        pub order: Order,
        pub status: Status,
    }

    /// The batch itself, for `push` and `take`.
    ///
    /// # Safety
    /// Only the kernel's image calls this, at depth > 0, and moves buffers with `push` and `take` alone.
    pub unsafe fn batch(batch: &mut RRef<Requests>) -> &mut Requests {
        batch.object_mut()
    }

    /// Makes fresh memory a batch without requests, as far as whoever frees or reclaims it looks.
    ///
    /// # Safety
    /// The memory is large enough for a batch's head, aligned for a batch, and nobody else's.
    pub unsafe fn begin(memory: NonNull<Requests>) {
        // SAFETY: this function's contract.
        unsafe { (&raw mut (*memory.as_ptr()).count).write(0) }
    }

    /// Puts a request at the end of a batch; false, and nothing done, if it is full.
    ///
    /// # Safety
    /// The caller has the hold in `parts` and gives it to the batch. Only the kernel's image calls this, at depth > 0.
    pub unsafe fn push(batch: &mut Requests, parts: Parts) -> bool {
        let at = batch.len();
        let fits = at < Requests::CAPACITY;
        if fits {
            batch.requests[at] = Request { buffer: parts.buffer, order: parts.order, status: parts.status };
            batch.count = at as u32 + 1;
        }
        fits
    }

    /// What is in a batch; its holds stay there.
    pub fn parts(batch: &Requests) -> impl Iterator<Item = Parts> + '_ {
        batch.requests().iter().map(parts_of)
    }

    fn parts_of(request: &Request) -> Parts {
        Parts { buffer: request.buffer, order: request.order, status: request.status }
    }

    /// Takes the requests whose bit is set in `mask` out, in order, handing each to `take` until that returns false; those not taken close up in order.
    /// Returns how many were taken.
    ///
    /// # Safety
    /// `take` returning true means that it has the hold now. Only the kernel's image calls this, at depth > 0.
    pub unsafe fn take(batch: &mut Requests, mask: u32, mut take: impl FnMut(Parts) -> bool) -> usize {
        let (len, mut kept, mut taken, mut open) = (batch.len(), 0, 0, true);
        for at in 0..len {
            let wanted = open && mask & (1 << at) != 0;
            if wanted && take(parts_of(&batch.requests[at])) {
                batch.requests[at].buffer = None;
                taken += 1;
            } else {
                open &= !wanted;
                batch.requests.swap(kept, at);
                kept += 1;
            }
        }
        batch.count = kept as u32;
        taken
    }
}
