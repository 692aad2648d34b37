//! Intel's IOMMU (VT-d): a device reaches what it was granted, and nothing else. Sections are those of the VT-d specification 4.1.
//!
//! From [`confine`] on no device gets through to memory but by [`grant`]; one that tries is refused by the hardware, and said to have tried in the log. Bus addresses remain physical
//! ones. Interrupts are not remapped: a device sends them by itself to the addresses 0xfee..., which translation leaves alone (§3.14).

use alloc::vec::Vec;
use core::{
    arch::x86_64::{_mm_clflush, _mm_mfence},
    sync::atomic::{AtomicBool, Ordering},
};

use kernel_core::{
    interrupt::Vector,
    log::{self, Level},
    platform::{DmaMemory, NEVER, Priority},
    thread::ThreadBlock,
};
use metal::{
    acpi::{Acpi, RemappingUnit, Scope},
    reach::{Reach, TableMemory},
};

use crate::{
    clock, cpu, interrupt,
    lock::SpinLock,
    memory::{self, Owner, paging},
    pci::{Address, header},
    platform, report,
};

/// Registers (§11.4).
mod register {
    pub const CAPABILITIES: usize = 0x08;
    pub const MORE_CAPABILITIES: usize = 0x10;
    pub const COMMAND: usize = 0x18;
    pub const STATUS: usize = 0x1c;
    pub const ROOT_TABLE: usize = 0x20;
    pub const CONTEXT_COMMAND: usize = 0x28;
    pub const FAULT_STATUS: usize = 0x34;
    pub const FAULT_CONTROL: usize = 0x38;
    pub const FAULT_DATA: usize = 0x3c;
    pub const FAULT_ADDRESS: usize = 0x40;
    pub const FAULT_ADDRESS_HIGH: usize = 0x44;
    pub const PROTECTED_MEMORY: usize = 0x64;
    pub const QUEUE_HEAD: usize = 0x80;
    pub const QUEUE_TAIL: usize = 0x88;
    pub const QUEUE: usize = 0x90;
}

/// Of `COMMAND` and `STATUS` (§11.4.4).
const TRANSLATE: u32 = 1 << 31;
const SET_ROOT_TABLE: u32 = 1 << 30;
const FLUSH_WRITE_BUFFER: u32 = 1 << 27;
const QUEUE_INVALIDATIONS: u32 = 1 << 26;
const REMAP_INTERRUPTS: u32 = 1 << 25;
/// The bits of `STATUS` that are to be written back with a command; the others are one-shot.
const LASTING: u32 = 0x96ff_ffff;

/// Of `CONTEXT_COMMAND` (§11.4.5): invalidate, all of it.
const INVALIDATE_CONTEXTS: u64 = 1 << 63 | 1 << 61;
/// Of the IOTLB's register (§11.4.6): invalidate, all or one space's, and wait until reads and writes under way are done.
const INVALIDATE: u64 = 1 << 63;
const EVERYTHING: u64 = 1 << 60;
const ONE_SPACE: u64 = 2 << 60;
/// Of one space, the page that the register before is told.
const ONE_PAGE: u64 = 3 << 60;
const DRAIN: u64 = 1 << 49 | 1 << 48;

/// Of a context entry (§9.3) and of a root entry (§9.1).
const PRESENT: u64 = 1;
const FAULTS_UNSAID: u64 = 1 << 1;

/// Faults of one device that are said; then it is known, and a flood of them would only drown the log.
const SAID: u32 = 8;
/// Pages that are told one by one, at most.
const TOLD_BY_PAGE: usize = 256;
/// The hardware answers within microseconds.
const PATIENCE: u64 = 1_000_000_000;

/// What a device is translated by.
struct Space {
    device: Address,
    reach: Reach,
    /// Tags the IOTLB's entries. 0 is reserved where non-present entries are cached (§6.1).
    id: u16,
    faults: u32,
}

struct Unit {
    described: RemappingUnit,
    registers: *mut u8,
    root: u64,
    levels: u32,
    tables: Tables,
    /// It remembers that something was not there, too: what is granted has to be told to it (caching mode, §6.1).
    remembers_absence: bool,
    /// It can be told to forget one page.
    forgets_pages: bool,
    must_flush_writes: bool,
    iotlb: usize,
    faults: usize,
    fault_records: usize,
    /// Spaces that it can tell apart.
    room: usize,
    spaces: Vec<Space>,
}

// SAFETY: registers are device memory, used under the lock of `UNITS`.
unsafe impl Send for Unit {}

