//! The seam: the domain core's `Platform` on the metal. Each method is a line to the module that does it.

use alloc::{boxed::Box, vec::Vec};
use core::ptr::NonNull;

use kernel_core::{
    interrupt::Vector,
    platform::{
        DmaMemory, Entropy, Mapped, Mapping, PAGE, PageCount, PciFunction, PciIdentity, Platform, Protected,
        Protection, Resume, ThreadStart,
    },
    thread::ThreadBlock,
};

use crate::{
    chance, clock, cpu, iommu,
    memory::{
        self, Owner,
        paging::Access,
        window::{self, Area},
    },
    panic, pci, scheduler, serial,
};

pub struct Metal;

/// Kinds of pages that the core has asked for.
const CORE_OWNERS: [Owner; 4] = [Owner::Heap, Owner::Image, Owner::Stack, Owner::Device];

fn owner_of(kind: Mapping) -> Owner {
    match kind {
        Mapping::Heap => Owner::Heap,
        Mapping::Image => Owner::Image,
        Mapping::Stack => Owner::Stack,
    }
}

fn give_back_run(first: NonNull<u8>, owner: Owner) {
    let physical = memory::physical_of(first.as_ptr());
    // SAFETY: by the callers' contracts nobody uses the run any more; only the direct map leads to it.
    if let Err(error) = unsafe { memory::free(physical, owner) } {
        panic!("{owner:?} pages at {first:p} aren't there to be freed: {error:?}");
    }
}

impl Platform for Metal {
    fn now(&self) -> u64 {
        clock::now()
    }

    fn boot_date(&self) -> Option<u64> {
        clock::boot_date()
    }

    fn entropy(&self) -> Entropy {
        chance::entropy()
    }

    fn cpus(&self) -> usize {
        cpu::count()
    }

    fn barrier(&self) {
        cpu::barrier();
    }

    fn map(&self, pages: usize, kind: Mapping) -> Option<NonNull<u8>> {
        let owner = owner_of(kind);
        // Heaps are contiguous in the direct map, with its large pages, as long as there are such runs.
        if kind == Mapping::Heap
            && let Ok(physical) = memory::allocate_zeroed(pages, owner)
        {
            return NonNull::new(memory::direct(physical));
        }
        window::map(pages, owner).and_then(|start| NonNull::new(start as *mut u8))
    }

    unsafe fn protect(&self, ranges: &[Protected]) {
        let ranges = ranges.iter().map(|range| {
            let access = match range.protection {
                Protection::ReadOnly => Access::ReadOnly,
                Protection::ReadWrite => Access::ReadWrite,
                Protection::ReadExecute => Access::ReadExecute,
            };
            (range.first.as_ptr() as u64, range.pages, access)
        });
        // SAFETY: the caller's contract: each range lies in one image.
        unsafe { window::protect(ranges) };
    }

    unsafe fn unmap(&self, mappings: &[Mapped]) {
        let area = |mapped: &Mapped| Area {
            start: mapped.first.as_ptr() as u64,
            pages: mapped.pages,
            owner: owner_of(mapped.kind),
        };
        let in_window = |mapped: &&Mapped| window::contains(mapped.first.as_ptr() as u64);
        // SAFETY: the caller's contract: whole mappings that nobody uses.
        unsafe { window::unmap(mappings.iter().filter(in_window).map(area)) };
        for mapped in mappings.iter().filter(|mapped| !in_window(mapped)) {
            give_back_run(mapped.first, owner_of(mapped.kind));
        }
    }

    fn dma_map(&self, pages: usize) -> Option<DmaMemory> {
        let bus = memory::allocate_zeroed(pages, Owner::Device).ok()?;
        Some(DmaMemory { address: NonNull::new(memory::direct(bus))?, bus, pages })
    }

    unsafe fn dma_unmap(&self, memory: DmaMemory) {
        give_back_run(memory.address, Owner::Device);
    }

    fn pages(&self) -> PageCount {
        let used = CORE_OWNERS.into_iter().map(memory::pages_of).sum();
        PageCount { used, free: memory::free_pages() }
    }

    fn thread_start(&self, start: ThreadStart) -> bool {
        scheduler::start(start).is_ok()
    }

    fn thread_exit(&self) -> ! {
        scheduler::exit()
    }

    fn thread_yield(&self) {
        scheduler::yield_now();
    }

    fn park(&self, deadline: u64) {
        scheduler::park(deadline);
    }

    fn unpark(&self, thread: &ThreadBlock) {
        scheduler::unpark(thread);
    }

    fn kick(&self, thread: &ThreadBlock) {
        scheduler::kick(thread);
    }

    fn hold(&self, at: Resume) -> ! {
        scheduler::hold_self(at)
    }

    fn release(&self, thread: &ThreadBlock) {
        scheduler::release(thread);
    }

    fn confine_devices(&self) -> bool {
        iommu::confine()
    }

    fn pci(&self) -> Vec<PciIdentity> {
        pci::found()
    }

    fn pci_open(&self, identity: &PciIdentity) -> Option<&'static dyn PciFunction> {
        pci::function::open(identity).map(|function| function as &dyn PciFunction)
    }

    fn console_write(&self, bytes: &[u8]) {
        serial::console_write(bytes);
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        serial::console_read(bytes)
    }

    fn console_vector(&self) -> &'static Vector {
        serial::console_vector()
    }

    fn feed_write(&self, bytes: &[u8]) {
        serial::feed_write(bytes);
    }

    fn fatal(&self, text: core::fmt::Arguments<'_>) -> ! {
        panic::fatal(text)
    }
}

/// Starts a kernel thread of the metal's own, with a stack that is never given back.
pub fn start_resident(
    cpu: usize,
    priority: kernel_core::platform::Priority,
    entry: extern "C" fn(&'static ThreadBlock) -> !,
) -> &'static ThreadBlock {
    const STACK_PAGES: usize = 16;
    let stack = window::map(STACK_PAGES, Owner::Kernel).expect("no memory for a kernel thread's stack");
    let block = ThreadBlock::resident(cpu);
    let start = ThreadStart { block, cpu, priority, stack_top: stack as usize + STACK_PAGES * PAGE, entry };
    scheduler::start(start).expect("no memory for a kernel thread");
    block
}

/// The one object that the core gets.
pub fn metal() -> &'static Metal {
    Box::leak(Box::new(Metal))
}
