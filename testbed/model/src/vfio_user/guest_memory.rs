//! The guest's RAM, as far as it has mapped it for the device.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Release, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::surroundings::{DmaMemory, DmaRefused};

/// One range of bus addresses, mapped here.
struct Mapping {
    pointer: *mut u8,
    length: u64,
    writable: bool,
}

// SAFETY: [memory shared with a guest] raw memory reached only by pointer copies; no reference to its content exists, and the
// mapping belongs to this value alone.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: [mapping] made by `GuestMemory::map` with this length; nothing points into it any more,
        // since pointers live only inside `DmaMemory`'s methods.
        if let Err(error) = unsafe { munmap(self.pointer.cast(), self.length as usize) } {
            log::warn!("guest memory stays mapped: {error}");
        }
    }
}

/// All ranges by their first bus address. Ranges never overlap.
#[derive(Default)]
pub struct GuestMemory {
    mappings: BTreeMap<u64, Mapping>,
    /// The range hit last: first address, length, pointer, writable. Descriptors and buffers mostly lie in one.
    last: Cell<Option<(u64, u64, *mut u8, bool)>>,
}

// SAFETY: [memory shared with a guest] `last` only repeats pointers of `mappings`, which may move to another thread.
unsafe impl Send for GuestMemory {}

impl GuestMemory {
    /// Maps `length` bytes of `file` from `offset` at bus address `address`.
    pub fn map(&mut self, address: u64, length: u64, file: OwnedFd, offset: u64, writable: bool) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        let end = address.checked_add(length).ok_or_else(|| invalid("the range wraps round"))?;
        if length == 0 {
            return Err(invalid("an empty range"));
        }
        if self.mappings.range(..end).next_back().is_some_and(|(at, with)| at + with.length > address) {
            return Err(invalid("the range overlaps one that is mapped"));
        }
        // A file shorter than it says would turn an access into SIGBUS here: don't trust it.
        let size = rustix::fs::fstat(&file)?.st_size as u64;
        if offset.checked_add(length).is_none_or(|file_end| file_end > size) {
            return Err(invalid("the range lies beyond the file"));
        }
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: [mapping] a fresh mapping at an address of the kernel's choice.
        let pointer =
            unsafe { mmap(std::ptr::null_mut(), length as usize, protection, MapFlags::SHARED, &file, offset)? };
        self.mappings.insert(address, Mapping { pointer: pointer.cast(), length, writable });
        Ok(())
    }

    /// Forgets every range inside `address..address + length`.
    pub fn unmap(&mut self, address: u64, length: u64) {
        let end = address.saturating_add(length);
        self.last.set(None);
        self.mappings.retain(|at, with| !(*at >= address && at + with.length <= end));
    }

    pub fn unmap_all(&mut self) {
        self.last.set(None);
        self.mappings.clear();
    }

    /// Pointer to `length` bytes at `address`, if one range holds them all and allows the access.
    fn pointer(&self, address: u64, length: usize, write: bool) -> Result<*mut u8, DmaRefused> {
        let refused = DmaRefused { address, length };
        let inside = |at: u64, bytes: u64| {
            let offset = address.checked_sub(at)?;
            (offset.checked_add(length as u64)? <= bytes).then_some(offset)
        };
        let cached = self
            .last
            .get()
            .and_then(|(at, bytes, pointer, writable)| inside(at, bytes).map(|offset| (pointer, offset, writable)));
        let (pointer, offset, writable) = match cached {
            Some(found) => found,
            None => {
                let (at, with) = self.mappings.range(..=address).next_back().ok_or(refused)?;
                let offset = inside(*at, with.length).ok_or(refused)?;
                self.last.set(Some((*at, with.length, with.pointer, with.writable)));
                (with.pointer, offset, with.writable)
            }
        };
        if write && !writable {
            return Err(refused);
        }
        // SAFETY: [bounds] `offset + length` lies within the mapping, just checked.
        Ok(unsafe { pointer.add(offset as usize) })
    }
}

