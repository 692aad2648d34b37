//! An NVMe controller in this process, which misbehaves on command. It keeps the book on memory: what the trusted layer has given it, and what it
//! has been told to touch. Touching anything else is a test that fails.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::{BTreeMap, VecDeque},
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use interfaces::device::nvme::{DeviceError, Identity, NvmeVector};
use nvme_device::{DmaMemory, Hardware};

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    Honest,
    /// Leaves I/O commands alone.
    Silent,
    /// Completes each I/O command twice.
    Twice,
    /// Completes a command that nobody sent.
    Invented,
    /// Completes under another queue's number.
    OtherQueue,
    /// Answers I/O commands with this status code type and code.
    Refuses(u16),
    /// Reads as all ones.
    Gone,
    /// Doesn't become ready, nor unready.
    Stuck,
}

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
    completion_head: u32,
}

pub struct State {
    pub lie: Lie,
    configuration: u32,
    status: u32,
    admin: [u32; 5],
    bus_master: bool,
    pairs: BTreeMap<u16, Pair>,
    /// Completion queues that have been made, and wait for their submission queue.
    waiting: BTreeMap<u16, Ring>,
    /// Commands of I/O queues that have come and haven't been carried out.
    pub pending: VecDeque<(u16, [u32; 16])>,
    /// Whether commands are carried out as they come, or by `carry_out`.
    pub at_once: bool,
    /// Where memory is that has been allocated for this device.
    pub allocated: BTreeMap<u64, usize>,
    /// Where buffers are that are in flight: what it may touch besides.
    pub buffers: BTreeMap<u64, usize>,
    pub medium: Vec<u8>,
    /// Accesses outside both: must be none.
    pub wrong: Vec<String>,
    pub doorbells: usize,
    pub block_shift: u8,
}

pub struct Model {
    state: Mutex<State>,
    clock: AtomicU64,
}

pub const BLOCKS: u64 = 2048;

#[derive(Clone)]
pub struct Handle(pub Arc<Model>);

impl Handle {
    pub fn new(block_shift: u8) -> Self {
        let state = State {
            lie: Lie::Honest,
            configuration: 0,
            status: 0,
            admin: [0; 5],
            bus_master: true,
            pairs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            pending: VecDeque::new(),
            at_once: true,
            allocated: BTreeMap::new(),
            buffers: BTreeMap::new(),
            medium: vec![0; (BLOCKS as usize) << block_shift],
            wrong: Vec::new(),
            doorbells: 0,
            block_shift,
        };
        Handle(Arc::new(Model { state: Mutex::new(state), clock: AtomicU64::new(0) }))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one of the pending commands, if there is one.
    pub fn carry_out(&self, which: usize) -> bool {
        let mut state = self.state();
        if state.pending.is_empty() {
            return false;
        }
        let which = which % state.pending.len();
        let (queue, entry) = state.pending.remove(which).expect("below the length");
        state.io(queue, &entry);
        true
    }
}

impl State {
    /// A pointer to memory that the device may touch now.
    fn reach(&mut self, bus: u64, bytes: usize) -> Option<*mut u8> {
        let holds = |map: &BTreeMap<u64, usize>| {
            map.range(..=bus).next_back().is_some_and(|(start, len)| bus + bytes as u64 <= start + *len as u64)
        };
        if !self.bus_master || !(holds(&self.allocated) || holds(&self.buffers)) {
            self.wrong.push(format!("{bytes} bytes at {bus:#x}, bus master {}", self.bus_master));
            return None;
        }
        Some(bus as *mut u8)
    }

    fn load(&mut self, bus: u64, bytes: usize) -> Vec<u8> {
        let Some(from) = self.reach(bus, bytes) else { return vec![0; bytes] };
        // SAFETY: allocated, and so long (`reach`).
        unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec()
    }

    fn store(&mut self, bus: u64, data: &[u8]) {
        if let Some(to) = self.reach(bus, data.len()) {
            // SAFETY: as above; the trusted layer lets nobody else write there.
            unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        }
    }

    /// Where a command's data are, by its PRP entries: pieces within pages.
    fn pieces(&mut self, entry: &[u32; 16], bytes: usize) -> Vec<(u64, usize)> {
        let long = |at: usize| u64::from(entry[at]) | u64::from(entry[at + 1]) << 32;
        let (first, second) = (long(6), long(8));
        let in_first = (4096 - (first % 4096) as usize).min(bytes);
        let mut pieces = vec![(first, in_first)];
        let mut left = bytes - in_first;
        if left > 4096 {
            let mut list = second;
            while left > 0 {
                let at = u64::from_le_bytes(self.load(list, 8).try_into().expect("eight"));
                if at % 4096 != 0 {
                    self.wrong.push(format!("a list entry amid a page: {at:#x}"));
                }
                pieces.push((at, left.min(4096)));
                left -= left.min(4096);
                list += 8;
                if list % 4096 == 0 && left > 0 {
                    self.wrong.push("a list that crosses a page".into());
                }
            }
        } else if left > 0 {
            pieces.push((second, left));
        }
        pieces
    }

