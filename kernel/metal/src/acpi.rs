//! The few ACPI tables that we need: MADT (CPUs, interrupt controllers), MCFG (PCIe's ECAM), FADT (power-management
//! timer, reset register), DMAR (IOMMUs). ACPI 6.5 chapter 5; MCFG is in the PCI Firmware Specification 3.3, §4.1.2; DMAR in Intel's
//! Virtualization Technology for Directed I/O 4.1 (VT-d), §8.
//!
//! No AML is interpreted. Tables come from firmware, so every length is checked and every checksum verified; a
//! broken table is skipped and reported, since a box without MCFG still boots.

use alloc::vec::Vec;

use crate::boot_info::{PhysicalMemory, Rsdp, u16_at, u32_at, u64_at};

/// An I/O interrupt controller and the first global interrupt that it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    pub address: u32,
    pub first_interrupt: u32,
}

/// An ISA interrupt that isn't wired one to one (ACPI 6.5 §5.2.12.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsaOverride {
    pub isa: u8,
    pub interrupt: u32,
    pub active_low: bool,
    pub level_triggered: bool,
}

/// One PCIe segment's memory-mapped configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ecam {
    pub address: u64,
    pub segment: u16,
    pub first_bus: u8,
    pub last_bus: u8,
}

/// The power-management timer's I/O port; it counts at 3.579545 MHz (ACPI 6.5 §4.8.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PmTimer {
    pub port: u16,
    /// 32 bits wide, else 24.
    pub wide: bool,
}

/// How the machine resets itself (ACPI 6.5 §4.8.3.6): write `value` to `port`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetRegister {
    pub port: u16,
    pub value: u8,
}

/// An IOMMU and the devices that it stands before (VT-d §8.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemappingUnit {
    pub segment: u16,
    /// Where its registers are.
    pub registers: u64,
    /// It stands before all of the segment's devices that no other unit names.
    pub rest: bool,
    pub scopes: Vec<Scope>,
}

/// A device, or a bridge with all behind it: a bus, and the way down from there by device and function (VT-d §8.3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    pub bridge: bool,
    pub bus: u8,
    pub path: Vec<(u8, u8)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acpi {
    /// Local APIC ids of usable CPUs, in the firmware's order.
    pub cpus: Vec<u32>,
    pub local_apic: Option<u64>,
    pub io_apics: Vec<IoApic>,
    pub overrides: Vec<IsaOverride>,
    pub ecam: Vec<Ecam>,
    pub pm_timer: Option<PmTimer>,
    /// The clock's register that has the century.
    pub century: Option<u8>,
    pub reset: Option<ResetRegister>,
    pub iommus: Vec<RemappingUnit>,
    /// Signatures of tables that were damaged.
    pub damaged: Vec<[u8; 4]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// No root pointer from the loader, none in the BIOS area.
    NoRootPointer,
    /// The root table can't be read or fails its checksum.
    DamagedRootTable,
}

/// Reads the tables, starting from the loader's root pointer or, without one, from the BIOS area.
pub fn parse(memory: &impl PhysicalMemory, rsdp: Option<&Rsdp>) -> Result<Acpi, AcpiError> {
    let pointer = match rsdp {
        Some(Rsdp::Copy(copy)) => Some(&copy[..]),
        Some(Rsdp::At(address)) => memory.bytes(*address, 36).or_else(|| memory.bytes(*address, 20)),
        None => scan(memory),
    };
    let pointer = pointer.filter(|bytes| is_root_pointer(bytes)).ok_or(AcpiError::NoRootPointer)?;
    let revision = pointer[15];
    let extended = if revision >= 2 { u64_at(pointer, 24).filter(|address| *address != 0) } else { None };
    let (root, width) = match extended {
        Some(address) => (address, 8),
        None => (u32_at(pointer, 16).ok_or(AcpiError::NoRootPointer)?.into(), 4),
    };
    let root = table(memory, root).ok().ok_or(AcpiError::DamagedRootTable)?;

    let mut acpi = Acpi::default();
    for entry in root[36..].chunks_exact(width) {
        let address = if width == 8 { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) };
        match table(memory, address.unwrap_or(0)) {
            Ok(table) => match &table[0..4] {
                b"APIC" => acpi.read_madt(table),
                b"MCFG" => acpi.read_mcfg(table),
                b"FACP" => acpi.read_fadt(table),
                b"DMAR" => acpi.read_dmar(table),
                _ => {}
            },
            Err(signature) => acpi.damaged.push(signature),
        }
    }
    Ok(acpi)
}

