//! An NVMe controller in the rig: registers in shared memory, commands carried out when somebody looks. It has no medium: a command is complete as soon as it is seen, so that
//! what is measured is whoever drives it. (The one that keeps data and misbehaves is in `drivers/nvme-device/tests/model`.)
//!
//! Sections are of the NVM Express Base Specification 2.0.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
};

use kernel_core::{
    interrupt::Vector,
    platform::{self, Bar, PciFunction, PciIdentity},
};
use model::DmaMemory;

use crate::dma::{self, Reach};

const BAR_BYTES: usize = 0x4000;
/// Registers (§3.1.3) and the first doorbell, by their places in the BAR.
const CAP: usize = 0x00;
const VERSION: usize = 0x08;
const CONFIGURATION: usize = 0x14;
const STATUS: usize = 0x1C;
const ADMIN: usize = 0x24;
const DOORBELLS: usize = 0x1000;
/// Queues that there may be, the admin queue's pair among them.
const PAIRS: u16 = 17;
/// What it says of its only namespace.
const BLOCKS: u64 = 1 << 20;
const BLOCK_SHIFT: u8 = 12;

#[derive(Clone, Copy, Default)]
struct Ring {
    base: u64,
    entries: u32,
    index: u32,
}

struct Pair {
    submission: Ring,
    completion: Ring,
    phase: bool,
}

#[derive(Default)]
struct Inside {
    reach: Reach,
    enabled: bool,
    pairs: BTreeMap<u16, Pair>,
    /// Completion queues that wait for their submission queue.
    waiting: BTreeMap<u16, Ring>,
}

pub struct Drive {
    identity: PciIdentity,
    registers: &'static [AtomicU32],
    /// The first 64 bytes of configuration space, as they were written.
    space: [AtomicU32; 16],
    inside: Mutex<Inside>,
    paused: AtomicBool,
}

impl Drive {
    /// A drive in slot `slot` of the bus. It lives as long as the process.
    pub fn new(slot: u8) -> &'static Drive {
        let registers: Vec<AtomicU32> = (0..BAR_BYTES / 4).map(|_| AtomicU32::new(0)).collect();
        let drive = Drive {
            identity: PciIdentity {
                segment: 0,
                bus: 2,
                device: slot,
                function: 0,
                vendor_id: 0x1b36,
                device_id: 0x0010,
                revision: 1,
                class: 0x01_0802,
            },
            registers: registers.leak(),
            space: [const { AtomicU32::new(0) }; 16],
            inside: Mutex::new(Inside::default()),
            paused: AtomicBool::new(false),
        };
        // Queues of 1,024 entries, 1 s, doorbells of 4 bytes, NVM commands, pages of 4 KiB (§3.1.3.1).
        drive.set(CAP, 1023 | 2 << 24);
        drive.set(CAP + 4, 1 << 5);
        drive.set(VERSION, 0x0002_0000);
        Box::leak(Box::new(drive))
    }

    /// Has a thread look for ever, but while it is paused.
    pub fn serve(&'static self) {
        thread::spawn(move || {
            loop {
                if self.paused.load(SeqCst) || !self.look() {
                    // Two CPUs are few: whoever drives the device must not wait for whoever looks at it.
                    thread::yield_now();
                }
            }
        });
    }

    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, SeqCst);
        // Whoever was looking has finished.
        drop(self.inside());
    }

    /// Carries out what has come; says whether there was something.
    pub fn look(&self) -> bool {
        let mut inside = self.inside();
        self.configure(&mut inside);
        let mut any = false;
        for id in 0..PAIRS {
            let tail = self.get(DOORBELLS + 8 * usize::from(id));
            while let Some(pair) = inside.pairs.get_mut(&id)
                && pair.submission.index != tail
            {
                any = true;
                let at = pair.submission.base + 64 * u64::from(pair.submission.index);
                pair.submission.index = (pair.submission.index + 1) % pair.submission.entries;
                let mut bytes = [0; 64];
                if inside.reach.read(at, &mut bytes).is_err() {
                    return any;
                }
                inside.carry_out(id, &bytes);
            }
        }
        any
    }

    fn configure(&self, inside: &mut Inside) {
        let enable = self.get(CONFIGURATION) & 1 != 0;
        if enable == inside.enabled {
            return;
        }
        (inside.enabled, inside.pairs, inside.waiting) = (enable, BTreeMap::new(), BTreeMap::new());
        if enable {
            let long = |at| u64::from(self.get(at)) | u64::from(self.get(at + 4)) << 32;
            let sizes = self.get(ADMIN);
            let ring = |base, entries| Ring { base, entries, index: 0 };
            let submission = ring(long(ADMIN + 4), (sizes & 0xFFF) + 1);
            let completion = ring(long(ADMIN + 12), (sizes >> 16 & 0xFFF) + 1);
            inside.pairs.insert(0, Pair { submission, completion, phase: true });
        } else {
            self.registers[DOORBELLS / 4..].iter().for_each(|doorbell| doorbell.store(0, SeqCst));
        }
        self.set(STATUS, enable.into());
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, place: usize) -> u32 {
        self.registers[place / 4].load(SeqCst)
    }

    fn set(&self, place: usize, value: u32) {
        self.registers[place / 4].store(value, SeqCst);
    }
}

