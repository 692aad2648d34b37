//! The bus: the device's view of this process's memory, with a check on every access.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    },
};

use ixgbe_device::DmaMemory;
use model::{DmaMemory as Reach, DmaRefused};

use super::pool::Pool;

/// What a device assumes of a ring (82599 §7.1.9).
const RING_ALIGN: usize = 128;

#[derive(Clone)]
pub struct Bus(Arc<State>);

struct State {
    open: AtomicBool,
    /// Rings by address.
    rings: Mutex<BTreeMap<u64, usize>>,
    pool: &'static Pool,
    violations: AtomicUsize,
}

impl Bus {
    pub fn new(pool: &'static Pool) -> Self {
        Bus(Arc::new(State { open: false.into(), rings: Mutex::default(), pool, violations: 0.into() }))
    }

    pub fn open(&self, open: bool) {
        self.0.open.store(open, SeqCst);
    }

    pub fn violations(&self) -> usize {
        self.0.violations.load(SeqCst)
    }

    pub fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let layout = Layout::from_size_align(bytes, RING_ALIGN).ok()?;
        // SAFETY: the size isn't 0.
        let address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let bus = address.as_ptr().expose_provenance() as u64;
        self.0.rings.lock().unwrap().insert(bus, bytes);
        Some(DmaMemory { address, bus, bytes })
    }

    pub fn free(&self, memory: DmaMemory) {
        let known = self.0.rings.lock().unwrap().remove(&memory.bus);
        assert_eq!(known, Some(memory.bytes), "a ring is freed once, whole");
        // SAFETY: from `allocate`, and no longer in the table, so the device doesn't reach it.
        unsafe { dealloc(memory.address.as_ptr(), Layout::from_size_align(memory.bytes, RING_ALIGN).unwrap()) };
    }

    /// The pointer for an access by the device, if it may make it.
    fn reach(&self, address: u64, length: usize) -> Result<*mut u8, DmaRefused> {
        let rings = self.0.rings.lock().unwrap();
        let in_ring = rings
            .range(..=address)
            .next_back()
            .is_some_and(|(base, bytes)| address + length as u64 <= base + *bytes as u64);
        if self.0.open.load(SeqCst) && (in_ring || self.0.pool.device_may_touch(address, length)) {
            return Ok(std::ptr::with_exposed_provenance_mut(address as usize));
        }
        self.0.violations.fetch_add(1, SeqCst);
        Err(DmaRefused { address, length })
    }

    fn cell(&self, address: u64) -> &AtomicU64 {
        let rings = self.0.rings.lock().unwrap();
        let (base, bytes) = rings.range(..=address).next_back().expect("a ring");
        assert!(address + 8 <= base + *bytes as u64 && address.is_multiple_of(8));
        // SAFETY: inside a live ring, aligned.
        unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address as usize)) }
    }

    pub fn word(&self, address: u64) -> u64 {
        u64::from_le(self.cell(address).load(Acquire))
    }

    pub fn set_word(&self, address: u64, word: u64) {
        self.cell(address).store(word.to_le(), Release);
    }
}

impl Reach for Bus {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        let from = self.reach(address, into.len())?;
        // SAFETY: `reach` has seen that these bytes are a ring's or a buffer's.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
        let to = self.reach(address, bytes.len())?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn publish(&mut self, address: u64, word: u64) -> Result<(), DmaRefused> {
        self.reach(address, 8)?;
        self.set_word(address, word);
        Ok(())
    }
}
