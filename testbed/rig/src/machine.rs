//! The machine: `Platform` over Linux.

use std::{
    fmt,
    ptr::NonNull,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use kernel_core::{
    interrupt::Vector,
    platform::{
        DmaMemory, Entropy, Mapped, Mapping, PAGE, PageCount, PciFunction, PciIdentity, Platform, Protected, Resume,
        ThreadStart,
    },
    thread::ThreadBlock,
};

use crate::{dma, memory::Memory, stops, threads};

/// Nanoseconds since the first question.
pub fn clock() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// A Linux process as a machine.
pub struct Machine {
    pub cpus: usize,
    memory: Memory,
    functions: Vec<&'static dyn PciFunction>,
    has_iommu: bool,
    typed: Mutex<Vec<u8>>,
    typed_vector: &'static Vector,
    /// Barriers so far; on the metal each interrupts all other CPUs.
    pub barriers: AtomicU64,
    /// What the console and the feed have said.
    pub console: Mutex<Vec<u8>>,
    pub feed: Mutex<Vec<u8>>,
}

impl Machine {
    /// `has_iommu`: its devices can be confined.
    pub fn new(cpus: usize, pages: usize, functions: Vec<&'static dyn PciFunction>, has_iommu: bool) -> Self {
        // SAFETY: plain flags; registers this process for the expedited barrier.
        let registered =
            unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0) };
        assert_eq!(registered, 0, "membarrier: {}", std::io::Error::last_os_error());
        clock();
        Machine {
            cpus,
            memory: Memory::new(pages),
            functions,
            has_iommu,
            typed: Mutex::default(),
            typed_vector: Box::leak(Box::new(Vector::new())),
            barriers: AtomicU64::new(0),
            console: Mutex::default(),
            feed: Mutex::default(),
        }
    }

    /// Types at the console.
    pub fn type_in(&self, text: &str) {
        self.typed.lock().expect("nobody panics with it").extend_from_slice(text.as_bytes());
        self.typed_vector.fire();
    }
}

impl Platform for Machine {
    fn now(&self) -> u64 {
        clock()
    }

    fn boot_date(&self) -> Option<u64> {
        let date = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(date.saturating_sub(clock() / 1_000_000_000))
    }

    fn entropy(&self) -> Entropy {
        let mut secret = [0; 32];
        // SAFETY: the kernel writes that many bytes there.
        let written = unsafe { libc::getrandom(secret.as_mut_ptr().cast(), secret.len(), 0) };
        Entropy { secret, is_strong: usize::try_from(written) == Ok(secret.len()) }
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn barrier(&self) {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        // SAFETY: plain flags.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0) };
        assert_eq!(done, 0, "membarrier: {}", std::io::Error::last_os_error());
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn map(&self, pages: usize, kind: Mapping) -> Option<NonNull<u8>> {
        let first = self.memory.map(pages, kind)?;
        if kind == Mapping::Image {
            stops::image_mapped(first, pages);
        }
        Some(first)
    }

    unsafe fn protect(&self, ranges: &[Protected]) {
        stops::image_written(ranges);
        for range in ranges {
            // SAFETY: the same contract.
            unsafe { self.memory.protect(range.first, range.pages, range.protection) }
        }
    }

    unsafe fn unmap(&self, mappings: &[Mapped]) {
        for mapped in mappings {
            if mapped.kind == Mapping::Image {
                stops::image_unmapped(mapped.first, mapped.pages);
            }
            // SAFETY: the same contract.
            unsafe { self.memory.unmap(mapped.first, mapped.pages, mapped.kind) }
        }
    }

    fn dma_map(&self, pages: usize) -> Option<DmaMemory> {
        // A device of the rig is code in this process: it finds memory where we do.
        let address = self.memory.map(pages, Mapping::Heap)?;
        let bus = address.as_ptr().expose_provenance() as u64;
        if !dma::are_confined() {
            dma::admit(bus, pages * PAGE);
        }
        Some(DmaMemory { address, bus, pages })
    }

    unsafe fn dma_unmap(&self, memory: DmaMemory) {
        dma::forbid(memory.bus);
        // SAFETY: mapped as a heap by `dma_map`; the rest is the same contract.
        unsafe { self.memory.unmap(memory.address, memory.pages, Mapping::Heap) }
    }

    fn pages(&self) -> PageCount {
        self.memory.count()
    }

    fn thread_start(&self, start: ThreadStart) -> bool {
        threads::start(start)
    }

    fn thread_exit(&self) -> ! {
        threads::exit()
    }

    fn thread_yield(&self) {
        std::thread::yield_now();
    }

    fn park(&self, deadline: u64) {
        threads::park(deadline);
    }

    fn unpark(&self, thread: &ThreadBlock) {
        threads::unpark(thread);
    }

    fn kick(&self, thread: &ThreadBlock) {
        threads::kick(thread);
    }

    fn hold(&self, at: Resume) -> ! {
        threads::hold(at)
    }

    fn release(&self, thread: &ThreadBlock) {
        threads::release(thread);
    }

    fn confine_devices(&self) -> bool {
        if self.has_iommu {
            dma::confine();
        }
        self.has_iommu
    }

    fn pci(&self) -> Vec<PciIdentity> {
        self.functions.iter().map(|function| function.identity()).collect()
    }

    fn pci_open(&self, identity: &PciIdentity) -> Option<&'static dyn PciFunction> {
        self.functions.iter().find(|function| function.identity() == *identity).copied()
    }

    fn console_write(&self, bytes: &[u8]) {
        self.console.lock().expect("nobody panics with it").extend_from_slice(bytes);
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let mut typed = self.typed.lock().expect("nobody panics with it");
        let count = typed.len().min(bytes.len());
        bytes[..count].copy_from_slice(&typed[..count]);
        typed.drain(..count);
        count
    }

    fn console_vector(&self) -> &'static Vector {
        self.typed_vector
    }

    fn feed_write(&self, bytes: &[u8]) {
        self.feed.lock().expect("nobody panics with it").extend_from_slice(bytes);
    }

    fn fatal(&self, text: fmt::Arguments<'_>) -> ! {
        eprintln!("rig: {text}");
        std::process::abort()
    }
}
