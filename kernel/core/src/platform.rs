//! The seam between the domain core and the machine under it: pages, faults, CPUs, threads, interrupts, time, PCI, serial ports.
//!
//! There are two implementations, `kernel/metal` and `testbed/rig`; nothing above this page knows which one it runs on. The other direction, what the
//! machine calls in the core, is small: [`crate::trap::exception`] and [`crate::trap::consider`] on traps, [`crate::thread::ended`] when a thread has
//! left its stack, [`crate::interrupt::Vector::fire`] on device and serial interrupts, and `gs:[0]`, which holds the address of the running thread's
//! [`ThreadBlock`] on every CPU at any time (idle threads included, see [`ThreadBlock::resident`]).
//!
//! Rules for both sides:
//! - The core never calls the platform from a trap, except [`Platform::unpark`] and [`Platform::now`], which are safe to call from anywhere,
//!   interrupt handlers included.
//! - A thread whose [`ThreadBlock::preemption_is_off`] isn't switched away from (it holds a spin lock of the core); the platform sets
//!   [`ThreadBlock::want_switch`] instead, and the core yields when it lets go. Interrupts may still be taken then; their handlers take none of the core's locks.

use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::{interrupt::Vector, thread::ThreadBlock};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// "Never": a deadline that doesn't come.
pub const NEVER: u64 = u64::MAX;

/// What mapped pages are for; all arrive zeroed, readable and writable, not executable, at page-aligned addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Heap pages: any kernel mapping will do.
    Heap,
    /// A domain's image: virtually contiguous, an unmapped guard page at each end, protection changed later per page. Below or above does not matter, but
    /// all images, stacks, heaps and the kernel lie in one address space.
    Image,
    /// A stack: an unmapped guard page at each end.
    Stack,
}

/// A whole mapping: what [`Platform::map`] was asked for, and gave.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    pub first: NonNull<u8>,
    pub pages: usize,
    pub kind: Mapping,
}

// SAFETY: a mapping may be used and given back by any thread.
unsafe impl Send for Mapped {}

/// Pages of one image, and what they shall allow.
#[derive(Clone, Copy, Debug)]
pub struct Protected {
    pub first: NonNull<u8>,
    pub pages: usize,
    pub protection: Protection,
}

/// How a page of an image is protected. Never writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    ReadOnly,
    ReadWrite,
    ReadExecute,
}

/// Memory that a device may be pointed at: physically contiguous, or contiguous for the device.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    pub address: NonNull<u8>,
    /// Where the device finds its first byte.
    pub bus: u64,
    pub pages: usize,
}

// SAFETY: the memory may be used and given back by any thread.
unsafe impl Send for DmaMemory {}

/// Where a thread continues: nothing but these two is kept of a continuation, all other registers are dead.
///
/// The platform also clears DF, TF and AC, leaves interrupts enabled, and sets `rax` to nothing in particular; the code at `rip` reloads MXCSR and the
/// x87 control word by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    pub rip: usize,
    pub rsp: usize,
}

/// What shall become of a thread whose trap the core was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Go on where it was.
    Continue,
    /// Edit the saved context to this point and don't run the thread until [`Platform::release`]. Nothing may be written to the thread's own
    /// stack meanwhile: frames on it may be known to other threads. (The rig waits in the signal handler, on its alternate stack.)
    Hold(Resume),
    /// The kernel itself is at fault (an exception in the kernel's image, or at depth > 0): report and end, as configured.
    KernelBug,
}

/// Scheduling: `High` runs before `Normal` whenever it is ready; threads of one class on a CPU take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Normal,
    High,
}

/// What a thread starts with.
pub struct ThreadStart {
    /// The thread's block, for `gs:[0]`; stays valid until the core has been told by [`crate::thread::ended`].
    pub block: &'static ThreadBlock,
    pub cpu: usize,
    pub priority: Priority,
    /// One past the highest byte of the stack, 16-byte aligned.
    pub stack_top: usize,
    /// Called with the block on that stack as the `call` instruction would; ends in [`Platform::thread_exit`].
    pub entry: extern "C" fn(&'static ThreadBlock) -> !,
}

/// A PCI function as found on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIdentity {
    pub segment: u16,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
    pub vendor_id: u16,
    pub device_id: u16,
    pub revision: u8,
    /// Class, subclass, programming interface: `0x020000` for Ethernet.
    pub class: u32,
}

/// A memory BAR, mapped uncached.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    pub address: NonNull<u8>,
    pub len: usize,
}

// SAFETY: a BAR is device memory, accessed by volatile operations only, from whatever thread holds the lease.
unsafe impl Send for Bar {}
// SAFETY: as above.
unsafe impl Sync for Bar {}

/// One PCI function that the manifest gave to a domain.
pub trait PciFunction: Send + Sync {
    fn identity(&self) -> PciIdentity;

    /// Configuration space, dword-aligned `offset`.
    fn config_read(&self, offset: u16) -> u32;
    fn config_write(&self, offset: u16, value: u32);

    /// Memory BAR `index` (the lower one of a 64-bit pair).
    fn bar(&self, index: u8) -> Option<Bar>;

    /// Memory decoding and bus mastering on or off.
    fn set_bus_master(&self, on: bool);

    /// Lets the device reach all of `memory`, at its bus addresses. False, where devices are confined: the IOMMU has no room for it, or does not stand before
    /// this device; then it reaches none of it.
    fn grant(&self, _memory: &[DmaMemory]) -> bool {
        true
    }

