//! CPUs: the block of each, reached through `gs`; how one makes all others do something and waits for it.
//!
//! `gs:[0]` is the running thread's block (the domain core's contract), `gs:[8]` the CPU's own block. Threads are pinned, so
//! [`this`] stays true for as long as the thread that asked runs.

pub mod apic;
pub mod segments;
pub mod start;
pub mod trap;

use alloc::boxed::Box;
use core::{
    arch::asm,
    cell::UnsafeCell,
    hint, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

use kernel_core::thread::ThreadBlock;
use x86_64::{
    VirtAddr,
    instructions::{interrupts, tlb},
    registers::model_specific::GsBase,
};

use crate::scheduler::Scheduler;

pub const MAX_CPUS: usize = 64;

/// A CPU's block. The first two words have their place by contract.
#[repr(C)]
pub struct Cpu {
    /// Written by this CPU's scheduler only.
    thread: UnsafeCell<*const ThreadBlock>,
    this: *const Cpu,
    pub id: usize,
    pub apic: u32,
    pub online: AtomicBool,
    /// What others have asked of this CPU and what it has done: see [`barrier`].
    asked: AtomicU64,
    done: AtomicU64,
    wants_flush: AtomicBool,
    /// An interrupt's handler runs, and [`trap`] will look at the run queue when it returns.
    pub in_handler: AtomicBool,
    pub scheduler: Scheduler,
    /// Interrupts taken, for the statistics.
    pub interrupts: AtomicU64,
}

// SAFETY: `thread` is written by this CPU only, with interrupts off, and read by it through `gs`; all else is atomic or locked.
unsafe impl Sync for Cpu {}

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(0);

/// Makes the block of CPU `id`, which needn't run yet.
pub fn create(id: usize, apic: u32, idle: &'static ThreadBlock) -> &'static Cpu {
    let cpu = Box::leak(Box::new(Cpu {
        thread: UnsafeCell::new(idle),
        this: ptr::null(),
        id,
        apic,
        online: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        done: AtomicU64::new(0),
        wants_flush: AtomicBool::new(false),
        in_handler: AtomicBool::new(false),
        scheduler: Scheduler::new(id, idle),
        interrupts: AtomicU64::new(0),
    }));
    cpu.this = cpu;
    CPUS[id].store(cpu, Ordering::Release);
    cpu
}

/// Points `gs` at the block. From here on [`this`] works on this CPU.
pub fn install(cpu: &'static Cpu) {
    GsBase::write(VirtAddr::from_ptr(cpu));
}

/// This CPU is ready to take interrupts and threads.
pub fn announce(cpu: &Cpu) {
    cpu.online.store(true, Ordering::SeqCst);
    ONLINE.fetch_add(1, Ordering::SeqCst);
}

/// CPUs online, numbered from 0.
pub fn count() -> usize {
    ONLINE.load(Ordering::Relaxed)
}

/// The block of this CPU.
pub fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: `gs` points at a block whose second word is its own address, from `install` on; blocks live for ever.
    unsafe {
        asm!("mov {}, gs:[8]", out(reg) cpu, options(nostack, preserves_flags, readonly, pure));
        &*cpu
    }
}

/// Whether this CPU has its block already: a panic may come before.
pub fn has_block() -> bool {
    ONLINE.load(Ordering::Relaxed) != 0
}

/// The block of an online CPU.
pub fn get(id: usize) -> Option<&'static Cpu> {
    // SAFETY: entries are null or blocks that live for ever.
    unsafe { CPUS.get(id)?.load(Ordering::Acquire).as_ref() }.filter(|cpu| cpu.online.load(Ordering::Relaxed))
}

pub fn all() -> impl Iterator<Item = &'static Cpu> {
    (0..MAX_CPUS).filter_map(get)
}

impl Cpu {
    /// Tells `gs:[0]` who runs.
    ///
    /// # Safety
    /// On this very CPU, with interrupts off.
    pub unsafe fn set_thread(&self, block: *const ThreadBlock) {
        // SAFETY: by the contract nobody else accesses the cell now.
        unsafe { *self.thread.get() = block };
    }

    /// Does what others asked. In the handler of their interrupt, and by whoever waits with interrupts off, lest two CPUs
    /// wait for each other.
    pub fn serve(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        if self.done.load(Ordering::Relaxed) == asked {
            return;
        }
        if self.wants_flush.swap(false, Ordering::SeqCst) {
            tlb::flush_all();
        }
        self.done.fetch_max(asked, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Barrier,
    Flush,
}

/// Every other CPU has executed a full memory barrier between call and return.
pub fn barrier() {
    ask_others(Ask::Barrier);
}

/// Every CPU has forgotten all translations that were taken away before the call.
pub fn flush_everywhere() {
    tlb::flush_all();
    ask_others(Ask::Flush);
}

/// The caller holds no lock.
fn ask_others(what: Ask) {
    core::sync::atomic::fence(Ordering::SeqCst);
    if count() <= 1 {
        return;
    }
    let me = this();
    let mut tickets = [0; MAX_CPUS];
    for cpu in all().filter(|cpu| cpu.id != me.id) {
        if what == Ask::Flush {
            cpu.wants_flush.store(true, Ordering::SeqCst);
        }
        tickets[cpu.id] = cpu.asked.fetch_add(1, Ordering::SeqCst) + 1;
        apic::send(cpu.apic, trap::VECTOR_SERVE);
    }
    for cpu in all() {
        // No ticket, no wait: this CPU's own, and one that has come online meanwhile and knows nothing old.
        while cpu.done.load(Ordering::SeqCst) < tickets[cpu.id] {
            if !interrupts::are_enabled() {
                me.serve();
            }
            hint::spin_loop();
        }
    }
    core::sync::atomic::fence(Ordering::SeqCst);
}