/// The root pointer lies on a 16-byte boundary in the BIOS's read-only area (ACPI 6.5 §5.2.5.1).
fn scan(memory: &impl PhysicalMemory) -> Option<&[u8]> {
    (0xe_0000..0x10_0000u64)
        .step_by(16)
        .filter_map(|address| memory.bytes(address, 36))
        .find(|bytes| is_root_pointer(bytes))
}

fn is_root_pointer(bytes: &[u8]) -> bool {
    bytes.len() >= 20 && &bytes[0..8] == b"RSD PTR " && sums_to_zero(&bytes[0..20])
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// A whole table with its 36-byte header, or the signature of one that is damaged.
fn table(memory: &impl PhysicalMemory, address: u64) -> Result<&[u8], [u8; 4]> {
    let header = memory.bytes(address, 36).ok_or(*b"????")?;
    let signature = [header[0], header[1], header[2], header[3]];
    let length = u32_at(header, 4).ok_or(signature)? as usize;
    let whole = memory.bytes(address, length).ok_or(signature)?;
    if length >= 36 && sums_to_zero(whole) { Ok(whole) } else { Err(signature) }
}

impl Acpi {
    /// ACPI 6.5 §5.2.12: after the header the local APIC's address, flags, then entries of type, length, body.
    fn read_madt(&mut self, table: &[u8]) {
        self.local_apic = u32_at(table, 36).map(u64::from);
        let mut rest = table.get(44..).unwrap_or(&[]);
        while let [kind, length, ..] = *rest {
            let Some(entry) = rest.get(..length as usize).filter(|entry| entry.len() >= 2) else {
                self.damaged.push(*b"APIC");
                return;
            };
            if self.read_madt_entry(kind, entry).is_none() {
                self.damaged.push(*b"APIC");
            }
            rest = &rest[entry.len()..];
        }
    }

    fn read_madt_entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        // Bit 0 of the flags: usable now. "Online capable" alone means a socket that may be filled later.
        const ENABLED: u32 = 1;
        match kind {
            // Processor local APIC (§5.2.12.2); id 255 stands for "described by an x2APIC entry".
            0 if u32_at(entry, 4)? & ENABLED != 0 && entry[3] != 255 => self.add_cpu(entry[3].into()),
            // Local x2APIC (§5.2.12.12).
            9 if u32_at(entry, 8)? & ENABLED != 0 => self.add_cpu(u32_at(entry, 4)?),
            1 => self.io_apics.push(IoApic { address: u32_at(entry, 4)?, first_interrupt: u32_at(entry, 8)? }),
            2 => {
                let flags = u16_at(entry, 8)?;
                self.overrides.push(IsaOverride {
                    isa: entry[3],
                    interrupt: u32_at(entry, 4)?,
                    active_low: flags & 3 == 3,
                    level_triggered: flags >> 2 & 3 == 3,
                });
            }
            // Local APIC address override (§5.2.12.8).
            5 => self.local_apic = Some(u64_at(entry, 4)?),
            _ => {}
        }
        Some(())
    }

    fn add_cpu(&mut self, apic: u32) {
        // Some firmware lists a CPU both ways.
        if !self.cpus.contains(&apic) {
            self.cpus.push(apic);
        }
    }

    /// Header, 8 reserved bytes, then entries of 16.
    fn read_mcfg(&mut self, table: &[u8]) {
        for entry in table.get(44..).unwrap_or(&[]).chunks_exact(16) {
            if let (Some(address), Some(segment)) = (u64_at(entry, 0), u16_at(entry, 8)) {
                self.ecam.push(Ecam { address, segment, first_bus: entry[10], last_bus: entry[11] });
            }
        }
    }

    /// VT-d §8.1: after the header 12 bytes, then structures of type, length, body. Only remapping units (type 0) matter: what firmware's own devices
    /// reach (type 1) they need no more, since all devices are silenced at boot.
    fn read_dmar(&mut self, table: &[u8]) {
        let mut rest = table.get(48..).unwrap_or(&[]);
        while !rest.is_empty() {
            let length = u16_at(rest, 2).map_or(0, usize::from);
            let Some(entry) = rest.get(..length).filter(|entry| entry.len() >= 4) else {
                self.damaged.push(*b"DMAR");
                return;
            };
            if u16_at(entry, 0) == Some(0) {
                match RemappingUnit::read(entry) {
                    Some(unit) => self.iommus.push(unit),
                    None => self.damaged.push(*b"DMAR"),
                }
            }
            rest = &rest[length..];
        }
    }

    /// ACPI 6.5 §5.2.9.
    fn read_fadt(&mut self, table: &[u8]) {
        const TIMER_IS_WIDE: u32 = 1 << 8;
        const HAS_RESET_REGISTER: u32 = 1 << 10;
        const SYSTEM_IO: u8 = 1;
        let flags = u32_at(table, 112).unwrap_or(0);
        self.century = table.get(108).copied().filter(|register| *register != 0);
        self.pm_timer = u32_at(table, 76)
            .filter(|port| *port != 0)
            .and_then(|port| port.try_into().ok())
            .map(|port| PmTimer { port, wide: flags & TIMER_IS_WIDE != 0 });
        if flags & HAS_RESET_REGISTER != 0 && table.get(116) == Some(&SYSTEM_IO) {
            let port = u64_at(table, 120).and_then(|port| port.try_into().ok());
            self.reset = port.zip(table.get(128)).map(|(port, value)| ResetRegister { port, value: *value });
        }
    }
}