impl GuestMemory {
    /// Applies `each` to the pieces of a range that may span several mappings, after checking all of them.
    fn pieces(
        &self,
        address: u64,
        length: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), DmaRefused> {
        if let Ok(pointer) = self.pointer(address, length, write) {
            each(pointer, 0, length);
            return Ok(());
        }
        // Behind an IOMMU every page is a range of its own.
        let refused = DmaRefused { address, length };
        let mut found = Vec::new();
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64).ok_or(refused)?;
            let (base, with) = self.mappings.range(..=at).next_back().ok_or(refused)?;
            let left = with.length.checked_sub(at - base).filter(|left| *left > 0).ok_or(refused)?;
            let piece = (length - done).min(left as usize);
            found.push((self.pointer(at, piece, write)?, done, piece));
            done += piece;
        }
        for (pointer, from, piece) in found {
            each(pointer, from, piece);
        }
        Ok(())
    }
}

impl DmaMemory for GuestMemory {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused> {
        self.pieces(address, into.len(), false, |pointer, from, piece| {
            let into = &mut into[from..from + piece];
            // SAFETY: [bounds] `pieces` gives a pointer to `piece` mapped bytes; `into` isn't guest memory.
            unsafe { std::ptr::copy_nonoverlapping(pointer, into.as_mut_ptr(), piece) }
        })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
        self.pieces(address, bytes.len(), true, |pointer, from, piece| {
            let bytes = &bytes[from..from + piece];
            // SAFETY: [bounds] as in `read`, and the mapping is writable.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, piece) }
        })
    }

    fn publish(&mut self, address: u64, word: u64) -> Result<(), DmaRefused> {
        if address.is_multiple_of(8) {
            let pointer = self.pointer(address, 8, true)?;
            if pointer.addr().is_multiple_of(8) {
                // SAFETY: [bounds] eight mapped, writable, aligned bytes.
                unsafe { AtomicU64::from_ptr(pointer.cast()) }.store(word.to_le(), Release);
                return Ok(());
            }
        }
        fence(Release);
        self.write(address, &word.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn file(bytes: u64) -> OwnedFd {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, bytes).unwrap();
        file
    }

    /// Only what is mapped can be reached, and reads may span neighbours as behind an IOMMU.
    #[test]
    fn bounds() {
        let mut memory = GuestMemory::default();
        let shared = file(0x3000);
        memory.map(0x1000, 0x1000, shared.try_clone().unwrap(), 0, true).unwrap();
        memory.map(0x2000, 0x1000, shared.try_clone().unwrap(), 0x2000, true).unwrap();
        memory.map(0x8000, 0x1000, shared, 0x1000, false).unwrap();
        memory.write(0x1FFE, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        memory.read(0x1FFE, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        memory.publish(0x2FF8, 0x0102_0304).unwrap();
        assert!(memory.write(0x2FFE, &[0; 4]).is_err());
        assert!(memory.read(0xFFF, &mut back).is_err());
        assert!(memory.read(u64::MAX, &mut back).is_err());
        assert!(memory.publish(0x3000, 0).is_err());
        assert!(memory.write(0x8000, &[0]).is_err(), "mapped read only");
        memory.read(0x8000, &mut back).unwrap();
    }

    /// What is unmapped is out of reach at once, and may be mapped again.
    #[test]
    fn unmapped_is_out_of_reach() {
        let mut memory = GuestMemory::default();
        memory.map(0x1000, 0x1000, file(0x1000), 0, true).unwrap();
        assert!(memory.map(0x1800, 0x1000, file(0x1000), 0, true).is_err(), "overlap");
        memory.write(0x1000, &[1]).unwrap();
        memory.unmap(0x1000, 0x1000);
        assert!(memory.write(0x1000, &[1]).is_err());
        memory.map(0x1800, 0x800, file(0x1000), 0, true).unwrap();
        assert!(memory.map(0x4000, 0x2000, file(0x1000), 0, true).is_err(), "beyond the file");
    }
}
