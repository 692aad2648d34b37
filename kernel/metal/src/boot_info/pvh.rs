//! PVH's `hvm_start_info` (Xen's `public/arch-x86/hvm/start_info.h`), which QEMU builds for `-kernel`.

use super::{BootInfo, BootInfoError, PhysicalMemory, Rsdp, u32_at, u64_at};

/// The first word of the structure.
pub const MAGIC: u32 = 0x336e_c578;

const MAX_COMMAND_LINE: usize = 1024;

/// Reads the start-info at `address`.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<BootInfo, BootInfoError> {
    use BootInfoError::{BadMagic, NoMemoryMap, Truncated};

    let start = memory.bytes(address, 56).ok_or(Truncated)?;
    let word = |offset| u32_at(start, offset).ok_or(Truncated);
    let quad = |offset| u64_at(start, offset).ok_or(Truncated);
    if word(0)? != MAGIC {
        return Err(BadMagic);
    }
    if word(4)? < 1 {
        return Err(NoMemoryMap);
    }
    let mut info = BootInfo::default();

    let (modules, modules_at) = (word(12)?, quad(16)?);
    for index in 0..u64::from(modules) {
        let entry = memory.bytes(modules_at.saturating_add(index * 32), 32).ok_or(Truncated)?;
        let (from, size) = (u64_at(entry, 0).ok_or(Truncated)?, u64_at(entry, 8).ok_or(Truncated)?);
        info.add_module(from, from.checked_add(size).ok_or(Truncated)?)?;
    }

    let command_line_at = quad(24)?;
    if command_line_at != 0 {
        info.set_command_line(zero_terminated(memory, command_line_at)?)?;
    }

    let rsdp = quad(32)?;
    info.rsdp = (rsdp != 0).then_some(Rsdp::At(rsdp));

    let (map_at, map_entries) = (quad(40)?, word(48)?);
    if map_at == 0 || map_entries == 0 {
        return Err(NoMemoryMap);
    }
    for index in 0..u64::from(map_entries) {
        let entry = memory.bytes(map_at.saturating_add(index * 24), 24).ok_or(Truncated)?;
        let kind = u32_at(entry, 16).ok_or(Truncated)?;
        info.add_region(u64_at(entry, 0).ok_or(Truncated)?, u64_at(entry, 8).ok_or(Truncated)?, kind)?;
    }
    Ok(info)
}

fn zero_terminated(memory: &impl PhysicalMemory, address: u64) -> Result<&[u8], BootInfoError> {
    (0..=MAX_COMMAND_LINE)
        .find(|length| memory.bytes(address + *length as u64, 1).is_some_and(|byte| byte[0] == 0))
        .and_then(|length| memory.bytes(address, length))
        .ok_or(BootInfoError::BadCommandLine)
}

#[cfg(test)]
mod tests {
    use super::super::{Module, Region, RegionKind, fake::Fake};
    use super::*;

    fn machine(entries: u32) -> Fake {
        let mut start = vec![0u8; 56];
        start[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        start[4] = 1;
        start[12] = 1;
        start[16..24].copy_from_slice(&0x2000u64.to_le_bytes());
        start[24..32].copy_from_slice(&0x3000u64.to_le_bytes());
        start[32..40].copy_from_slice(&0xf5a0u64.to_le_bytes());
        start[40..48].copy_from_slice(&0x4000u64.to_le_bytes());
        start[48..52].copy_from_slice(&entries.to_le_bytes());
        let mut module = vec![0u8; 32];
        module[0..8].copy_from_slice(&0x10_0000u64.to_le_bytes());
        module[8..16].copy_from_slice(&0x123u64.to_le_bytes());
        let mut map = vec![0u8; 24];
        map[8..16].copy_from_slice(&0x9fc00u64.to_le_bytes());
        map[16] = 1;
        Fake(vec![(0x1000, start), (0x2000, module), (0x3000, b"selftest\0".to_vec()), (0x4000, map)])
    }

    #[test]
    fn reads_what_qemu_builds() {
        let info = parse(&machine(1), 0x1000).unwrap();
        assert_eq!(info.modules[..], [Module { start: 0x10_0000, end: 0x10_0123 }]);
        assert_eq!(info.regions[..], [Region { start: 0, end: 0x9fc00, kind: RegionKind::Usable }]);
        assert_eq!(info.option("selftest"), Some(""));
        assert_eq!(info.rsdp, Some(Rsdp::At(0xf5a0)));
    }

    /// A count that runs past the table is an error, not a read of what lies behind it.
    #[test]
    fn truncated_map_is_refused() {
        assert_eq!(parse(&machine(2), 0x1000).unwrap_err(), BootInfoError::Truncated);
        assert_eq!(parse(&machine(0), 0x1000).unwrap_err(), BootInfoError::NoMemoryMap);
    }

    #[test]
    fn other_structures_are_refused() {
        let mut machine = machine(1);
        machine.0[0].1[0] ^= 1;
        assert_eq!(parse(&machine, 0x1000).unwrap_err(), BootInfoError::BadMagic);
    }
}