impl RemappingUnit {
    fn read(entry: &[u8]) -> Option<Self> {
        const REST_OF_THE_SEGMENT: u8 = 1;
        let mut unit = Self {
            segment: u16_at(entry, 6)?,
            registers: u64_at(entry, 8)?,
            rest: entry[4] & REST_OF_THE_SEGMENT != 0,
            scopes: Vec::new(),
        };
        let mut rest = &entry[16..];
        while let [kind, length, _, _, _, bus, ..] = *rest {
            let scope = rest.get(..usize::from(length)).filter(|scope| scope.len() >= 8)?;
            // 1: a PCI endpoint; 2: a bridge with all behind it. The others are no PCI devices.
            if kind == 1 || kind == 2 {
                let path = scope[6..].chunks_exact(2).map(|step| (step[0], step[1])).collect();
                unit.scopes.push(Scope { bridge: kind == 2, bus, path });
            }
            rest = &rest[scope.len()..];
        }
        rest.is_empty().then_some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_info::fake::Fake;

    fn sealed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        bytes
    }

    fn table_of(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 36];
        bytes[0..4].copy_from_slice(signature);
        bytes[4..8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
        bytes.extend(body);
        sealed(bytes, 9)
    }

    fn machine() -> Fake {
        let mut rsdp = vec![0u8; 36];
        rsdp[0..8].copy_from_slice(b"RSD PTR ");
        rsdp[16..20].copy_from_slice(&0x1000u32.to_le_bytes());
        let rsdp = sealed(rsdp, 8);
        let rsdt = table_of(b"RSDT", &[0x2000u32, 0x3000, 0x4000, 0x5000].map(u32::to_le_bytes).concat());
        let mut madt = 0xfee0_0000u32.to_le_bytes().to_vec();
        madt.extend([1, 0, 0, 0]);
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]); // CPU 0, enabled
        madt.extend([0, 8, 1, 7, 1, 0, 0, 0]); // CPU with APIC id 7
        madt.extend([0, 8, 2, 9, 2, 0, 0, 0]); // an empty socket
        madt.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]); // x2APIC id 300
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend([2, 10, 0, 4, 20, 0, 0, 0, 0x0f, 0]); // IRQ 4 on 20, low, level
        let mut mcfg = vec![0u8; 8];
        mcfg.extend(0xb000_0000u64.to_le_bytes());
        mcfg.extend([0, 0, 0, 255, 0, 0, 0, 0]);
        let mut fadt = vec![0u8; 129 - 36];
        fadt[76 - 36..80 - 36].copy_from_slice(&0x608u32.to_le_bytes());
        fadt[108 - 36] = 0x32;
        fadt[112 - 36..116 - 36].copy_from_slice(&(1u32 << 8 | 1 << 10).to_le_bytes());
        fadt[116 - 36] = 1;
        fadt[120 - 36..128 - 36].copy_from_slice(&0xcf9u64.to_le_bytes());
        fadt[128 - 36] = 0xf;
        let mut dmar = vec![47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // Firmware's own memory for a device: of no interest.
        dmar.extend([1, 0, 24, 0, 0, 0, 0, 0]);
        dmar.extend([0; 16]);
        // A unit before one endpoint behind a bridge, and one before the rest.
        dmar.extend([0, 0, 26, 0, 0, 0, 0, 0]);
        dmar.extend(0xfed9_0000u64.to_le_bytes());
        dmar.extend([1, 10, 0, 0, 0, 0, 0x1c, 4, 0, 1]);
        dmar.extend([0, 0, 24, 0, 1, 0, 0, 0]);
        dmar.extend(0xfed9_1000u64.to_le_bytes());
        dmar.extend([3, 8, 0, 0, 2, 0xf0, 0x1f, 0]); // its I/O APIC
        Fake(vec![
            (0xf_1230, rsdp),
            (0x1000, rsdt),
            (0x2000, table_of(b"APIC", &madt)),
            (0x3000, table_of(b"MCFG", &mcfg)),
            (0x4000, table_of(b"FACP", &fadt)),
            (0x5000, table_of(b"DMAR", &dmar)),
        ])
    }

    /// Everything that the boot needs is found, by scanning as well as by pointer.
    #[test]
    fn reads_the_tables() {
        let acpi = parse(&machine(), None).unwrap();
        assert_eq!(acpi, parse(&machine(), Some(&Rsdp::At(0xf_1230))).unwrap());
        assert_eq!(acpi.cpus, [0, 7, 300]);
        assert_eq!(acpi.local_apic, Some(0xfee0_0000));
        assert_eq!(acpi.io_apics, [IoApic { address: 0xfec0_0000, first_interrupt: 0 }]);
        let serial = IsaOverride { isa: 4, interrupt: 20, active_low: true, level_triggered: true };
        assert_eq!(acpi.overrides, [serial]);
        assert_eq!(acpi.ecam, [Ecam { address: 0xb000_0000, segment: 0, first_bus: 0, last_bus: 255 }]);
        assert_eq!(acpi.pm_timer, Some(PmTimer { port: 0x608, wide: true }));
        assert_eq!(acpi.century, Some(0x32));
        assert_eq!(acpi.reset, Some(ResetRegister { port: 0xcf9, value: 0xf }));
        let behind = Scope { bridge: false, bus: 0, path: vec![(0x1c, 4), (0, 1)] };
        assert_eq!(
            acpi.iommus,
            [
                RemappingUnit { segment: 0, registers: 0xfed9_0000, rest: false, scopes: vec![behind] },
                RemappingUnit { segment: 0, registers: 0xfed9_1000, rest: true, scopes: vec![] },
            ]
        );
        assert!(acpi.damaged.is_empty());
    }

    /// A table with a wrong checksum is left out and named; the others still count.
    #[test]
    fn damaged_table_is_skipped() {
        let mut machine = machine();
        machine.0[3].1[50] ^= 0x40;
        let acpi = parse(&machine, None).unwrap();
        assert_eq!(acpi.damaged, [*b"MCFG"]);
        assert!(acpi.ecam.is_empty());
        assert_eq!(acpi.cpus.len(), 3);
    }

    /// A unit whose list of devices doesn't add up is left out, and said to be damaged; so is a list that ends early.
    #[test]
    fn damaged_unit_is_skipped() {
        for (at, value) in [(36 + 12 + 24 + 16 + 1, 200), (36 + 12 + 2, 0)] {
            let mut machine = machine();
            machine.0[5].1[at] = value;
            machine.0[5].1 = sealed(machine.0[5].1.clone(), 9);
            let acpi = parse(&machine, None).unwrap();
            assert!(acpi.iommus.len() < 2, "{:?}", acpi.iommus);
            assert_eq!(acpi.damaged, [*b"DMAR"]);
        }
    }

    #[test]
    fn no_tables_is_an_error() {
        assert_eq!(parse(&Fake::default(), None), Err(AcpiError::NoRootPointer));
        let mut machine = machine();
        machine.0[1].1[36] ^= 1;
        assert_eq!(parse(&machine, None), Err(AcpiError::DamagedRootTable));
    }
}
