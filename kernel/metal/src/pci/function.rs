//! One PCI function in the hands of a lease: its BARs, bus mastering, MSI-X vectors (PCI 3.0 §6.8.2).

use alloc::{boxed::Box, vec::Vec};
use core::ptr::NonNull;

use kernel_core::{
    interrupt::Vector,
    platform::{Bar, DmaMemory, PciFunction, PciIdentity},
};

use super::{Address, COMMAND_MASTER, header};
use crate::{
    cpu,
    interrupt::{self, Route},
    iommu,
    lock::SpinLock,
    memory::paging,
};

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_NO_INTX: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;

const CAPABILITY_POWER: u8 = 0x01;
const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;
const ENTRY: usize = 16;
const ENTRY_MASKED: u32 = 1;

/// The MSI-X table, mapped.
struct Table {
    capability: u16,
    entries: NonNull<u32>,
    routes: SpinLock<Vec<Option<Route>>>,
}

// SAFETY: the table is device memory, written only under the lock of `routes`.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

pub struct Function {
    address: Address,
    identity: PciIdentity,
    bars: [Option<Bar>; 6],
    msix: Option<Table>,
}

static OPEN: SpinLock<Vec<&'static Function>> = SpinLock::new(Vec::new());

/// Takes a function: finds its BARs, wakes it up, maps its MSI-X table. The same one again gives the same object; `None` if it isn't there.
pub fn open(identity: &PciIdentity) -> Option<&'static Function> {
    if let Some(function) = find(identity) {
        return Some(function);
    }
    let address = Address::from(identity);
    if address.identity().as_ref() != Some(identity) {
        return None;
    }
    let mut function = Function { address, identity: *identity, bars: [None; 6], msix: None };
    function.wake_up();
    function.find_bars();
    function.find_msix();
    let function: &'static Function = Box::leak(Box::new(function));
    OPEN.lock().push(function);
    Some(function)
}

fn find(identity: &PciIdentity) -> Option<&'static Function> {
    OPEN.lock().iter().copied().find(|function| function.identity == *identity)
}

impl Function {
    /// The offset of a capability in configuration space.
    fn capability(&self, wanted: u8) -> Option<u16> {
        if self.address.read(header::COMMAND) & STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut offset = self.address.read(header::CAPABILITIES) as u8 & 0xfc;
        // The list fits 48 times into the space; a longer one is a circle.
        for _ in 0..48 {
            if offset < 0x40 {
                return None;
            }
            let head = self.address.read(offset.into());
            if head as u8 == wanted {
                return Some(offset.into());
            }
            offset = (head >> 8) as u8 & 0xfc;
        }
        None
    }

    /// D0, where registers answer (PCI Power Management 1.2 §3.2.4).
    fn wake_up(&self) {
        if let Some(power) = self.capability(CAPABILITY_POWER) {
            let state = self.address.read(power + 4);
            if state & 3 != 0 {
                self.address.write(power + 4, state & !3);
                // D3hot to D0 takes up to 10 ms.
                crate::clock::spin(10_000_000);
            }
        }
    }

    /// Sizes the BARs by writing ones, with decoding off meanwhile (PCI 3.0 §6.2.5.1), and maps the memory BARs that are placed.
    fn find_bars(&mut self) {
        let command = self.address.read(header::COMMAND) & 0xffff;
        self.address.write(header::COMMAND, command & !3);
        let mut placed = [None; 6];
        let mut index = 0;
        while index < 6 {
            let offset = header::BAR + 4 * index;
            let low = self.size(offset);
            let (value, mask, wide) = (low.0, low.1, low.0 & 7 == 4 && index < 5);
            let is_memory = value & 1 == 0;
            if is_memory && mask != 0 {
                let mut base = u64::from(value & !0xf);
                let mut size = u64::from(mask & !0xf) | 0xffff_ffff_0000_0000;
                if wide {
                    let high = self.size(offset + 4);
                    base |= u64::from(high.0) << 32;
                    size = u64::from(mask & !0xf) | u64::from(high.1) << 32;
                }
                let length = (!size).wrapping_add(1);
                // The firmware leaves a BAR at 0 that it couldn't place.
                if base != 0 && length != 0 {
                    placed[index as usize] = Some((base, length));
                }
            }
            index += if wide { 2 } else { 1 };
        }
        self.address.write(header::COMMAND, command);
        for (bar, place) in self.bars.iter_mut().zip(placed) {
            *bar = place.and_then(|(base, length)| {
                let address = NonNull::new(paging::map_device(base, length).ok()?)?;
                Some(Bar { address, len: usize::try_from(length).ok()? })
            });
        }
    }

