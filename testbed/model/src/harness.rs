//! A machine in a box for host tests: RAM that a device can reach, the model, and the far end of
//! its cable, all in one process and with a clock that stands still unless told.
//!
//! A driver under test takes [`Ram`] for its DMA memory (pointer and bus address of the same bytes)
//! and [`Machine::read32`] / [`Machine::write32`] for its BAR; the test plays the peer:
//!
//! ```
//! use model::harness::Machine;
//!
//! let machine = Machine::new(model::NicConfig::default(), 1 << 20);
//! let ring = machine.ram().allocate(4096);
//! machine.write32(model::registers::tx(0, model::registers::TDBAL), ring as u32);
//! machine.peer_send(&[0xFF; 60]);      // a frame towards the NIC
//! machine.process();                   // … which takes it in
//! assert_eq!(machine.peer_receive(), None);
//! assert_eq!(machine.interrupts(), []);
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Release, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::NicConfig;
use crate::counters::Snapshot;
use crate::nic::Nic;
use crate::surroundings::{DmaMemory, DmaRefused, Interrupts, Wire};

/// Bus address of RAM's first byte: neither zero nor below 4 GiB, so that a driver that forgets the
/// high half of an address, or passes none, is found out.
pub const RAM_BASE: u64 = 0x1_4000_0000;

/// Memory that driver and device share. Clones are the same memory.
#[derive(Clone)]
pub struct Ram(Arc<Block>);

struct Block {
    words: *mut u64,
    bytes: usize,
    next: AtomicU64,
}

// SAFETY: [memory shared with a device] the block is raw memory reached only by pointer; both sides copy in and out, no
// Rust reference to its content exists.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: [allocation] made in `Ram::new` with this very layout.
        unsafe { std::alloc::dealloc(self.words.cast(), Ram::layout(self.bytes)) }
    }
}

impl Ram {
    fn layout(bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(bytes, 4096).expect("RAM of a size that exists")
    }

    fn new(bytes: usize) -> Ram {
        let bytes = bytes.max(4096).next_multiple_of(4096);
        // SAFETY: [allocation] the layout's size isn't zero.
        let words = unsafe { std::alloc::alloc_zeroed(Ram::layout(bytes)) };
        assert!(!words.is_null(), "no memory for {bytes} bytes of RAM");
        Ram(Arc::new(Block { words: words.cast(), bytes, next: AtomicU64::new(0) }))
    }

    /// Bytes of RAM.
    pub fn size(&self) -> usize {
        self.0.bytes
    }

    /// Takes page-aligned, zeroed memory that is never given back; returns its bus address.
    /// Panics when RAM is used up: the test asked for too little.
    pub fn allocate(&self, bytes: usize) -> u64 {
        let bytes = bytes.next_multiple_of(4096) as u64;
        let at = self.0.next.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        assert!(at + bytes <= self.0.bytes as u64, "the machine's RAM is used up");
        RAM_BASE + at
    }

    /// The CPU's pointer to `length` bytes at bus address `address`, if they are all RAM.
    /// It stays valid as long as some clone of this RAM lives.
    pub fn pointer(&self, address: u64, length: usize) -> Option<*mut u8> {
        let offset = address.checked_sub(RAM_BASE)?;
        let end = offset.checked_add(length as u64)?;
        // SAFETY: [bounds] `offset` is at most the block's size.
        (end <= self.0.bytes as u64).then(|| unsafe { self.0.words.cast::<u8>().add(offset as usize) })
    }

    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        let from = self.pointer(address, into.len()).ok_or(DmaRefused { address, length: into.len() })?;
        // SAFETY: [bounds] checked by `pointer`; `into` is outside the block, to which no reference exists.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
        let to = self.pointer(address, bytes.len()).ok_or(DmaRefused { address, length: bytes.len() })?;
        // SAFETY: [bounds] as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// One little-endian quadword. Panics outside RAM: a test's mistake.
    pub fn quad(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).expect("a test's address in RAM");
        u64::from_le_bytes(bytes)
    }

    /// Stores one little-endian quadword. Panics outside RAM.
    pub fn set_quad(&self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes()).expect("a test's address in RAM");
    }
}

