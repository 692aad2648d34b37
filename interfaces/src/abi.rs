//! The kernel's table: what a domain's trusted runtime may ask of the kernel, as functions in the kernel's image.
//!
//! Everything here changes state that outlives a domain, so it runs out of line, in the kernel, at depth > 0. A domain's safe code never
//! sees this table; `runtime` and the types of this crate wrap it.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::{
    block::{Order, Requests},
    packet::Batch,
};

/// Why a domain ended: the one vocabulary for console, feed and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    Panic = 1,
    StackOverflow = 2,
    PageFault = 3,
    CpuException = 4,
    Quota = 5,
    Watchdog = 6,
    Killed = 7,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::Panic,
        Reason::StackOverflow,
        Reason::PageFault,
        Reason::CpuException,
        Reason::Quota,
        Reason::Watchdog,
        Reason::Killed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Reason::Panic => "panic",
            Reason::StackOverflow => "stack-overflow",
            Reason::PageFault => "page-fault",
            Reason::CpuException => "cpu-exception",
            Reason::Quota => "quota",
            Reason::Watchdog => "watchdog",
            Reason::Killed => "killed",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// The functions. All `extern "C"`; pointers are valid for the call only, unless said otherwise. Times are nanoseconds since boot.
#[repr(C)]
pub struct KernelTable {
    /// `level` as in crate `log` (1 error … 5 trace).
    pub log: unsafe extern "C" fn(level: u32, text: *const u8, len: usize),
    /// Ends the calling domain with its last words.
    pub crash: unsafe extern "C" fn(reason: u32, words: *const u8, len: usize) -> !,
    pub now: extern "C" fn() -> u64,
    /// Seconds since 1970 (UTC); 0 if the box knows no date.
    pub date: extern "C" fn() -> u64,
    /// A number that nobody can foretell, another each time.
    pub random: extern "C" fn() -> u64,
    /// `pages` contiguous zeroed pages for the private heap; null when quota or memory is exhausted.
    pub heap_grow: extern "C" fn(pages: usize) -> *mut u8,
    /// An object of `kind` on the exchange heap, owned by the calling domain; null when its exchange quota is exhausted.
    pub exchange_allocate: extern "C" fn(kind: u32, size: usize, align: usize) -> *mut u8,
    /// Gives an object (with all that is nested in it) back. The caller must own it.
    pub exchange_free: unsafe extern "C" fn(object: *mut u8),
    /// Hangs `object`, a root that the caller owns, into the object that `place` (a `Nested` of its type) is in. The put's ticket; 0, and nothing done, if
    /// `place` is in no object of the caller's.
    pub exchange_put: unsafe extern "C" fn(place: *mut u8, object: *mut u8) -> u32,
    /// Makes an object that is nested in one of the caller's a root again, the caller's.
    pub exchange_take: unsafe extern "C" fn(object: *mut u8),
    /// Puts up to `count` empty packets from the pool at the end of `batch`; returns how many.
    pub packets_allocate: unsafe extern "C" fn(batch: *mut Batch, count: usize) -> usize,
    /// Moves the packets whose bit is set in `mask` from `from` to the end of `to`, in order, as far as there is place; returns how many.
    pub packets_transfer: unsafe extern "C" fn(from: *mut Batch, mask: u32, to: *mut Batch) -> usize,
    /// Gives the buffers of the packets whose bit is set back to the pool.
    pub packets_release: unsafe extern "C" fn(batch: *mut Batch, mask: u32),
    /// Puts a request with a buffer of at least `bytes` (0: none) at the end of `batch`; false if batch or pool doesn't admit it.
    pub blocks_add: unsafe extern "C" fn(batch: *mut Requests, order: *const Order, bytes: usize) -> bool,
    /// As `packets_transfer`, for requests.
    pub blocks_transfer: unsafe extern "C" fn(from: *mut Requests, mask: u32, to: *mut Requests) -> usize,
    /// Puts copies of the requests whose bit is set at the end of `to`, sharing their buffers; returns how many.
    pub blocks_share: unsafe extern "C" fn(from: *const Requests, mask: u32, to: *mut Requests) -> usize,
    /// Drops the requests whose bit is set.
    pub blocks_release: unsafe extern "C" fn(batch: *mut Requests, mask: u32),
    /// Starts a thread of the calling domain on `cpu` with a stack of at least `stack` bytes (0: the manifest's); 0 on failure, else its id.
    pub thread_spawn: unsafe extern "C" fn(
        name: *const u8,
        len: usize,
        cpu: u32,
        stack: usize,
        entry: extern "C" fn(*mut u8),
        argument: *mut u8,
    ) -> u64,
    pub thread_yield: extern "C" fn(),
    /// Sleeps until `deadline`. 0, or `CallError::Cancelled`.
    pub thread_sleep: extern "C" fn(deadline: u64) -> u32,
    /// Blocks while `*word == expected`, until `wake` or `deadline`. 0 woken or different, 1 timed out, `CallError::Cancelled` cancelled.
    pub wait: unsafe extern "C" fn(word: *const AtomicU32, expected: u32, deadline: u64) -> u32,
    /// Wakes up to `count` threads that wait at `word`.
    pub wake: unsafe extern "C" fn(word: *const AtomicU32, count: u32),
    /// Releases a capability by the address of its proxy.
    pub cap_release: unsafe extern "C" fn(proxy: *mut u8),
    /// Says that the calling thread is alive, for the watchdog of threads that seldom call anybody.
    pub alive: extern "C" fn(),
    /// From now on an object that the calling domain moves into a call that fails waits for it, if it can be had, instead of being dropped.
    pub want_back: extern "C" fn(),
    /// That object, if it is of `kind`, owned by the calling domain again; else null. It waits until this thread's next call that fails.
    pub given_back: extern "C" fn(kind: u32) -> *mut u8,
}