    fn complete(&mut self, queue: u16, number: u16, status: u16, result: u32) {
        let named = if self.lie == Lie::OtherQueue && queue > 0 { queue + 1 } else { queue };
        let Some(pair) = self.pairs.get_mut(&queue) else { return };
        let at = pair.completion.base + 16 * u64::from(pair.completion.index);
        let mut data = Vec::new();
        for word in [
            result,
            0,
            pair.submission.index | u32::from(named) << 16,
            u32::from(number) | u32::from(pair.phase) << 16 | u32::from(status) << 17,
        ] {
            data.extend(word.to_le_bytes());
        }
        pair.completion.index += 1;
        if pair.completion.index == pair.completion.entries {
            pair.completion.index = 0;
            pair.phase = !pair.phase;
        }
        assert_ne!(pair.completion.index, pair.completion_head, "the completion queue overflows");
        self.store(at, &data);
    }

    fn io(&mut self, queue: u16, entry: &[u32; 16]) {
        let (opcode, number) = (entry[0] as u8, (entry[0] >> 16) as u16);
        let status = match self.lie {
            Lie::Silent => return,
            Lie::Refuses(status) => status,
            Lie::Invented => {
                self.complete(queue, number ^ 0x3FF, 0, 0);
                0
            }
            _ => self.carry(opcode, entry),
        };
        self.complete(queue, number, status, 0);
        if self.lie == Lie::Twice {
            self.complete(queue, number, status, 0);
        }
    }

    fn carry(&mut self, opcode: u8, entry: &[u32; 16]) -> u16 {
        let shift = self.block_shift;
        let (block, blocks) = (u64::from(entry[10]) | u64::from(entry[11]) << 32, u64::from(entry[12] & 0xFFFF) + 1);
        if matches!(opcode, 1 | 2 | 8) && block.checked_add(blocks).is_none_or(|end| end > BLOCKS) {
            return 0x80;
        }
        let (mut at, bytes) = ((block << shift) as usize, (blocks << shift) as usize);
        match opcode {
            1 | 2 => {
                for (bus, len) in self.pieces(entry, bytes) {
                    if opcode == 1 {
                        let data = self.load(bus, len);
                        self.medium[at..at + len].copy_from_slice(&data);
                    } else {
                        let data = self.medium[at..at + len].to_vec();
                        self.store(bus, &data);
                    }
                    at += len;
                }
            }
            8 => self.medium[at..at + bytes].fill(0),
            9 => {
                let bus = u64::from(entry[6]) | u64::from(entry[7]) << 32;
                let range = self.load(bus, 16);
                let length = u32::from_le_bytes(range[4..8].try_into().expect("four")) as usize;
                let first = u64::from_le_bytes(range[8..16].try_into().expect("eight")) as usize;
                if (first + length) as u64 > BLOCKS {
                    return 0x80;
                }
                self.medium[first << shift..(first + length) << shift].fill(0);
            }
            _ => {}
        }
        0
    }

    fn admin_command(&mut self, entry: &[u32; 16]) {
        let (opcode, number) = (entry[0] as u8, (entry[0] >> 16) as u16);
        let data = u64::from(entry[6]) | u64::from(entry[7]) << 32;
        let (id, entries) = (entry[10] as u16, (entry[10] >> 16) + 1);
        let result = match opcode {
            0x05 => {
                self.waiting.insert(id, Ring { base: data, entries, index: 0 });
                0
            }
            0x01 => {
                let Some(completion) = self.waiting.remove(&id) else { return self.complete(0, number, 0x100, 0) };
                let submission = Ring { base: data, entries, index: 0 };
                self.pairs.insert(id, Pair { submission, completion, phase: true, completion_head: 0 });
                0
            }
            0x06 => {
                let mut page = vec![0; 4096];
                if entry[10] & 0xFF == 1 {
                    page[4..24].copy_from_slice(b"MODEL-1             ");
                    page[516] = 1;
                } else {
                    page[..8].copy_from_slice(&BLOCKS.to_le_bytes());
                    page[130] = self.block_shift;
                }
                self.store(data, &page);
                0
            }
            0x09 => entry[11],
            // Abort: what hasn't been carried out yet comes to an end as aborted on request.
            0x08 => {
                let wanted = (entry[10] as u16, (entry[10] >> 16) as u16);
                let at = self.pending.iter().position(|(queue, entry)| (*queue, (entry[0] >> 16) as u16) == wanted);
                if let Some((queue, entry)) = at.and_then(|at| self.pending.remove(at)) {
                    self.complete(queue, (entry[0] >> 16) as u16, 0x07, 0);
                }
                u32::from(at.is_none())
            }
            // Asynchronous events never come.
            0x0C => return,
            _ => 0,
        };
        self.complete(0, number, 0, result);
        if self.lie == Lie::Twice {
            self.complete(0, number, 0, result);
        }
    }