static DESCRIBED: SpinLock<Vec<RemappingUnit>> = SpinLock::new(Vec::new());
static UNITS: SpinLock<Vec<Unit>> = SpinLock::new(Vec::new());
static CONFINED: AtomicBool = AtomicBool::new(false);
static FAULT: Vector = Vector::new();

/// Remembers what the firmware says; nothing is switched on.
pub fn find(acpi: &Acpi) {
    *DESCRIBED.lock() = acpi.iommus.clone();
}

/// Leaves the units as firmware may that has used them: with a queue of invalidations, whose last entry was one to wait for (§6.5.2.8). For the self-test, before [`confine`]; the
/// memory stays theirs.
pub fn leave_as_firmware_does() {
    const WAIT: u64 = 5;
    const WRITE_WHEN_DONE: u64 = 1 << 5;
    for mut unit in DESCRIBED.lock().clone().into_iter().filter_map(Unit::prepare) {
        let Some(queue) = unit.tables.take() else { continue };
        unit.tables.write(queue, 0, WAIT | WRITE_WHEN_DONE | 1 << 32);
        unit.tables.write(queue, 1, queue + memory::PAGE / 2);
        unit.write(register::QUEUE, queue);
        unit.command(QUEUE_INVALIDATIONS, QUEUE_INVALIDATIONS);
        unit.write(register::QUEUE_TAIL, 16u64);
        unit.wait_until("its queue", |unit| unit.read::<u64>(register::QUEUE_HEAD) == 16);
    }
}

/// Switches translation on in all units. False, and nothing is changed, if there is none or one that can't be used. Called by a thread.
pub fn confine() -> bool {
    if CONFINED.load(Ordering::Acquire) {
        return true;
    }
    let described = DESCRIBED.lock().clone();
    let units: Option<Vec<Unit>> = described.into_iter().map(Unit::prepare).collect();
    let Some(mut units) = units.filter(|units| !units.is_empty()) else { return false };
    let route = interrupt::attach(0, &FAULT);
    let target = cpu::get(0).and_then(|cpu| u8::try_from(cpu.apic).ok());
    for unit in &mut units {
        unit.start();
        if let (Some(route), Some(target)) = (route, target) {
            unit.send_faults_to(route.vector, target);
        }
    }
    report!("iommu    {} units, {} levels", units.len(), units[0].levels);
    *UNITS.lock() = units;
    CONFINED.store(true, Ordering::Release);
    platform::start_resident(0, Priority::Normal, tell_faults);
    true
}

/// Lets a device to memory, all of it or none. False: no unit stands before it, or there is no room in its tables. Where nothing is confined there is nothing to do.
pub fn grant(device: Address, memory: &[DmaMemory]) -> bool {
    change(device, memory, |reach, tables| {
        let granted = memory.iter().take_while(|run| reach.grant(tables, run.bus, run.pages as u64)).count();
        if granted < memory.len() {
            memory[..granted].iter().for_each(|run| reach.revoke(tables, run.bus, run.pages as u64));
        }
        granted == memory.len()
    })
}

/// Makes room in a device's tables for memory that it doesn't reach by that. False as for [`grant`].
pub fn reserve(device: Address, memory: &[DmaMemory]) -> bool {
    change(device, memory, |reach, tables| memory.iter().all(|run| reach.reserve(tables, run.bus, run.pages as u64)))
}

/// Adds to a device's tables by `add`, which says whether it was able to; what it has made is the unit's to see when this returns.
fn change(device: Address, memory: &[DmaMemory], add: impl FnOnce(Reach, &mut Tables) -> bool) -> bool {
    if !CONFINED.load(Ordering::Acquire) {
        return true;
    }
    let mut units = UNITS.lock();
    let known = known(&units, device);
    let unit = match known {
        Some((unit, _)) => units.get_mut(unit),
        None => unit_of(&mut units, device),
    };
    let Some(unit) = unit else { return false };
    let Some(space) = known.map(|(_, space)| space).or_else(|| unit.space(device)) else { return false };
    let (reach, id) = (unit.spaces[space].reach, unit.spaces[space].id);
    let added = add(reach, &mut unit.tables);
    // What was half granted and taken back it may have seen meanwhile.
    if unit.remembers_absence || !added {
        unit.forget(id, memory);
    } else if unit.must_flush_writes {
        unit.command(FLUSH_WRITE_BUFFER, 0);
    }
    added
}