    /// The value of a BAR and which of its bits are writable.
    fn size(&self, offset: u16) -> (u32, u32) {
        let value = self.address.read(offset);
        self.address.write(offset, u32::MAX);
        let mask = self.address.read(offset);
        self.address.write(offset, value);
        (value, mask)
    }

    fn find_msix(&mut self) {
        let Some(capability) = self.capability(CAPABILITY_MSIX) else { return };
        let control = self.address.read(capability) >> 16;
        let count = usize::from(control as u16 & 0x7ff) + 1;
        let place = self.address.read(capability + 4);
        let Some(bar) = self.bars.get((place & 7) as usize).copied().flatten() else { return };
        let offset = (place & !7) as usize;
        if offset + count * ENTRY > bar.len {
            return;
        }
        // SAFETY: the offset lies inside the BAR, checked above.
        let entries = unsafe { bar.address.add(offset) }.cast();
        let routes = SpinLock::new((0..count).map(|_| None).collect());
        self.msix = Some(Table { capability, entries, routes });
    }
}

impl Table {
    /// Dword `field` of entry `index`.
    fn write(&self, index: u16, field: usize, value: u32) {
        // SAFETY: callers have checked the index against the number of entries, all of which are mapped.
        unsafe { self.entries.add(usize::from(index) * ENTRY / 4 + field).write_volatile(value) }
    }

    /// Waits until earlier writes have reached the device.
    fn settle(&self, index: u16) {
        // SAFETY: as above; reading the table has no effect.
        unsafe { self.entries.add(usize::from(index) * ENTRY / 4 + 3).read_volatile() };
    }
}

impl PciFunction for Function {
    fn identity(&self) -> PciIdentity {
        self.identity
    }

    fn config_read(&self, offset: u16) -> u32 {
        self.address.read(offset)
    }

    fn config_write(&self, offset: u16, value: u32) {
        self.address.write(offset, value);
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index)).copied().flatten()
    }

    fn set_bus_master(&self, on: bool) {
        let command = self.address.read(header::COMMAND) & 0xffff;
        let wanted = COMMAND_MEMORY | COMMAND_MASTER;
        let command = if on { command | wanted | COMMAND_NO_INTX } else { command & !wanted };
        self.address.write(header::COMMAND, command);
    }

    fn grant(&self, memory: &[DmaMemory]) -> bool {
        iommu::grant(self.address, memory)
    }

    fn revoke(&self, memory: &[DmaMemory]) {
        iommu::revoke(self.address, memory);
    }

    fn reserve(&self, memory: &[DmaMemory]) -> bool {
        iommu::reserve(self.address, memory)
    }

    fn vectors(&self) -> u16 {
        self.msix.as_ref().map_or(0, |table| table.routes.lock().len() as u16)
    }

    fn attach(&self, index: u16, cpu: usize, vector: &'static Vector) -> bool {
        let Some(table) = &self.msix else { return false };
        // The address format has 8 bits for the APIC id (SDM vol. 3, §11.11.1); more takes interrupt remapping.
        let Some(target) = cpu::get(cpu).and_then(|cpu| u8::try_from(cpu.apic).ok()) else { return false };
        if index >= self.vectors() {
            return false;
        }
        self.detach(index);
        let Some(route) = interrupt::attach(cpu, vector) else { return false };
        let mut routes = table.routes.lock();
        routes[usize::from(index)] = Some(route);
        table.write(index, 3, ENTRY_MASKED);
        table.write(index, 0, 0xfee0_0000 | u32::from(target) << 12);
        table.write(index, 1, 0);
        table.write(index, 2, route.vector.into());
        table.write(index, 3, 0);
        drop(routes);
        let head = self.address.read(table.capability);
        if head & MSIX_ENABLE == 0 || head & MSIX_MASK_ALL != 0 {
            // The table lies in a BAR, so decoding must be on before anything else.
            self.address.write(table.capability, head & !MSIX_MASK_ALL | MSIX_ENABLE);
        }
        true
    }

    fn detach(&self, index: u16) {
        let Some(table) = &self.msix else { return };
        if index >= self.vectors() {
            return;
        }
        table.write(index, 3, ENTRY_MASKED);
        table.settle(index);
        let route = table.routes.lock()[usize::from(index)].take();
        if let Some(route) = route {
            interrupt::detach(route);
        }
    }
}
