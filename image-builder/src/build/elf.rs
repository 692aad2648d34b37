//! What a domain's ELF may be: nothing that the kernel's loader would have to be clever about.

use super::BuildError;
use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectKind, ObjectSection, ObjectSymbol, RelocationFlags};
use std::path::Path;
use std::process::Command;

/// Sections that are loaded. Thread-local storage, constructors, a global offset table for lazy binding and whatever else isn't here need a loader
/// that we don't have.
const SECTIONS: [&str; 15] = [
    ".bss",
    ".data",
    ".data.rel.ro",
    ".dynamic",
    ".dynstr",
    ".dynsym",
    ".eh_frame",
    ".eh_frame_hdr",
    ".gcc_except_table",
    ".gnu.hash",
    ".got",
    ".hash",
    ".rela.dyn",
    ".rodata",
    ".text",
];

/// The kernel's own sections, as kernel/metal/link.ld lays them out.
const KERNEL_SECTIONS: [&str; 8] = [".boot", ".bss", ".data", ".data.rel.ro", ".got", ".note.pvh", ".rodata", ".text"];

/// Refuses a kernel that has more in it than its link script says: a section that nobody has placed, something left to relocate, or code that can be written
/// (but for the first page, which runs before there are page tables, and is never mapped afterwards).
pub fn check_kernel(bytes: &[u8]) -> Result<(), BuildError> {
    let image = || "kernel".to_owned();
    match kernel_faults(bytes) {
        Err(error) => Err(BuildError::Image { image: image(), reason: format!("no ELF: {error}") }),
        Ok(faults) if faults.is_empty() => Ok(()),
        Ok(faults) => Err(BuildError::Refused { image: image(), faults }),
    }
}

fn kernel_faults(bytes: &[u8]) -> object::Result<Vec<String>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let endian = file.endian();
    let mut faults = Vec::new();
    if file.kind() != ObjectKind::Executable {
        faults.push("it is not an executable with addresses of its own".to_owned());
    }
    let mut boot = None;
    for section in file.sections() {
        let name = section.name()?;
        if name.starts_with(".rel") {
            faults.push(format!("section {name}: something is left to relocate"));
        } else if section.address() != 0 && !KERNEL_SECTIONS.contains(&name) {
            faults.push(format!("section {name} is none of the link script's"));
        }
        if name == ".boot" {
            boot = Some(section.address());
        }
    }
    for header in file.elf_program_headers() {
        let flags = header.p_flags(endian);
        let is_boot = boot == Some(header.p_vaddr(endian));
        match header.p_type(endian) {
            elf::PT_LOAD if flags & elf::PF_W != 0 && flags & elf::PF_X != 0 && !is_boot => {
                faults.push(format!("the segment at {:#x} is both writable and executable", header.p_vaddr(endian)));
            }
            elf::PT_INTERP | elf::PT_DYNAMIC => faults.push("it wants a dynamic linker".to_owned()),
            elf::PT_TLS => faults.push("it has thread-local variables".to_owned()),
            _ => {}
        }
    }
    Ok(faults)
}

/// Refuses an image that isn't as plain as it should be.
pub fn check(image: &str, bytes: &[u8]) -> Result<(), BuildError> {
    faults(bytes).map_or_else(
        |error| Err(BuildError::Image { image: image.to_owned(), reason: format!("no ELF: {error}") }),
        |faults| match faults.is_empty() {
            true => Ok(()),
            false => Err(BuildError::Refused { image: image.to_owned(), faults }),
        },
    )
}

fn faults(bytes: &[u8]) -> object::Result<Vec<String>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let endian = file.endian();
    let mut faults = Vec::new();
    if file.kind() != ObjectKind::Dynamic {
        faults.push("it is not position-independent".to_owned());
    }
    if file.entry() == 0 {
        faults.push("it has no entry".to_owned());
    }
    for header in file.elf_program_headers() {
        let flags = header.p_flags(endian);
        match header.p_type(endian) {
            elf::PT_LOAD if flags & elf::PF_W != 0 && flags & elf::PF_X != 0 => {
                faults.push("a segment is both writable and executable".to_owned());
            }
            elf::PT_INTERP => faults.push("it wants a dynamic linker".to_owned()),
            elf::PT_TLS => {
                faults.push("it has thread-local variables; a domain's threads share its statics".to_owned())
            }
            elf::PT_GNU_STACK if flags & elf::PF_X != 0 => faults.push("it wants an executable stack".to_owned()),
            _ => {}
        }
    }
    for section in file.sections().filter(|section| section.address() != 0) {
        let name = section.name()?;
        if !SECTIONS.contains(&name) {
            faults.push(format!("section {name} is none that the loader knows"));
        }
    }
    for (offset, relocation) in file.dynamic_relocations().into_iter().flatten() {
        if relocation.flags() != (RelocationFlags::Elf { r_type: elf::R_X86_64_RELATIVE }) {
            faults
                .push(format!("the relocation at {offset:#x} is not relative to the image ({:?})", relocation.flags()));
        }
    }
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_undefined()) {
        faults.push(format!("symbol {} is defined nowhere", symbol.name()?));
    }
    Ok(faults)
}

/// The image without symbols, which the box has no use for. binutils come with every C compiler.
pub fn strip(path: &Path) -> Result<Vec<u8>, BuildError> {
    let stripped = path.with_extension("stripped");
    let status = Command::new("strip").args(["--strip-all", "-o"]).args([stripped.as_path(), path]).status();
    let status = status.map_err(|source| BuildError::Program { program: "strip", source })?;
    if !status.success() {
        return Err(BuildError::Image {
            image: path.display().to_string(),
            reason: "strip failed; its words are above".into(),
        });
    }
    std::fs::read(&stripped).map_err(BuildError::file("reading", stripped))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of the host is everything that a domain must not be.
    #[test]
    fn host_programs_are_refused() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Err(BuildError::Refused { faults, .. }) = check("own", &own) else { panic!("accepted") };
        for expected in ["dynamic linker", "thread-local", ".init_array", "defined nowhere", "not relative"] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
    }

    /// And all that the kernel must not be.
    #[test]
    fn a_host_program_is_no_kernel() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Err(BuildError::Refused { faults, .. }) = check_kernel(&own) else { panic!("accepted") };
        for expected in ["addresses of its own", "left to relocate", "dynamic linker", "thread-local", ".init_array"] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
    }

    /// Bytes that are no ELF are an error that says so.
    #[test]
    fn garbage_is_refused() {
        assert!(matches!(check("x", b"\x7fELF"), Err(BuildError::Image { .. })));
    }
}
