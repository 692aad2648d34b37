//! The loader: from a domain's ELF to memory that executes, each page either writable or executable.
//!
//! It is total: whatever the bytes, the result is an image or an error that says what is wrong. Only `R_X86_64_RELATIVE` relocations, only static
//! position-independent executables, no interpreter, no thread-local storage, nothing that would have to be linked.

use alloc::vec::Vec;
use core::{fmt, ops::Range, ptr::NonNull};

use elf::{
    ElfBytes,
    abi::{
        DT_JMPREL, DT_NEEDED, DT_NULL, DT_REL, DT_RELA, DT_RELAENT, DT_RELASZ, EM_X86_64, ET_DYN, PF_R, PF_W, PF_X,
        PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS, R_X86_64_RELATIVE,
    },
    endian::LittleEndian,
    file::Class,
    relocation::RelaIterator,
    segment::ProgramHeader,
};
use interfaces::abi::Entry;

use crate::{
    incarnation::Incarnation,
    machine,
    platform::{Mapping, PAGE, Protected, Protection},
};

/// Packed relative relocations (System V ABI, gABI draft "Relative relocation table").
const DT_RELR: i64 = 36;

/// Larger than any domain; keeps the arithmetic on addresses far from overflow.
const MAX_BYTES: u64 = 256 << 20;

/// Why an ELF can't become an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// Not an ELF, or cut short: what the header says isn't there.
    Malformed,
    /// Another machine, class, endianness or kind of file.
    Foreign,
    /// A segment lies outside the file, overlaps another, is larger than any domain, or isn't page-aligned.
    BadSegment,
    /// A segment would be writable and executable.
    WritableCode,
    /// It wants an interpreter, libraries or thread-local storage.
    NeedsLinker,
    /// A relocation of another kind, or one that reaches outside the image.
    BadRelocation,
    /// The entry isn't in an executable segment.
    BadEntry,
    /// The domain's quota, or the box's memory, doesn't admit the image.
    NoMemory,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LoadError::Malformed => "the image is damaged: not an ELF, or cut short",
            LoadError::Foreign => "the image is not a static position-independent x86-64 executable",
            LoadError::BadSegment => "a segment of the image lies where none may be",
            LoadError::WritableCode => "a segment of the image would be writable and executable",
            LoadError::NeedsLinker => "the image wants an interpreter, libraries or thread-local storage",
            LoadError::BadRelocation => {
                "the image has a relocation that the kernel does not know, or that reaches outside it"
            }
            LoadError::BadEntry => "the image's entry is not in its code",
            LoadError::NoMemory => "the domain's memory quota, or the box's memory, is too small for its image",
        })
    }
}

/// What the file says, checked.
struct Plan {
    segments: Vec<Segment>,
    pages: usize,
    entry: u64,
    /// Where the relocations lie in memory.
    relocations: Range<u64>,
}

struct Segment {
    file: Range<usize>,
    memory: Range<u64>,
    protection: Protection,
}

fn plan(bytes: &[u8]) -> Result<Plan, LoadError> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|_| LoadError::Malformed)?;
    let header = &file.ehdr;
    if header.class != Class::ELF64 || header.e_machine != EM_X86_64 || header.e_type != ET_DYN {
        return Err(LoadError::Foreign);
    }
    let headers = file.segments().ok_or(LoadError::Malformed)?;
    let (mut segments, mut relocations) = (Vec::<Segment>::new(), 0..0);
    for header in headers.iter() {
        match header.p_type {
            PT_LOAD if header.p_memsz > 0 => {
                let segment = segment(bytes, &header)?;
                // In ascending order and on pages of their own, so that each page has one protection.
                let free = segments.last().map_or(0, |last| last.memory.end.next_multiple_of(PAGE as u64));
                if segment.memory.start / PAGE as u64 * (PAGE as u64) < free {
                    return Err(LoadError::BadSegment);
                }
                segments.push(segment);
            }
            PT_INTERP | PT_TLS => return Err(LoadError::NeedsLinker),
            PT_DYNAMIC => {
                let table = file.dynamic().map_err(|_| LoadError::Malformed)?.ok_or(LoadError::Malformed)?;
                relocations = dynamic(table.iter().map(|entry| (entry.d_tag, entry.d_val())))?;
            }
            _ => {}
        }
    }
    let end = segments.last().ok_or(LoadError::BadSegment)?.memory.end;
    let executable = |at: u64| {
        segments.iter().any(|segment| segment.protection == Protection::ReadExecute && segment.memory.contains(&at))
    };
    if !executable(header.e_entry) {
        return Err(LoadError::BadEntry);
    }
    Ok(Plan { pages: end.div_ceil(PAGE as u64) as usize, entry: header.e_entry, relocations, segments })
}