/// Takes memory out of a device's reach; when this returns, it has no access to it under way. The unit forgets once, however many pieces there are.
pub fn revoke(device: Address, memory: &[DmaMemory]) {
    if !CONFINED.load(Ordering::Acquire) {
        return;
    }
    let mut units = UNITS.lock();
    let Some((unit, space)) = known(&units, device) else { return };
    let unit = &mut units[unit];
    let (reach, id) = (unit.spaces[space].reach, unit.spaces[space].id);
    memory.iter().for_each(|run| reach.revoke(&mut unit.tables, run.bus, run.pages as u64));
    unit.forget(id, memory);
}

/// Where a device's space is, by the indexes of its unit and itself, if it has one: without a look at the bus, which takes long.
fn known(units: &[Unit], device: Address) -> Option<(usize, usize)> {
    units
        .iter()
        .enumerate()
        .find_map(|(at, unit)| Some((at, unit.spaces.iter().position(|space| space.device == device)?)))
}

/// The unit that stands before a device: the one that names it, else the one before the rest of its segment.
fn unit_of(units: &mut [Unit], device: Address) -> Option<&mut Unit> {
    let of_segment = |unit: &&mut Unit| unit.described.segment == device.segment;
    let named = units.iter().position(|unit| {
        unit.described.segment == device.segment && unit.described.scopes.iter().any(|scope| covers(scope, device))
    });
    match named {
        Some(named) => units.get_mut(named),
        None => units.iter_mut().filter(of_segment).find(|unit| unit.described.rest),
    }
}

/// Walks down the scope's path by the bus numbers that the firmware has given to bridges.
fn covers(scope: &Scope, device: Address) -> bool {
    let Some(((last_device, last_function), bridges)) = scope.path.split_last() else { return false };
    let buses_of = |bus, (device_number, function): (u8, u8)| {
        Address { segment: device.segment, bus, device: device_number, function }.read(header::BUSES)
    };
    let bus = bridges.iter().fold(scope.bus, |bus, step| (buses_of(bus, *step) >> 8) as u8);
    if (device.bus, device.device, device.function) == (bus, *last_device, *last_function) {
        return true;
    }
    let buses = buses_of(bus, (*last_device, *last_function));
    let (secondary, subordinate) = ((buses >> 8) as u8, (buses >> 16) as u8);
    scope.bridge && (secondary..=subordinate).contains(&device.bus)
}

impl Unit {
    /// Reads what it can do. `None`: it can't do what we need, and says so.
    fn prepare(described: RemappingUnit) -> Option<Self> {
        let first = paging::map_device(described.registers, memory::PAGE).ok()?;
        // SAFETY: the unit's first page of registers (§11.4).
        let read = |offset: usize| unsafe { first.add(offset).cast::<u64>().read_volatile() };
        let (capabilities, more) = (read(register::CAPABILITIES), read(register::MORE_CAPABILITIES));
        // Bit 1: tables of three levels; bit 2: of four (§11.4.2).
        let levels = match capabilities >> 8 & 0x1f {
            widths if widths & 1 << 2 != 0 => 4,
            widths if widths & 1 << 1 != 0 => 3,
            _ => {
                report!("iommu    the unit at {:#x} walks neither 3 nor 4 levels", described.registers);
                return None;
            }
        };
        let iotlb = (more >> 8 & 0x3ff) as usize * 16;
        let faults = (capabilities >> 24 & 0x3ff) as usize * 16;
        let fault_records = (capabilities >> 40 & 0xff) as usize + 1;
        let end = (iotlb + 16).max(faults + 16 * fault_records).next_multiple_of(memory::PAGE as usize);
        let registers = paging::map_device(described.registers, end as u64).ok()?;
        let mut tables = Tables { coherent: more & 1 != 0 };
        Some(Self {
            described,
            registers,
            root: tables.take()?,
            levels,
            tables,
            remembers_absence: capabilities & 1 << 7 != 0,
            forgets_pages: capabilities & 1 << 39 != 0,
            must_flush_writes: capabilities & 1 << 4 != 0,
            iotlb,
            faults,
            fault_records,
            room: 1 << (4 + 2 * (capabilities & 7)),
            spaces: Vec::new(),
        })
    }

    fn read<T>(&self, offset: usize) -> T {
        // SAFETY: a register of the unit, mapped by `prepare`; `T` is u32 or u64, as wide as the register.
        unsafe { self.registers.add(offset).cast::<T>().read_volatile() }
    }