    /// Takes that back, or what of it was granted. Where devices are confined, the device has no access to it under way any more when this returns.
    fn revoke(&self, _memory: &[DmaMemory]) {}

    /// Makes room in the IOMMU for `memory`, so that granting it later can't fail for want of that; nothing comes within reach. False as for `grant`.
    fn reserve(&self, _memory: &[DmaMemory]) -> bool {
        true
    }

    /// Number of MSI-X vectors that can be attached.
    fn vectors(&self) -> u16;

    /// Routes MSI-X vector `index` to `cpu`, where its handler calls `vector.fire()`; replaces what was attached. False if there is none.
    fn attach(&self, index: u16, cpu: usize, vector: &'static Vector) -> bool;

    /// Masks the vector and makes sure that no handler of it is running or will run.
    fn detach(&self, index: u16);
}

/// What strangers can't know of a machine.
pub struct Entropy {
    pub secret: [u8; 32],
    /// A source that was made for it is in it; else it is of times and dates alone.
    pub is_strong: bool,
}

/// The machine.
pub trait Platform: Sync {
    // Time and CPUs.

    /// Nanoseconds since boot; the same clock on all CPUs, never going back.
    fn now(&self) -> u64;

    /// Seconds since 1970 (UTC) when `now` was 0, if the machine has a clock that says so.
    fn boot_date(&self) -> Option<u64>;

    /// What the machine has of chance. Asked once, at boot.
    fn entropy(&self) -> Entropy;

    /// CPUs that are online, numbered from 0.
    fn cpus(&self) -> usize;

    /// Every CPU has executed a full memory barrier between call and return (IPI and wait; `membarrier`).
    fn barrier(&self);

    // Memory.

    /// Maps `pages` zeroed pages, or `None` when memory is short.
    fn map(&self, pages: usize, kind: Mapping) -> Option<NonNull<u8>>;

    /// Changes the protection of pages inside image mappings, on all CPUs before it returns. All at once, since the CPUs are interrupted for it once.
    ///
    /// # Safety
    /// Each range lies in one mapping of kind `Image`.
    unsafe fn protect(&self, ranges: &[Protected]);

    /// Gives whole mappings back. Those of kind `Image` and `Stack` no CPU can reach any more when this returns. All at once, as for `protect`.
    ///
    /// # Safety
    /// They are what `map` was asked for and gave, and nobody uses the memory.
    unsafe fn unmap(&self, mappings: &[Mapped]);

    /// Zeroed memory for devices; `None` when there is none that is contiguous.
    fn dma_map(&self, pages: usize) -> Option<DmaMemory>;

    /// # Safety
    /// From `dma_map`, and no device can reach it any more.
    unsafe fn dma_unmap(&self, memory: DmaMemory);

    /// Pages handed out and not returned, of all kinds; and pages that are left.
    fn pages(&self) -> PageCount;

    // Threads.

    /// Makes a thread and lets it run on its CPU. False: no memory for it, nothing happened.
    fn thread_start(&self, start: ThreadStart) -> bool;

    /// Ends the calling thread: leaves its stack for good, then calls [`crate::thread::ended`] (from another stack, holding no lock of the scheduler).
    fn thread_exit(&self) -> !;

    /// Lets others of this CPU run.
    fn thread_yield(&self);

    /// Blocks the calling thread until someone calls `unpark` for it, or `deadline`. A wake-up that came before (since the last `park`) counts: it returns
    /// at once. May also return for no reason. The calling thread is at depth > 0 or a kernel thread.
    fn park(&self, deadline: u64);

    /// Wakes a thread from `park`. From anywhere, interrupt handlers included.
    fn unpark(&self, thread: &ThreadBlock);

    /// Makes `thread` pass through [`crate::trap::consider`] soon: at once if it runs (IPI, directed signal), before its next instruction if it is ready
    /// but off its CPU; not at all if it is parked or held. May be called again and again.
    fn kick(&self, thread: &ThreadBlock);

    /// Holds the calling thread as [`Verdict::Hold`] does: off its own stack, continuing at `at` when released.
    fn hold(&self, at: Resume) -> !;

    /// Lets a held thread go on. (It may come before the platform is done holding it; then it doesn't wait.)
    fn release(&self, thread: &ThreadBlock);

    // PCI.

    /// Confines all devices, from now on, to what [`PciFunction::grant`] gives each of them. False: the machine has nothing that does so (an IOMMU, switched on in its
    /// firmware).
    fn confine_devices(&self) -> bool {
        false
    }

    /// All functions that were found.
    fn pci(&self) -> Vec<PciIdentity>;

    /// Takes a function for a domain; the same one again gives the same object.
    fn pci_open(&self, identity: &PciIdentity) -> Option<&'static dyn PciFunction>;

    // The two serial ports.

    /// The operator's console. Blocks only as long as the wire takes.
    fn console_write(&self, bytes: &[u8]);

    /// What was typed, without blocking; [`Platform::console_vector`] fires when there is more.
    fn console_read(&self, bytes: &mut [u8]) -> usize;

    fn console_vector(&self) -> &'static Vector;

    /// The feed for the lab, JSON lines.
    fn feed_write(&self, bytes: &[u8]);

    // The end.

    /// The kernel can't go on: shows `text`, then resets or halts as configured.
    fn fatal(&self, text: core::fmt::Arguments<'_>) -> !;
}

/// Pages of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    pub used: usize,
    pub free: usize,
}