fn segment(bytes: &[u8], header: &ProgramHeader) -> Result<Segment, LoadError> {
    let end = header.p_offset.checked_add(header.p_filesz).filter(|end| *end <= bytes.len() as u64);
    let limit = header.p_vaddr.checked_add(header.p_memsz).filter(|limit| *limit <= MAX_BYTES);
    let (Some(end), Some(limit)) = (end, limit) else { return Err(LoadError::BadSegment) };
    if header.p_filesz > header.p_memsz {
        return Err(LoadError::BadSegment);
    }
    let protection = match header.p_flags & (PF_R | PF_W | PF_X) {
        flags if flags & (PF_W | PF_X) == PF_W | PF_X => return Err(LoadError::WritableCode),
        flags if flags & PF_X != 0 => Protection::ReadExecute,
        flags if flags & PF_W != 0 => Protection::ReadWrite,
        _ => Protection::ReadOnly,
    };
    Ok(Segment { file: header.p_offset as usize..end as usize, memory: header.p_vaddr..limit, protection })
}

/// The relocations' place, from the dynamic table.
fn dynamic(entries: impl Iterator<Item = (i64, u64)>) -> Result<Range<u64>, LoadError> {
    let (mut start, mut bytes) = (0, 0);
    for (tag, value) in entries.take_while(|(tag, _)| *tag != DT_NULL) {
        match tag {
            DT_NEEDED | DT_JMPREL => return Err(LoadError::NeedsLinker),
            DT_REL | DT_RELR => return Err(LoadError::BadRelocation),
            DT_RELA => start = value,
            DT_RELASZ => bytes = value,
            DT_RELAENT if value != 24 => return Err(LoadError::BadRelocation),
            _ => {}
        }
    }
    let end = start.checked_add(bytes).ok_or(LoadError::BadRelocation)?;
    Ok(start..end)
}

/// Loads an image into the memory of `incarnation`, which frees it, and gives its entry.
pub(crate) fn load(bytes: &[u8], incarnation: &Incarnation) -> Result<Entry, LoadError> {
    let plan = plan(bytes)?;
    let first = incarnation.map(plan.pages, Mapping::Image).ok_or(LoadError::NoMemory)?;
    // SAFETY: fresh memory of so many pages, which nobody else knows.
    let memory = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), plan.pages * PAGE) };
    for segment in &plan.segments {
        let start = segment.memory.start as usize;
        memory[start..start + segment.file.len()].copy_from_slice(&bytes[segment.file.clone()]);
    }
    relocate(memory, first, &plan)?;
    let protected = |segment: &Segment| {
        let (page, end) = (segment.memory.start as usize / PAGE, (segment.memory.end as usize).div_ceil(PAGE));
        // SAFETY: inside this image mapping: `plan` has seen that its segments are.
        let at = unsafe { first.add(page * PAGE) };
        Protected { first: at, pages: end - page, protection: segment.protection }
    };
    let ranges: Vec<_> = plan.segments.iter().map(protected).collect();
    // SAFETY: pages of this image mapping, as above.
    unsafe { machine().protect(&ranges) };
    let start = first.as_ptr().addr();
    incarnation.set_image(start, plan.pages * PAGE);
    // SAFETY: the entry lies in an executable segment. That it has this type is what signature and ABI hash stand for (SOUNDNESS: ABI between images).
    Ok(unsafe { core::mem::transmute::<*mut u8, Entry>(first.as_ptr().add(plan.entry as usize)) })
}