impl Inside {
    fn carry_out(&mut self, queue: u16, entry: &[u8; 64]) {
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let number = (word(0) >> 16) as u16;
        if queue > 0 {
            return self.complete(queue, number, 0, 0);
        }
        let data = u64::from(word(24)) | u64::from(word(28)) << 32;
        let (id, entries) = (word(40) as u16, (word(40) >> 16) + 1);
        let ring = Ring { base: data, entries, index: 0 };
        let (mut status, mut result) = (0, 0);
        match word(0) as u8 {
            // Create I/O completion queue, submission queue (§5.4, §5.5).
            0x05 => _ = self.waiting.insert(id, ring),
            0x01 => match self.waiting.remove(&id) {
                Some(completion) if id < PAIRS => {
                    self.pairs.insert(id, Pair { submission: ring, completion, phase: true });
                }
                _ => status = 0x101,
            },
            // Identify (§5.17): the controller, a namespace.
            0x06 => {
                let mut page = [0; 4096];
                if word(40) & 0xFF == 1 {
                    page[4..24].copy_from_slice(b"RIG-1               ");
                    page[24..64].copy_from_slice(b"a drive without a medium                ");
                    page[516] = 1;
                } else {
                    page[..8].copy_from_slice(&BLOCKS.to_le_bytes());
                    page[130] = BLOCK_SHIFT;
                }
                status = if self.reach.write(data, &page).is_ok() { 0 } else { 4 };
            }
            // Get log page (§5.16): nothing has happened.
            0x02 => status = if self.reach.write(data, &[0; 512]).is_ok() { 0 } else { 4 },
            // Set features (§5.27): as wished.
            0x09 => result = word(44),
            // An asynchronous event never comes (§5.2).
            0x0C => return,
            _ => {}
        }
        self.complete(0, number, status, result);
    }

    /// §3.3.3.2: the phase tag is in the last word, which is written last.
    fn complete(&mut self, queue: u16, number: u16, status: u16, result: u32) {
        let Some(pair) = self.pairs.get_mut(&queue) else { return };
        let at = pair.completion.base + 16 * u64::from(pair.completion.index);
        let head = u64::from(pair.submission.index) | u64::from(queue) << 16;
        let last = u64::from(number) | u64::from(pair.phase) << 16 | u64::from(status) << 17;
        pair.completion.index += 1;
        if pair.completion.index == pair.completion.entries {
            (pair.completion.index, pair.phase) = (0, !pair.phase);
        }
        // What can't be reached is counted there, and the driver waits in vain.
        let _ = self.reach.publish(at, u64::from(result)).and_then(|()| self.reach.publish(at + 8, head | last << 32));
    }
}

impl PciFunction for Drive {
    fn identity(&self) -> PciIdentity {
        self.identity
    }

    fn config_read(&self, offset: u16) -> u32 {
        self.space.get(usize::from(offset) / 4).map_or(0, |word| word.load(SeqCst))
    }

    fn config_write(&self, offset: u16, value: u32) {
        if let Some(word) = self.space.get(usize::from(offset) / 4) {
            word.store(value, SeqCst);
        }
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        let address = std::ptr::NonNull::from(self.registers).cast();
        (index == 0).then_some(Bar { address, len: BAR_BYTES })
    }

    fn set_bus_master(&self, on: bool) {
        self.config_write(4, self.config_read(4) & !4 | 2 | u32::from(on) << 2);
    }

    fn grant(&self, memory: &[platform::DmaMemory]) -> bool {
        dma::grant(memory);
        true
    }

    fn revoke(&self, memory: &[platform::DmaMemory]) {
        if dma::revoke(memory) {
            // Whoever was looking has finished.
            drop(self.inside());
        }
    }

    fn vectors(&self) -> u16 {
        0
    }

    fn attach(&self, _index: u16, _cpu: usize, _vector: &'static Vector) -> bool {
        false
    }

    fn detach(&self, _index: u16) {}
}
