//! The front-end for drivers that run natively: BAR 0 is memory that driver and model share, and the model looks at it again and again.
//!
//! A driver's access is a plain load or store, so its cycles are its own. What a bus would do is missed in three ways, and a driver under test must not depend on them:
//!
//! - A read has no effect and always finds what the model has put there last. Statistics that clear on read read as zero.
//! - A write is seen at the next look; the same value written twice between two looks, or two values by two CPUs, is one write. Registers that take single bits (EIMS, EICR
//!   and their kind) are shown as zero, so that every write to them is a change.
//! - Writes seen at one look are taken in an order of their own: plain registers, then enable bits, then masks and tails. As each driver enables and kicks after it has
//!   set up, and a second look finds all that was written before what the first one found, this is an order that the driver could have meant.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed, fence},
};

use rustix::mm::{MapFlags, ProtFlags};

use crate::{
    bank::statistic,
    nic::Nic,
    registers::*,
    surroundings::{DmaMemory, Interrupts, Wire},
};

const WORDS: usize = BAR_SIZE as usize / 4;
/// Looks at the hot registers between two at all of them.
const LOOKS_PER_SCAN: u32 = 64;

/// Memory that stands for BAR 0.
pub struct SharedBar(NonNull<AtomicU32>);

// SAFETY: [shared mapping] the words are atomics, in a mapping that lives as long as the process.
unsafe impl Send for SharedBar {}
// SAFETY: as above.
unsafe impl Sync for SharedBar {}

impl SharedBar {
    /// Memory of this process.
    pub fn anonymous() -> io::Result<SharedBar> {
        Self::of(&rustix::fs::memfd_create("bar0", rustix::fs::MemfdFlags::CLOEXEC)?)
    }

    /// A file that another process maps, such as the `resource0` of a made-up sysfs folder.
    pub fn at(path: &Path) -> io::Result<SharedBar> {
        Self::of(File::options().read(true).write(true).create(true).truncate(true).open(path)?)
    }

    fn of(file: impl AsFd) -> io::Result<SharedBar> {
        rustix::fs::ftruncate(&file, u64::from(BAR_SIZE))?;
        // SAFETY: [shared mapping] a fresh mapping at an address of the system's choice, never unmapped.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                BAR_SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        Ok(SharedBar(NonNull::new(mapped.cast()).ok_or(io::ErrorKind::OutOfMemory)?))
    }

    /// Where a driver of this process finds the registers.
    pub fn address(&self) -> NonNull<u8> {
        self.0.cast()
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: [shared mapping] `WORDS` words, mapped for good.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), WORDS) }
    }
}

/// The model behind a shared BAR.
pub struct Poller<M, W, I> {
    nic: Nic<M, W, I>,
    bar: SharedBar,
    /// What the model has put there, or has taken from there, last.
    shown: Box<[u32]>,
    /// Words that are looked at every time: tails of queues that are on, masks, resets.
    hot: Vec<usize>,
    looks: u32,
    changed: Vec<usize>,
}

impl<M: DmaMemory, W: Wire, I: Interrupts> Poller<M, W, I> {
    pub fn new(nic: Nic<M, W, I>, bar: SharedBar) -> Self {
        let shown = vec![0; WORDS].into();
        let mut poller = Poller { nic, bar, shown, hot: vec![], looks: 0, changed: vec![] };
        poller.show_all();
        poller
    }

    pub fn bar(&self) -> &SharedBar {
        &self.bar
    }

    /// The model itself: its clock, wire, configuration space. What it changes in registers is shown at the next look.
    pub fn nic(&mut self) -> &mut Nic<M, W, I> {
        &mut self.nic
    }

    /// Takes what the driver has written, lets the device work, and shows what has changed. Returns whether the wire may have more.
    pub fn look(&mut self) -> bool {
        self.looks += 1;
        let scan = self.looks >= LOOKS_PER_SCAN;
        if scan {
            self.looks = 0;
        }
        if scan || self.hot.iter().any(|&word| self.differs(word)) {
            self.take(scan);
        }
        let more = self.nic.process();
        self.show_hot();
        if scan {
            self.show(RXMEMWRAP as usize / 4);
        }
        more
    }

    /// As [`Poller::look`], seeing every register.
    pub fn look_at_all(&mut self) -> bool {
        self.looks = LOOKS_PER_SCAN;
        self.look()
    }

    #[inline]
    fn differs(&self, word: usize) -> bool {
        self.bar.words()[word].load(Relaxed) != self.shown[word]
    }