impl DmaMemory for Ram {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        Ram::read(self, address, into)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
        Ram::write(self, address, bytes)
    }

    fn publish(&mut self, address: u64, word: u64) -> Result<(), DmaRefused> {
        let to = self.pointer(address, 8).ok_or(DmaRefused { address, length: 8 })?;
        if to.addr() % 8 == 0 {
            // SAFETY: [bounds] checked by `pointer`, aligned, and valid for the block's life.
            unsafe { AtomicU64::from_ptr(to.cast()) }.store(word.to_le(), Release);
            return Ok(());
        }
        fence(Release);
        Ram::write(self, address, &word.to_le_bytes())
    }
}

/// A cable whose far end is the test.
#[derive(Default)]
pub struct Cable {
    to_nic: VecDeque<Vec<u8>>,
    from_nic: VecDeque<Vec<u8>>,
    /// The frame that the model is looking at.
    current: Vec<u8>,
    /// Whether what the NIC sends comes back to it.
    looped: bool,
}

impl Wire for Cable {
    fn send(&mut self, frame: &[u8]) {
        if self.looped {
            self.to_nic.push_back(frame.to_vec());
        } else {
            self.from_nic.push_back(frame.to_vec());
        }
    }

    fn receive(&mut self) -> Option<&[u8]> {
        self.current = self.to_nic.pop_front()?;
        Some(&self.current)
    }
}

/// Messages in the order they were sent.
#[derive(Default)]
pub struct Messages(Vec<u16>);

impl Interrupts for Messages {
    fn raise(&mut self, vector: u16) {
        self.0.push(vector);
    }
}

/// The model type that a [`Machine`] drives.
pub type HarnessNic = Nic<Ram, Cable, Messages>;

/// The box. Clones are the same machine, so one may be a driver's BAR and another the test's hand.
#[derive(Clone)]
pub struct Machine {
    nic: Arc<Mutex<HarnessNic>>,
    ram: Ram,
}

impl Machine {
    /// A machine with one NIC and `ram` bytes that it can reach.
    pub fn new(config: NicConfig, ram: usize) -> Machine {
        let ram = Ram::new(ram);
        let mut nic = Nic::new(config, ram.clone(), Cable::default(), Messages::default());
        // What a kernel grants before it hands the device to a driver: memory space and bus mastering.
        nic.write_pci(4, &[0x06, 0x00]);
        Machine { nic: Arc::new(Mutex::new(nic)), ram }
    }

    /// The model itself, for what has no short form here.
    pub fn nic(&self) -> MutexGuard<'_, HarnessNic> {
        self.nic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Reads a register of BAR0.
    pub fn read32(&self, offset: u32) -> u32 {
        self.nic().read32(offset)
    }

    /// Writes a register of BAR0. A TX tail write sends at once.
    pub fn write32(&self, offset: u32, value: u32) {
        self.nic().write32(offset, value);
    }

    /// A frame (without FCS, at least 60 bytes) on its way to the NIC, which takes it at the next [`Machine::process`].
    pub fn peer_send(&self, frame: &[u8]) {
        self.nic().wire_mut().to_nic.push_back(frame.to_vec());
    }

    /// The next frame that the NIC has sent.
    pub fn peer_receive(&self) -> Option<Vec<u8>> {
        self.nic().wire_mut().from_nic.pop_front()
    }

    /// Connects the NIC with itself: what it sends, it receives.
    pub fn loop_cable(&self, looped: bool) {
        self.nic().wire_mut().looped = looped;
    }

    /// Lets the NIC take in everything that is on the wire.
    pub fn process(&self) {
        let mut nic = self.nic();
        while nic.process() {}
    }

    /// Moves the clock to `nanoseconds` after the machine's start and processes.
    pub fn at(&self, nanoseconds: u64) {
        self.nic().set_time(nanoseconds);
        self.process();
    }

    /// MSI-X vectors raised since the last call.
    pub fn interrupts(&self) -> Vec<u16> {
        std::mem::take(&mut self.nic().interrupts_mut().0)
    }

    pub fn counters(&self) -> Snapshot {
        self.nic().counters()
    }
}