    fn doorbell(&mut self, index: u32, value: u32) {
        self.doorbells += 1;
        let id = (index / 2) as u16;
        let Some(pair) = self.pairs.get_mut(&id) else {
            return self.wrong.push(format!("doorbell {index} of no queue"));
        };
        if index % 2 == 1 {
            pair.completion_head = value;
            return;
        }
        let mut ring = pair.submission;
        pair.submission.index = value;
        while ring.index != value {
            let bytes = self.load(ring.base + 64 * u64::from(ring.index), 64);
            let mut entry = [0; 16];
            for (word, bytes) in entry.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_le_bytes(bytes.try_into().expect("four"));
            }
            ring.index = (ring.index + 1) % ring.entries;
            match id {
                0 => self.admin_command(&entry),
                _ if self.at_once => self.io(id, &entry),
                _ => self.pending.push_back((id, entry)),
            }
        }
    }

    fn configure(&mut self, value: u32) {
        let was = self.configuration;
        self.configuration = value;
        if self.lie == Lie::Stuck {
            return;
        }
        if value >> 14 & 3 == 1 {
            self.status = self.status & !0xC | 0x8;
        }
        if was & 1 == 0 && value & 1 == 1 {
            let [sizes, submission, submission_high, completion, completion_high] = self.admin;
            let long = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            let ring = |base, entries| Ring { base, entries, index: 0 };
            let pair = Pair {
                submission: ring(long(submission, submission_high), (sizes & 0xFFF) + 1),
                completion: ring(long(completion, completion_high), (sizes >> 16 & 0xFFF) + 1),
                phase: true,
                completion_head: 0,
            };
            self.pairs.insert(0, pair);
            self.status |= 1;
        } else if value & 1 == 0 {
            self.pairs.clear();
            self.waiting.clear();
            self.pending.clear();
            self.status = 0;
        }
    }
}

// SAFETY: `allocate` gives zeroed, page-aligned memory of the process, whose address is the bus address; and without bus mastering the model touches nothing (`reach`).
unsafe impl Hardware for Handle {
    fn identity(&self) -> Identity {
        Identity { vendor: 0x1b36, device: 0x10, vectors: 0 }
    }

    fn bar_bytes(&self) -> u32 {
        0x4000
    }

    fn read(&self, offset: u32) -> u32 {
        let state = self.state();
        match offset {
            _ if state.lie == Lie::Gone => u32::MAX,
            // Queues of 256 entries, 1 s, doorbells of 4 bytes, NVM commands.
            0x00 => 255 | 2 << 24,
            0x04 => 1 << 5,
            0x08 => 0x0002_0000,
            0x14 => state.configuration,
            0x1C => state.status,
            _ => 0,
        }
    }

    unsafe fn write(&self, offset: u32, value: u32) {
        let mut state = self.state();
        match offset {
            _ if state.lie == Lie::Gone => {}
            0x14 => state.configure(value),
            0x24 => state.admin[0] = value,
            0x28..0x38 => state.admin[1 + (offset as usize - 0x28) / 4] = value,
            0x1000.. => state.doorbell((offset - 0x1000) / 4, value),
            _ => {}
        }
    }

    fn set_bus_master(&self, on: bool) {
        self.state().bus_master = on;
    }

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let layout = Layout::from_size_align(bytes.next_multiple_of(4096), 4096).ok()?;
        // SAFETY: the size isn't 0.
        let address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let bus = address.addr().get() as u64;
        self.state().allocated.insert(bus, layout.size());
        Some(DmaMemory { address, bus, bytes: layout.size() })
    }

    unsafe fn free(&self, memory: DmaMemory) {
        let mut state = self.state();
        if state.bus_master {
            state.wrong.push("memory is freed that the device reaches".into());
        }
        state.allocated.remove(&memory.bus);
        let layout = Layout::from_size_align(memory.bytes, 4096).expect("as allocated");
        // SAFETY: from `allocate`.
        unsafe { dealloc(memory.address.as_ptr(), layout) }
    }

    fn vector(&self, _: u16, _: u16) -> Result<Box<dyn NvmeVector>, DeviceError> {
        Err(DeviceError::NoSuchQueue)
    }

    fn delay_micros(&self, micros: u32) {
        self.0.clock.fetch_add(u64::from(micros) * 1_000, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.clock.load(Ordering::Relaxed)
    }
}