    fn write<T>(&self, offset: usize, value: T) {
        // SAFETY: as in `read`. What the unit does with it is confined by this module, which points it at tables of its own only.
        unsafe { self.registers.add(offset).cast::<T>().write_volatile(value) }
    }

    fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = clock::now() + PATIENCE;
        while !done(self) {
            assert!(clock::now() < deadline, "the IOMMU at {:#x} does not answer: {what}", self.described.registers);
            core::hint::spin_loop();
        }
    }

    /// Gives a command with all that lasts, and waits until the status says that it is done (`expected` of the command's bit).
    fn command(&self, bit: u32, expected: u32) {
        let lasting = self.read::<u32>(register::STATUS) & LASTING;
        self.write(register::COMMAND, lasting | bit);
        self.wait_until("a command", |unit| unit.read::<u32>(register::STATUS) & bit == expected);
    }

    /// Firmware may have left it on, for the devices that it used: these are silent by now. Interrupts are not remapped here; and as long as there is a queue of
    /// invalidations, the registers for them mean nothing (§6.5.2).
    fn start(&mut self) {
        for left_on in [TRANSLATE, REMAP_INTERRUPTS, QUEUE_INVALIDATIONS] {
            let status = self.read::<u32>(register::STATUS);
            if status & left_on != 0 {
                self.write(register::COMMAND, status & LASTING & !left_on);
                self.wait_until("off", |unit| unit.read::<u32>(register::STATUS) & left_on == 0);
            }
        }
        // With the root table of legacy mode (§9.1): bits 11:10 are 0.
        self.write(register::ROOT_TABLE, self.root);
        self.command(SET_ROOT_TABLE, SET_ROOT_TABLE);
        self.forget_everything();
        self.command(TRANSLATE, TRANSLATE);
        // What firmware closed to all devices (§11.4.8) is closed by the tables now.
        let protected = self.read::<u32>(register::PROTECTED_MEMORY);
        if protected & 1 != 0 {
            self.write(register::PROTECTED_MEMORY, protected & !(1 << 31));
        }
    }

    fn forget_everything(&self) {
        self.write(register::CONTEXT_COMMAND, INVALIDATE_CONTEXTS);
        self.wait_until("contexts", |unit| unit.read::<u64>(register::CONTEXT_COMMAND) & INVALIDATE == 0);
        self.invalidate(EVERYTHING);
    }

    /// What it remembers of this memory in a space is looked up again, and no access by what it remembered is under way. That is one invalidation of the whole space; but a unit that
    /// remembers absences is a virtual one (§6.1), which goes through all tables for that, and so is told a few pages one by one.
    fn forget(&self, id: u16, memory: &[DmaMemory]) {
        let space = u64::from(id) << 32;
        let pages = memory.iter().flat_map(|run| (0..run.pages as u64).map(|page| run.bus + page * memory::PAGE));
        if !(self.remembers_absence && self.forgets_pages) || pages.clone().count() > TOLD_BY_PAGE {
            return self.invalidate(ONE_SPACE | space);
        }
        for page in pages {
            self.write(self.iotlb, page);
            self.invalidate(ONE_PAGE | space);
        }
    }

    fn invalidate(&self, which: u64) {
        if self.must_flush_writes {
            self.command(FLUSH_WRITE_BUFFER, 0);
        }
        let iotlb = self.iotlb + 8;
        self.write(iotlb, INVALIDATE | DRAIN | which);
        self.wait_until("IOTLB", |unit| unit.read::<u64>(iotlb) & INVALIDATE == 0);
    }

    /// The place of the device's context entry, as table and index of its first half. Its table is made if it isn't there.
    fn context(&mut self, device: Address) -> Option<(u64, u64)> {
        let bus = u64::from(device.bus) * 2;
        let table = match self.tables.read(self.root, bus) {
            0 => {
                let table = self.tables.take()?;
                self.tables.write(self.root, bus, table | PRESENT);
                table
            }
            entry => entry & !0xfff,
        };
        Some((table, (u64::from(device.device) << 3 | u64::from(device.function)) * 2))
    }

    /// The device's space, by its index; an empty one if it has none yet. `None`: there is no room.
    fn space(&mut self, device: Address) -> Option<usize> {
        if let Some(known) = self.spaces.iter().position(|space| space.device == device) {
            return Some(known);
        }
        let id = self.spaces.len() + 1;
        if id >= self.room {
            return None;
        }
        let (table, index) = self.context(device)?;
        let reach = Reach::new(&mut self.tables, self.levels)?;
        // Width 2 stands for four levels, 1 for three; translation type 0 is by second-stage tables alone.
        let width = u64::from(self.levels) - 2;
        self.tables.write(table, index + 1, (id as u64) << 8 | width);
        self.tables.write(table, index, reach.root() | PRESENT);
        self.forget_everything();
        self.spaces.push(Space { device, reach, id: id as u16, faults: 0 });
        Some(id - 1)
    }

    fn send_faults_to(&self, vector: u8, apic: u8) {
        self.write(register::FAULT_DATA, u32::from(vector));
        self.write(register::FAULT_ADDRESS, 0xfee0_0000 | u32::from(apic) << 12);
        self.write(register::FAULT_ADDRESS_HIGH, 0u32);
        self.write(register::FAULT_CONTROL, 0u32);
    }

    /// Takes the records of faults (§11.4.14): who, where, and whether it was a write.
    fn take_faults(&mut self) -> Vec<(Address, u64, bool)> {
        const RECORDED: u64 = 1 << 63;
        const WAS_READ: u64 = 1 << 62;
        const OVERFLOW: u32 = 1;
        let mut faults = Vec::new();
        for record in 0..self.fault_records {
            let offset = self.faults + 16 * record;
            let high = self.read::<u64>(offset + 8);
            if high & RECORDED == 0 {
                continue;
            }
            let at = self.read::<u64>(offset) & !0xfff;
            self.write(offset + 8, RECORDED);
            let source = high as u16;
            let device = Address {
                segment: self.described.segment,
                bus: (source >> 8) as u8,
                device: source as u8 >> 3,
                function: source as u8 & 7,
            };
            faults.push((device, at, high & WAS_READ == 0));
        }
        self.write(register::FAULT_STATUS, OVERFLOW);
        faults
    }

    /// Counts a fault of a device. With the last one that is to be said, the hardware is told to keep the others to itself.
    fn count_fault(&mut self, device: Address) {
        let Some(space) = self.spaces.iter_mut().find(|space| space.device == device) else { return };
        space.faults += 1;
        if space.faults == SAID
            && let Some((table, index)) = self.context(device)
        {
            let entry = self.tables.read(table, index);
            self.tables.write(table, index, entry | FAULTS_UNSAID);
            self.forget_everything();
        }
    }
}