/// This image's way to the kernel: set once at the domain's entry, before any of its code runs (in the kernel: at boot).
static KERNEL: AtomicPtr<KernelTable> = AtomicPtr::new(core::ptr::null_mut());

/// Connects this image to the kernel.
///
/// # Safety
/// `table` stays valid as long as this image is mapped, and its functions do what their documentation says.
pub unsafe fn connect(table: &'static KernelTable) {
    KERNEL.store((table as *const KernelTable).cast_mut(), Ordering::Release);
}

/// The kernel's table. Panics if nobody has connected this image (on the host: call `interfaces::host::connect`).
#[inline]
pub fn kernel() -> &'static KernelTable {
    let table = KERNEL.load(Ordering::Relaxed);
    assert!(!table.is_null(), "this image is not connected to a kernel");
    // SAFETY: `connect` stored a reference that is valid for as long as this image is (SOUNDNESS: ABI between images).
    unsafe { &*table }
}

/// A fat pointer to a trait object, as it travels through `repr(C)` structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RawObject {
    pub data: *mut u8,
    pub vtable: *const u8,
}

impl RawObject {
    pub const NULL: RawObject = RawObject { data: core::ptr::null_mut(), vtable: core::ptr::null() };
}

/// One port as the kernel wires it. The image finds it by its name, and takes it only as what it says it is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WiredPort {
    name: *const u8,
    name_len: usize,
    interface: *const u8,
    interface_len: usize,
    /// `Interface::HASH` in the kernel's image.
    pub hash: u64,
    /// An import's proxy; for an export, null until the domain has put its object here.
    pub object: RawObject,
}

impl WiredPort {
    pub fn new(name: &str, interface: &str, hash: u64, object: RawObject) -> Self {
        WiredPort {
            name: name.as_ptr(),
            name_len: name.len(),
            interface: interface.as_ptr(),
            interface_len: interface.len(),
            hash,
            object,
        }
    }

    /// # Safety
    /// What `new` was given is still there, for as long as the result is used.
    pub unsafe fn name<'a>(&self) -> &'a str {
        // SAFETY: this function's contract; it was a `str`.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.name, self.name_len)) }
    }

    /// # Safety
    /// As for [`WiredPort::name`].
    pub unsafe fn interface<'a>(&self) -> &'a str {
        // SAFETY: as above.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.interface, self.interface_len)) }
    }
}

/// What the kernel hands to a domain's entry, and gets back from it.
#[repr(C)]
pub struct StartArguments {
    pub name: *const u8,
    pub name_len: usize,
    pub generation: u32,
    pub cpu_count: u32,
    pub cpus: *const u32,
    /// The compiled `config` table (postcard).
    pub config: *const u8,
    pub config_len: usize,
    /// The import ports that the manifest wires, in any order.
    pub imports: *const WiredPort,
    pub import_count: usize,
    /// The export ports that the manifest names, in any order; their objects are filled in by the domain.
    pub exports: *mut WiredPort,
    pub export_count: usize,
    /// Room for the words of a start that failed.
    pub error: *mut u8,
    pub error_capacity: usize,
    pub error_len: usize,
    /// Filled by the domain: what the kernel calls inside it, each call a visit like any other.
    pub hooks: Hooks,
}

/// Functions of a domain's trusted runtime that the kernel calls as contained visits.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Hooks {
    /// Commits a real fault of the kind of `Reason` (for fault injection), in the domain's own image.
    pub fault: Option<extern "C" fn(reason: u32)>,
    /// Drops the box behind a capability's object.
    pub release: Option<unsafe extern "C" fn(object: RawObject)>,
}

/// The symbol `domain_entry`, the ELF's entry point. 0: started; 1: refused, with words in `error`.
pub type Entry = unsafe extern "C" fn(kernel: &'static KernelTable, arguments: &mut StartArguments) -> u32;