    /// Finds the registers that the driver has written, and hands them to the device.
    fn take(&mut self, scan: bool) {
        if !scan && self.take_at_once() {
            return;
        }
        if !(0..WORDS).any(|word| self.differs(word)) {
            return;
        }
        // All that was written before what has just been seen is there by now (x86 keeps stores in order).
        fence(std::sync::atomic::Ordering::SeqCst);
        let mut changed = std::mem::take(&mut self.changed);
        changed.extend((0..WORDS).filter(|&word| self.differs(word)));
        changed.sort_by_key(|&word| (rank(word), word));
        for word in changed.drain(..) {
            let value = self.bar.words()[word].load(Relaxed);
            self.shown[word] = value;
            self.nic.write32(word as u32 * 4, value);
        }
        self.changed = changed;
        self.show_all();
    }

    /// The common case: nothing has been written but what rests on no other register. False if it isn't so.
    fn take_at_once(&mut self) -> bool {
        if self.hot.iter().any(|&word| ALWAYS_HOT.contains(&(word as u32 * 4)) && self.differs(word)) {
            return false;
        }
        for at in 0..self.hot.len() {
            let word = self.hot[at];
            let value = self.bar.words()[word].load(Relaxed);
            if value != self.shown[word] {
                self.shown[word] = value;
                self.nic.write32(word as u32 * 4, value);
            }
        }
        true
    }

    /// Shows one register, unless the driver has just written it.
    #[inline]
    fn show(&mut self, word: usize) {
        let value = self.nic.peek32(word as u32 * 4);
        let shown = self.shown[word];
        if value != shown && self.bar.words()[word].compare_exchange(shown, value, Relaxed, Relaxed).is_ok() {
            self.shown[word] = value;
        }
    }

    fn show_all(&mut self) {
        // CTRL is the first word and comes last: a driver that finds its reset done finds all of it done.
        (0..WORDS).rev().for_each(|word| self.show(word));
        self.hot.clear();
        self.hot.extend(ALWAYS_HOT.iter().map(|offset| *offset as usize / 4));
        for queue in 0..QUEUES {
            for (control, tail) in [(rx(queue, RXDCTL), rx(queue, RDT)), (tx(queue, TXDCTL), tx(queue, TDT))] {
                if self.nic.peek32(control) & DCTL_ENABLE != 0 {
                    self.hot.push(tail as usize / 4);
                }
            }
            if self.nic.peek32(rx(queue, RXDCTL)) & DCTL_ENABLE != 0 {
                // Whether frames without a descriptor are dropped changes while the queue is on. The register has two addresses.
                let aliases = (0x2100..0x2140).step_by(4).filter(|&alias| canonical(alias) == rx(queue, SRRCTL));
                self.hot.extend(aliases.chain([rx(queue, SRRCTL)]).map(|offset| offset as usize / 4));
            }
        }
    }

    /// What changes by itself.
    fn show_hot(&mut self) {
        for at in 0..self.hot.len() {
            let word = self.hot[at];
            // A queue's head stands two words before its tail.
            let word = if is_tail(word) { word - 2 } else { word };
            self.show(word);
        }
        for offset in [LINKS, STATUS] {
            self.show(offset as usize / 4);
        }
    }
}

/// Registers that a driver writes at any time and wants to be seen at once, besides tails.
const ALWAYS_HOT: &[u32] = &[CTRL, EICR, EICS, EIMS, EIMC, EIMS_EX, EIMS_EX + 4, EIMC_EX, EIMC_EX + 4];

fn is_tail(word: usize) -> bool {
    let offset = word as u32 * 4;
    matches!(receive_queue(offset), Some((_, RDT))) || matches!(transmit_queue(offset), Some((_, TDT)))
}

/// When a write is taken among those that were found together.
fn rank(word: usize) -> u32 {
    let offset = word as u32 * 4;
    match offset {
        CTRL => 0,
        RXCTRL | DMATXCTL => 2,
        _ if matches!(receive_queue(offset), Some((_, RXDCTL))) => 3,
        _ if matches!(transmit_queue(offset), Some((_, TXDCTL))) => 3,
        _ if is_tail(word) || ALWAYS_HOT.contains(&offset) => 4,
        _ => 1,
    }
}

impl<M: DmaMemory, W: Wire, I: Interrupts> Nic<M, W, I> {
    /// What a shared BAR shows of a register: reading it has no effect.
    fn peek32(&mut self, offset: u32) -> u32 {
        match canonical(offset) {
            EICR | EIMS | EIMC | EIMS_EX..EIMS_END | EIMC_EX..EIMC_END => 0,
            SWSM | SW_FW_SYNC => self.stored(offset),
            register if statistic::clears_on_read(register) => 0,
            _ => self.read32(offset),
        }
    }
}

/// Both halves of the extended masks.
const EIMS_END: u32 = EIMS_EX + 8;
const EIMC_END: u32 = EIMC_EX + 8;
