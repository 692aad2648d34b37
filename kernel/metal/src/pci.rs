//! PCI and PCI Express: finding functions, and handing one to a domain's lease ([`function`]).
//!
//! Configuration space by ECAM where the MCFG table names it (PCI Express 5.0 §7.2.2), else by the ports 0xcf8 and 0xcfc, which reach 256
//! bytes of segment 0. Bridges are followed by the bus numbers that the firmware has given; BARs are used as the firmware has placed them.

pub mod function;

use alloc::vec::Vec;

use kernel_core::platform::PciIdentity;
use metal::acpi::{Acpi, Ecam};
use x86_64::instructions::port::Port;

use crate::{lock::SpinLock, memory::paging};

const ABSENT: u32 = 0xffff_ffff;
/// Bus mastering, in the command register (PCI 3.0 §6.2.2).
pub const COMMAND_MASTER: u32 = 1 << 2;

/// Offsets in the header (PCI 3.0 §6.1).
pub mod header {
    pub const IDENTITY: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const CLASS: u16 = 0x08;
    pub const HEADER_TYPE: u16 = 0x0c;
    pub const BAR: u16 = 0x10;
    pub const BUSES: u16 = 0x18;
    pub const CAPABILITIES: u16 = 0x34;
}

/// Where a function is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub segment: u16,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

static ECAM: SpinLock<Vec<Ecam>> = SpinLock::new(Vec::new());
/// The pair of ports is one resource.
static PORTS: SpinLock<()> = SpinLock::new(());
static FOUND: SpinLock<Vec<PciIdentity>> = SpinLock::new(Vec::new());

impl Address {
    fn ecam(self, offset: u16) -> Option<*mut u32> {
        let ecam = ECAM.lock();
        let area = ecam
            .iter()
            .find(|area| area.segment == self.segment && (area.first_bus..=area.last_bus).contains(&self.bus))?;
        let place = u64::from(self.bus) << 20 | u64::from(self.device) << 15 | u64::from(self.function) << 12;
        let page = area.address + place;
        drop(ecam);
        let registers = paging::map_device(page, 4096).ok()?;
        Some(registers.wrapping_add(usize::from(offset & 0xffc)).cast())
    }

    fn select(self, offset: u16) -> u32 {
        let place = u32::from(self.bus) << 16 | u32::from(self.device) << 11 | u32::from(self.function) << 8;
        1 << 31 | place | u32::from(offset & 0xfc)
    }

    /// The dword at `offset`; all ones where there is nothing.
    pub fn read(self, offset: u16) -> u32 {
        if let Some(register) = self.ecam(offset) {
            // SAFETY: configuration space, mapped uncached; reading it has no effect on memory.
            return unsafe { register.read_volatile() };
        }
        if self.segment != 0 || offset > 0xff {
            return ABSENT;
        }
        let _guard = PORTS.lock();
        // SAFETY: the ports of configuration mechanism 1, used under the lock.
        unsafe {
            Port::<u32>::new(0xcf8).write(self.select(offset));
            Port::<u32>::new(0xcfc).read()
        }
    }

    /// Writes the dword at `offset`.
    pub fn write(self, offset: u16, value: u32) {
        if let Some(register) = self.ecam(offset) {
            // SAFETY: configuration space, mapped uncached. What a device does with it is confined by who may call this: the kernel and
            // the trusted device crates.
            unsafe { register.write_volatile(value) };
            return;
        }
        if self.segment == 0 && offset <= 0xff {
            let _guard = PORTS.lock();
            // SAFETY: as in `read`.
            unsafe {
                Port::<u32>::new(0xcf8).write(self.select(offset));
                Port::<u32>::new(0xcfc).write(value);
            }
        }
    }

    /// Stops what firmware has left running: a controller that it used may still write to memory that is ours now. Whoever opens the function
    /// switches it on again.
    fn silence(self) {
        let command = self.read(header::COMMAND) & 0xffff;
        self.write(header::COMMAND, command & !COMMAND_MASTER);
    }

    fn identity(self) -> Option<PciIdentity> {
        let identity = self.read(header::IDENTITY);
        if identity == ABSENT || identity as u16 == 0xffff {
            return None;
        }
        let class = self.read(header::CLASS);
        Some(PciIdentity {
            segment: self.segment,
            bus: self.bus,
            device: self.device,
            function: self.function,
            vendor_id: identity as u16,
            device_id: (identity >> 16) as u16,
            revision: class as u8,
            class: class >> 8,
        })
    }
}

impl From<&PciIdentity> for Address {
    fn from(identity: &PciIdentity) -> Self {
        Self { segment: identity.segment, bus: identity.bus, device: identity.device, function: identity.function }
    }
}

/// Looks for functions on all buses that the firmware has numbered.
pub fn enumerate(acpi: &Acpi) {
    *ECAM.lock() = acpi.ecam.clone();
    let mut found = Vec::new();
    let mut roots: Vec<(u16, u8)> = acpi.ecam.iter().map(|area| (area.segment, area.first_bus)).collect();
    if roots.is_empty() {
        roots.push((0, 0));
    }
    for (segment, bus) in roots {
        scan_bus(segment, bus, &mut found);
    }
    *FOUND.lock() = found;
}

fn scan_bus(segment: u16, bus: u8, found: &mut Vec<PciIdentity>) {
    const MANY_FUNCTIONS: u32 = 1 << 23;
    for device in 0..32 {
        let first = Address { segment, bus, device, function: 0 };
        if first.identity().is_none() {
            continue;
        }
        let functions = if first.read(header::HEADER_TYPE) & MANY_FUNCTIONS != 0 { 8 } else { 1 };
        for function in 0..functions {
            let address = Address { function, ..first };
            let Some(identity) = address.identity() else { continue };
            found.push(identity);
            let is_bridge = address.read(header::HEADER_TYPE) >> 16 & 0x7f == 1;
            if !is_bridge {
                address.silence();
            }
            let secondary = (address.read(header::BUSES) >> 8) as u8;
            // Bus numbers grow downstream; anything else is a broken bridge, and would never end.
            if is_bridge && secondary > bus {
                scan_bus(segment, secondary, found);
            }
        }
    }
}

/// All functions that were found.
pub fn found() -> Vec<PciIdentity> {
    FOUND.lock().clone()
}

/// How configuration space is reached, for the boot report.
pub fn access() -> &'static str {
    if ECAM.lock().is_empty() { "ports 0xcf8" } else { "ECAM" }
}
