//! The multiboot2 information structure, which GRUB builds (Multiboot2 specification 2.0, §3.6).

use super::{BootInfo, BootInfoError, PhysicalMemory, Rsdp, Screen, u32_at, u64_at};

/// What `eax` holds at entry (§3.3).
pub const MAGIC: u32 = 0x36d7_6289;

/// The tag types of §3.6 that we read.
mod tag {
    pub const END: u32 = 0;
    pub const COMMAND_LINE: u32 = 1;
    pub const MODULE: u32 = 3;
    pub const MEMORY_MAP: u32 = 6;
    pub const FRAMEBUFFER: u32 = 8;
    pub const RSDP_1: u32 = 14;
    pub const RSDP_2: u32 = 15;
}

/// Framebuffer types (§3.6.12).
const FRAMEBUFFER_RGB: u8 = 1;
const FRAMEBUFFER_TEXT: u8 = 2;

/// Reads the information structure at `address`.
pub fn parse(memory: &impl PhysicalMemory, address: u64) -> Result<BootInfo, BootInfoError> {
    use BootInfoError::{NoMemoryMap, Truncated};

    let total = memory.bytes(address, 8).and_then(|head| u32_at(head, 0)).ok_or(Truncated)? as usize;
    let all = memory.bytes(address, total).ok_or(Truncated)?;
    let mut info = BootInfo::default();
    let mut offset = 8;
    loop {
        let (kind, size) = (u32_at(all, offset).ok_or(Truncated)?, u32_at(all, offset + 4).ok_or(Truncated)? as usize);
        if kind == tag::END {
            break;
        }
        if size < 8 {
            return Err(Truncated);
        }
        let end = offset.checked_add(size).ok_or(Truncated)?;
        read_tag(&mut info, kind, all.get(offset..end).ok_or(Truncated)?)?;
        // Tags are padded to 8 bytes (§3.6.2).
        offset = end.next_multiple_of(8);
    }
    if info.regions.is_empty() {
        return Err(NoMemoryMap);
    }
    Ok(info)
}

fn read_tag(info: &mut BootInfo, kind: u32, bytes: &[u8]) -> Result<(), BootInfoError> {
    use BootInfoError::Truncated;

    let word = |offset| u32_at(bytes, offset).ok_or(Truncated);
    match kind {
        tag::COMMAND_LINE => info.set_command_line(&bytes[8..]),
        tag::MODULE => info.add_module(word(8)?.into(), word(12)?.into()),
        tag::MEMORY_MAP => {
            let entry_size = word(8)? as usize;
            if entry_size < 24 {
                return Err(Truncated);
            }
            for entry in bytes[16..].chunks_exact(entry_size) {
                let (start, length) = (u64_at(entry, 0), u64_at(entry, 8));
                let kind = u32_at(entry, 16).ok_or(Truncated)?;
                info.add_region(start.ok_or(Truncated)?, length.ok_or(Truncated)?, kind)?;
            }
            Ok(())
        }
        tag::FRAMEBUFFER => {
            let address = u64_at(bytes, 8).ok_or(Truncated)?;
            let (pitch, width, height) = (word(16)?, word(20)?, word(24)?);
            let (bits, kind) = (*bytes.get(28).ok_or(Truncated)?, *bytes.get(29).ok_or(Truncated)?);
            // Other formats exist on paper; a screen that we can't draw on is no reason not to boot.
            info.screen = match (kind, bits) {
                (FRAMEBUFFER_RGB, 32) => Some(Screen::Pixels { address, pitch, width, height }),
                (FRAMEBUFFER_TEXT, _) => Some(Screen::Text { address, pitch, columns: width, rows: height }),
                _ => None,
            };
            Ok(())
        }
        // The newer structure contains the older one: keep it if both are given.
        tag::RSDP_1 if info.rsdp.is_some() => Ok(()),
        tag::RSDP_1 | tag::RSDP_2 => {
            info.rsdp = Some(Rsdp::Copy(bytes[8..].iter().copied().take(36).collect()));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Module, Region, RegionKind, fake::Fake};
    use super::*;

    fn tagged(tags: &[(u32, Vec<u8>)]) -> Fake {
        let mut all = vec![0u8; 8];
        for (kind, body) in tags.iter().chain([&(tag::END, Vec::new())]) {
            all.extend(kind.to_le_bytes());
            all.extend((8 + body.len() as u32).to_le_bytes());
            all.extend(body);
            all.resize(all.len().next_multiple_of(8), 0xaa);
        }
        let total = all.len() as u32;
        all[0..4].copy_from_slice(&total.to_le_bytes());
        Fake(vec![(0x1000, all)])
    }

    fn memory_map() -> (u32, Vec<u8>) {
        let mut body = vec![24, 0, 0, 0, 0, 0, 0, 0];
        for (start, length, kind) in [(0u64, 0xa_0000u64, 1u32), (0x7fe_0000, 0x2_0000, 3)] {
            body.extend(start.to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend(kind.to_le_bytes());
            body.extend([0; 4]);
        }
        (tag::MEMORY_MAP, body)
    }

    #[test]
    fn reads_what_grub_builds() {
        let module = [0x20_0000u32.to_le_bytes(), 0x30_0001u32.to_le_bytes()].concat();
        let mut framebuffer = 0xfd00_0000u64.to_le_bytes().to_vec();
        for word in [4096u32, 1024, 768] {
            framebuffer.extend(word.to_le_bytes());
        }
        framebuffer.extend([32, FRAMEBUFFER_RGB, 0, 0]);
        let memory = tagged(&[
            (tag::COMMAND_LINE, b"panic=halt\0".to_vec()),
            (tag::MODULE, [module, b"bundle\0".to_vec()].concat()),
            memory_map(),
            (tag::FRAMEBUFFER, framebuffer),
            (tag::RSDP_2, vec![7; 36]),
            (tag::RSDP_1, vec![8; 20]),
            (0x1234, vec![1, 2, 3]),
        ]);
        let info = parse(&memory, 0x1000).unwrap();
        assert_eq!(info.option("panic"), Some("halt"));
        assert_eq!(info.modules[..], [Module { start: 0x20_0000, end: 0x30_0001 }]);
        assert_eq!(info.regions[1], Region { start: 0x7fe_0000, end: 0x800_0000, kind: RegionKind::AcpiTables });
        assert_eq!(info.screen, Some(Screen::Pixels { address: 0xfd00_0000, pitch: 4096, width: 1024, height: 768 }));
        assert!(matches!(info.rsdp, Some(Rsdp::Copy(copy)) if copy.len() == 36 && copy[0] == 7));
    }

    /// A tag whose size is nonsense ends the boot with a reason, not in an endless loop.
    #[test]
    fn impossible_sizes_are_refused() {
        let mut memory = tagged(&[memory_map()]);
        memory.0[0].1[12] = 4;
        assert_eq!(parse(&memory, 0x1000).unwrap_err(), BootInfoError::Truncated);
        memory.0[0].1[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&memory, 0x1000).unwrap_err(), BootInfoError::Truncated);
        assert_eq!(parse(&tagged(&[]), 0x1000).unwrap_err(), BootInfoError::NoMemoryMap);
    }
}