fn relocate(memory: &mut [u8], first: NonNull<u8>, plan: &Plan) -> Result<(), LoadError> {
    let outside = LoadError::BadRelocation;
    let range = usize::try_from(plan.relocations.start).map_err(|_| outside)?
        ..usize::try_from(plan.relocations.end).map_err(|_| outside)?;
    let table = memory.get(range).ok_or(outside)?.to_vec();
    let base = first.as_ptr().addr() as u64;
    for relocation in RelaIterator::new(LittleEndian, Class::ELF64, &table) {
        let within = |address: u64, bytes: u64| {
            let holds = |segment: &&Segment| {
                address >= segment.memory.start && address.saturating_add(bytes) <= segment.memory.end
            };
            plan.segments.iter().any(|segment| holds(&segment))
        };
        let target = u64::try_from(relocation.r_addend).map_err(|_| outside)?;
        // One past the end is an address that code may take.
        let known = relocation.r_type == R_X86_64_RELATIVE && relocation.r_sym == 0;
        if !known || !within(relocation.r_offset, 8) || target > memory.len() as u64 {
            return Err(outside);
        }
        let at = relocation.r_offset as usize;
        memory[at..at + 8].copy_from_slice(&(base + target).to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// This test's own executable has an interpreter.
    #[test]
    fn an_ordinary_program_is_refused() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(plan(&own).err(), Some(LoadError::NeedsLinker));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(plan(b"").err(), Some(LoadError::Malformed));
        assert_eq!(plan(&[0x7f; 4096]).err(), Some(LoadError::Malformed));
    }

    /// Where `sample` has its parts: each on pages of its own, in memory as in the file.
    const CODE: usize = PAGE;
    const DATA: usize = 2 * PAGE;
    const DYNAMIC: usize = DATA + 64;
    const RELOCATIONS: usize = DATA + 256;

    /// The least image: a page of headers, one of code, one of data with the dynamic table and three relocations (System V ABI, chapters 4 and 5).
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 3 * PAGE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &ET_DYN.to_le_bytes());
        put(18, &EM_X86_64.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(24, &(CODE as u64 + 8).to_le_bytes());
        put(32, &64u64.to_le_bytes());
        for (at, value) in [(52, 64u16), (54, 56), (56, 4), (58, 64)] {
            put(at, &value.to_le_bytes());
        }
        let headers = [
            (PT_LOAD, PF_R, 0, 64 + 4 * 56),
            (PT_LOAD, PF_R | PF_X, CODE, 64),
            (PT_LOAD, PF_R | PF_W, DATA, 512),
            (PT_DYNAMIC, PF_R | PF_W, DYNAMIC, 64),
        ];
        for (index, (kind, flags, start, bytes)) in headers.into_iter().enumerate() {
            let at = 64 + 56 * index;
            put(at, &kind.to_le_bytes());
            put(at + 4, &flags.to_le_bytes());
            for (field, value) in [(8, start), (16, start), (24, start), (32, bytes), (40, bytes), (48, 8)] {
                put(at + field, &(value as u64).to_le_bytes());
            }
        }
        let table = [(DT_RELA, RELOCATIONS), (DT_RELASZ, 72), (DT_RELAENT, 24), (DT_NULL, 0)];
        for (index, (tag, value)) in table.into_iter().enumerate() {
            put(DYNAMIC + 16 * index, &tag.to_le_bytes());
            put(DYNAMIC + 16 * index + 8, &(value as u64).to_le_bytes());
        }
        for index in 0..3 {
            let at = RELOCATIONS + 24 * index;
            put(at, &((DATA + 8 * index) as u64).to_le_bytes());
            put(at + 8, &u64::from(R_X86_64_RELATIVE).to_le_bytes());
            put(at + 16, &(CODE as u64).to_le_bytes());
        }
        bytes
    }

    /// What loading does to memory, without a machine to map it: plan, copy, relocate.
    fn relocated(bytes: &[u8]) -> Result<(Plan, Vec<u8>), LoadError> {
        let plan = plan(bytes)?;
        assert!(plan.pages <= MAX_BYTES as usize / PAGE);
        if plan.pages > 64 {
            // As a quota would refuse it.
            return Err(LoadError::NoMemory);
        }
        let mut memory = vec![0; plan.pages * PAGE];
        for segment in &plan.segments {
            let start = segment.memory.start as usize;
            memory[start..start + segment.file.len()].copy_from_slice(&bytes[segment.file.clone()]);
        }
        let first = NonNull::new(memory.as_mut_ptr()).expect("a vector's memory");
        relocate(&mut memory, first, &plan)?;
        Ok((plan, memory))
    }

    /// The way it is meant to be: what is fuzzed below is a good image to begin with.
    #[test]
    fn the_least_image_is_relocated() {
        let (plan, memory) = relocated(&sample()).expect("a good image");
        assert_eq!((plan.pages, plan.entry), (3, CODE as u64 + 8));
        let word = |at: usize| u64::from_le_bytes(memory[at..at + 8].try_into().expect("eight bytes"));
        for index in 0..3 {
            assert_eq!(word(DATA + 8 * index), memory.as_ptr().addr() as u64 + CODE as u64);
        }
    }

    proptest! {
        /// Whatever byte of an image is altered, and wherever it is cut: an answer, no panic, and what comes out is within its bounds, each page
        /// either writable or executable.
        #[test]
        fn damaged_images_are_answered(
            damage in prop::collection::vec((prop_oneof![0usize..320, DATA..DATA + 400, 0..3 * PAGE], any::<u8>()), 1..12),
            cut in prop::option::of(0usize..3 * PAGE),
        ) {
            let mut bytes = sample();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            bytes.truncate(cut.unwrap_or(bytes.len()));
            if let Ok((plan, memory)) = relocated(&bytes) {
                let mut free = 0;
                for segment in &plan.segments {
                    prop_assert!(segment.file.end <= bytes.len() && segment.memory.end as usize <= memory.len());
                    prop_assert!(segment.memory.start as usize / PAGE * PAGE >= free, "two segments share a page");
                    free = (segment.memory.end as usize).next_multiple_of(PAGE);
                }
                let executable = |segment: &Segment| {
                    segment.protection == Protection::ReadExecute && segment.memory.contains(&plan.entry)
                };
                prop_assert!(plan.segments.iter().any(executable));
            }
        }

        /// Whatever stands in the headers of a host's program: an answer, no panic, and nothing outside the file or the limit.
        #[test]
        fn planning_is_total(damage in prop::collection::vec((0usize..4096, any::<u8>()), 0..64)) {
            let mut bytes = std::fs::read("/proc/self/exe").unwrap();
            bytes.truncate(1 << 16);
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            if let Ok(plan) = plan(&bytes) {
                for segment in plan.segments {
                    prop_assert!(segment.file.end <= bytes.len());
                    prop_assert!(segment.memory.end <= MAX_BYTES);
                }
            }
        }
    }
}
