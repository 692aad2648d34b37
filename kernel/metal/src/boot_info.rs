//! What the boot loader told us, in one form for both loaders: PVH's start-info ([`pvh`]) and multiboot2's tags
//! ([`multiboot2`]).
//!
//! Parsing happens before there is a heap, so everything has a fixed capacity; what doesn't fit is an error, never
//! silently cut off.

pub mod multiboot2;
pub mod pvh;

use arrayvec::{ArrayString, ArrayVec};

/// Physical memory as the parsers see it. Returns `None` for addresses that can't be read.
pub trait PhysicalMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// RAM that we may use.
    Usable,
    /// RAM that holds ACPI tables (could be used after reading them; we don't).
    AcpiTables,
    /// Everything else: firmware, holes, defective memory.
    Reserved,
}

impl RegionKind {
    /// From an e820 type, which both loaders use (ACPI 6.5 §15.1, table 15-3).
    pub fn from_e820(kind: u32) -> Self {
        match kind {
            1 => Self::Usable,
            3 => Self::AcpiTables,
            _ => Self::Reserved,
        }
    }
}

/// A range of physical addresses `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub kind: RegionKind,
}

/// A file that the loader put into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module {
    pub start: u64,
    pub end: u64,
}

/// A linear framebuffer, 32 bits a pixel, or the VGA text screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Screen {
    Pixels { address: u64, pitch: u32, width: u32, height: u32 },
    Text { address: u64, pitch: u32, columns: u32, rows: u32 },
}

/// Where the ACPI tables begin, as far as the loader said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rsdp {
    /// The loader gave the address of the structure.
    At(u64),
    /// The loader gave a copy of the structure.
    Copy(ArrayVec<u8, 36>),
}

#[derive(Clone, Debug, Default)]
pub struct BootInfo {
    pub regions: ArrayVec<Region, 256>,
    pub modules: ArrayVec<Module, 4>,
    pub command_line: ArrayString<1024>,
    pub rsdp: Option<Rsdp>,
    pub screen: Option<Screen>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootInfoError {
    /// A structure lies outside readable memory or ends before its own length says.
    Truncated,
    /// The structure doesn't start with its magic number.
    BadMagic,
    /// The start-info has no memory map (needs PVH version 1, QEMU 4.0 or later).
    NoMemoryMap,
    /// More regions or modules than there is room for.
    TooMany,
    /// The command line is longer than 1,024 bytes or not UTF-8.
    BadCommandLine,
}

impl BootInfo {
    fn add_region(&mut self, start: u64, length: u64, kind: u32) -> Result<(), BootInfoError> {
        if length == 0 {
            return Ok(());
        }
        let region = Region { start, end: start.saturating_add(length), kind: RegionKind::from_e820(kind) };
        self.regions.try_push(region).map_err(|_| BootInfoError::TooMany)
    }

    fn add_module(&mut self, start: u64, end: u64) -> Result<(), BootInfoError> {
        self.modules.try_push(Module { start, end }).map_err(|_| BootInfoError::TooMany)
    }

    fn set_command_line(&mut self, bytes: &[u8]) -> Result<(), BootInfoError> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let text = core::str::from_utf8(&bytes[..end]).map_err(|_| BootInfoError::BadCommandLine)?;
        self.command_line = ArrayString::from(text).map_err(|_| BootInfoError::BadCommandLine)?;
        Ok(())
    }

    /// The value of `name=value` on the command line; `Some("")` for a bare `name`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.command_line.split_ascii_whitespace().find_map(|word| match word.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (word == name).then_some(""),
        })
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod fake {
    //! Physical memory made of a few pieces, for tests.

    use super::PhysicalMemory;

    #[derive(Default)]
    pub struct Fake(pub Vec<(u64, Vec<u8>)>);

    impl PhysicalMemory for Fake {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let from = address.checked_sub(*start)? as usize;
                bytes.get(from..from.checked_add(length)?)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options are found by whole words only: `selftest2` must not switch on `selftest`.
    #[test]
    fn options_are_whole_words() {
        let mut info = BootInfo::default();
        info.set_command_line(b"quiet selftest2 panic=halt\0junk").unwrap();
        assert_eq!(info.option("selftest"), None);
        assert_eq!(info.option("quiet"), Some(""));
        assert_eq!(info.option("panic"), Some("halt"));
    }

    /// A command line that doesn't fit is refused, not cut.
    #[test]
    fn long_command_line_is_refused() {
        let mut info = BootInfo::default();
        assert_eq!(info.set_command_line(&[b'x'; 2000]), Err(BootInfoError::BadCommandLine));
    }
}