/// Says in the log what devices were refused. For ever.
extern "C" fn tell_faults(_block: &'static ThreadBlock) -> ! {
    loop {
        FAULT.wait(NEVER);
        let mut faults = Vec::new();
        for unit in UNITS.lock().iter_mut() {
            let taken = unit.take_faults();
            taken.iter().for_each(|(device, ..)| unit.count_fault(*device));
            faults.extend(taken);
        }
        for (device, at, was_write) in faults {
            let Address { bus, device, function, .. } = device;
            let what = if was_write { "write to" } else { "read" };
            log::kernel(
                Level::Warn,
                format_args!(
                    "the IOMMU refused {bus:02x}:{device:02x}.{function} to {what} {at:#x}, which is not its own"
                ),
            );
        }
    }
}

/// Pages for tables, in the direct map.
#[derive(Clone, Copy)]
struct Tables {
    /// The IOMMU sees the CPUs' caches.
    coherent: bool,
}

impl Tables {
    fn entry(table: u64, index: u64) -> *mut u64 {
        memory::direct(table + index * 8).cast()
    }
}

impl TableMemory for Tables {
    fn take(&mut self) -> Option<u64> {
        let table = memory::allocate_zeroed(1, Owner::Tables).ok()?;
        if !self.coherent {
            for line in (0..memory::PAGE).step_by(64) {
                // SAFETY: inside the page just taken.
                unsafe { _mm_clflush(memory::direct(table + line)) }
            }
        }
        Some(table)
    }

    fn read(&self, table: u64, index: u64) -> u64 {
        // SAFETY: tables are pages of ours in the direct map, and an index is below 512; the IOMMU writes none of them (no accessed bits in legacy mode).
        unsafe { Self::entry(table, index).read_volatile() }
    }

    fn write(&mut self, table: u64, index: u64, entry: u64) {
        let place = Self::entry(table, index);
        // SAFETY: as in `read`; under the lock of `UNITS`, or before the unit is in it. The entry points at another table, or at memory that was granted.
        unsafe {
            place.write_volatile(entry);
            if !self.coherent {
                _mm_clflush(place.cast());
            }
            // In memory before the IOMMU is told of it.
            _mm_mfence();
        }
    }
}
