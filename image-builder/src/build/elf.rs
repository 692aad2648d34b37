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

    /// Bytes that are no ELF are an error that says so.
    #[test]
    fn garbage_is_refused() {
        assert!(matches!(check("x", b"\x7fELF"), Err(BuildError::Image { .. })));
    }
}
