//! What a domain's code may execute: nothing that only a kernel has business with. In ring 0 the CPU would let it.
//!
//! Safe Rust has no way to such an instruction; this is for the day when a compiler, an assembler file or a precompiled library has one all the same. The
//! sections are decoded from their first byte to their last, as the compiler laid them out. (A jump into the middle of an instruction is what no compiler
//! emits, and hostile authors are not what this is against.)

use super::BuildError;
use iced_x86::{Code, Decoder, DecoderOptions, FastFormatter, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, elf};

/// More faults of one image than anybody reads.
const MAX_FAULTS: usize = 20;

/// Refuses an image, given with its symbols, that has an instruction which no domain has business with.
pub fn check(image: &str, bytes: &[u8]) -> Result<(), BuildError> {
    match faults(bytes) {
        Err(error) => Err(BuildError::Image { image: image.to_owned(), reason: format!("no ELF: {error}") }),
        Ok(faults) if faults.is_empty() => Ok(()),
        Ok(faults) => Err(BuildError::Refused { image: image.to_owned(), faults }),
    }
}

fn faults(bytes: &[u8]) -> object::Result<Vec<String>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    // Functions by address, to say where something is.
    let mut symbols: Vec<(u64, &str)> = file
        .symbols()
        .filter_map(|symbol| Some((symbol.address(), symbol.name().ok().filter(|name| !name.is_empty())?)))
        .collect();
    symbols.sort_unstable();
    let mut faults = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        for (address, text, why) in screen(section.data()?, section.address()) {
            let place = symbols[..symbols.partition_point(|(at, _)| *at <= address)].last();
            let place =
                place.map_or_else(|| "no symbol".to_owned(), |(at, name)| format!("{name}+{:#x}", address - at));
            faults.push(format!("`{text}` at {address:#x} ({place}): {why}"));
            if faults.len() == MAX_FAULTS {
                faults.push("… and perhaps more".to_owned());
                return Ok(faults);
            }
        }
    }
    Ok(faults)
}

/// Address, text and offence of each instruction that is refused.
fn screen(code: &[u8], start: u64) -> impl Iterator<Item = (u64, String, &'static str)> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    let mut instruction = Instruction::default();
    std::iter::from_fn(move || {
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if let Some(why) = offence(&instruction) {
                let mut text = String::new();
                formatter.format(&instruction, &mut text);
                return Some((instruction.ip(), text, why));
            }
        }
        None
    })
}

/// Why an instruction is none for a domain.
fn offence(instruction: &Instruction) -> Option<&'static str> {
    use Mnemonic as M;
    if instruction.code() == Code::INVALID {
        return Some("no instruction of this architecture, or data among code");
    }
    match instruction.mnemonic() {
        M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            return Some("port I/O is the kernel's");
        }
        M::Cli | M::Sti | M::Popf | M::Popfd | M::Popfq | M::Std | M::Stac | M::Clac => {
            return Some("the flags that it changes are the kernel's");
        }
        M::Hlt | M::Mwait | M::Monitor | M::Mwaitx | M::Monitorx => {
            return Some("the CPU is halted by the kernel alone");
        }
        M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Lmsw | M::Smsw | M::Clts => {
            return Some("descriptor tables and machine state are the kernel's");
        }
        M::Wrmsr | M::Rdmsr | M::Rdpmc | M::Xsetbv | M::Wrpkru => {
            return Some("model-specific registers are the kernel's");
        }
        M::Invlpg | M::Invpcid | M::Invd | M::Wbinvd | M::Wbnoinvd => {
            return Some("translations and caches are the kernel's");
        }
        M::Swapgs | M::Wrgsbase | M::Wrfsbase | M::Rdgsbase | M::Rdfsbase => {
            return Some("segment bases lead to the kernel's thread block");
        }
        M::Syscall | M::Sysret | M::Sysretq | M::Sysenter | M::Sysexit | M::Sysexitq | M::Vmcall | M::Vmmcall => {
            return Some("a domain asks the kernel by its table alone");
        }
        M::Iret | M::Iretd | M::Iretq => return Some("a return from interrupts is the kernel's"),
        // Not `int3`: linkers fill the space between functions with it, and whoever gets there is at fault by himself.
        M::Int | M::Int1 | M::Into => return Some("a software interrupt is no way to the kernel"),
        M::Retf | M::Lss | M::Lfs | M::Lgs => return Some("segments are the kernel's"),
        _ => {}
    }
    if instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far()
        || instruction.is_call_far()
    {
        return Some("segments are the kernel's");
    }
    for operand in 0..instruction.op_count() {
        if instruction.op_kind(operand) == OpKind::Register {
            let register = instruction.op_register(operand);
            if register.is_cr() || register.is_dr() || register.is_tr() {
                return Some("control and debug registers are the kernel's");
            }
            if register.is_segment_register() && operand == 0 {
                return Some("segments are the kernel's");
            }
        }
    }
    if matches!(instruction.segment_prefix(), Register::FS | Register::GS) && touches_memory(instruction) {
        return Some("it goes by a segment base, which leads to the kernel's thread block");
    }
    instruction.is_privileged().then_some("privileged instructions are the kernel's")
}

fn touches_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offences(code: &[u8]) -> Vec<(u64, &'static str)> {
        screen(code, 0x1000).map(|(at, _, why)| (at, why)).collect()
    }

    /// One encoding of each kind, after and before code that is well.
    #[test]
    fn what_only_a_kernel_executes_is_refused() {
        let cases: &[(&[u8], &str)] = &[
            (&[0xec], "port I/O"),
            (&[0x66, 0xef], "port I/O"),
            (&[0xf3, 0x6c], "port I/O"),
            (&[0xfa], "flags"),
            (&[0xfb], "flags"),
            (&[0x9d], "flags"),
            (&[0xfd], "flags"),
            (&[0xf4], "halted"),
            (&[0x0f, 0x01, 0x10], "descriptor tables"),
            (&[0x0f, 0x01, 0x18], "descriptor tables"),
            (&[0x0f, 0x00, 0xd8], "descriptor tables"),
            (&[0x0f, 0x30], "model-specific"),
            (&[0x0f, 0x32], "model-specific"),
            (&[0x0f, 0x01, 0xd1], "model-specific"),
            (&[0x0f, 0x01, 0x38], "translations"),
            (&[0x0f, 0x09], "translations"),
            (&[0x0f, 0x01, 0xf8], "segment bases"),
            (&[0xf3, 0x48, 0x0f, 0xae, 0xd8], "segment bases"),
            (&[0x0f, 0x05], "by its table"),
            (&[0x0f, 0x34], "by its table"),
            (&[0x48, 0xcf], "return from interrupts"),
            (&[0xcd, 0x80], "software interrupt"),
            (&[0xf1], "software interrupt"),
            (&[0x0f, 0x22, 0xd8], "control and debug"),
            (&[0x0f, 0x20, 0xc0], "control and debug"),
            (&[0x0f, 0x23, 0xf8], "control and debug"),
            (&[0xff, 0x28], "segments"),
            (&[0x48, 0xff, 0x18], "segments"),
            (&[0xcb], "segments"),
            (&[0x8e, 0xd8], "segments"),
            (&[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], "segment base"),
            (&[0x64, 0x48, 0x89, 0x04, 0x25, 0, 0, 0, 0], "segment base"),
            (&[0x06], "no instruction"),
        ];
        for (code, why) in cases {
            let mut padded = vec![0x90, 0x48, 0x89, 0xe5];
            padded.extend_from_slice(code);
            padded.extend([0x31, 0xc0, 0xc3]);
            let found = offences(&padded);
            assert!(matches!(&found[..], [(0x1004, said), ..] if said.contains(why)), "{code:x?}: {found:?}");
        }
    }

    /// What compilers emit for safe code passes: arithmetic, SSE, calls, traps by `ud2`, atomics, string moves, wide nops.
    #[test]
    fn ordinary_code_passes() {
        let code: &[u8] = &[
            0x55, 0x48, 0x89, 0xe5, 0x0f, 0x28, 0xc1, 0xf3, 0xa4, 0xf0, 0x48, 0x0f, 0xb1, 0x0f, 0x0f, 0x0b, 0x66, 0x2e,
            0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xff, 0xd0, 0xff, 0xe0, 0x0f, 0xa2, 0xf3, 0x90, 0x5d,
            0xc3, 0xcc, 0xcc,
        ];
        assert_eq!(offences(code), []);
    }

    /// This very program has all that a domain must not have, and its addresses have names.
    #[test]
    fn a_host_programs_system_calls_are_found() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Err(BuildError::Refused { faults, .. }) = check("own", &own) else { panic!("accepted") };
        assert!(faults.len() == MAX_FAULTS + 1 && faults.iter().any(|fault| fault.contains("+0x")), "{faults:?}");
    }

    proptest! {
        /// Any bytes are decoded to their end.
        #[test]
        fn any_bytes_are_decoded(code in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (at, why) in offences(&code) {
                prop_assert!((0x1000..0x1000 + 300).contains(&at) && !why.is_empty());
            }
        }

        /// Whatever is wrong with an ELF, the checks come to an answer.
        #[test]
        fn any_elf_is_answered(cut in 0usize..4096, places in proptest::collection::vec((0usize..4096, any::<u8>()), 0..20)) {
            static OWN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let own = std::fs::read("/proc/self/exe").unwrap();
                own[..own.len().min(1 << 20)].to_vec()
            });
            let mut bytes = OWN.clone();
            for (place, byte) in places {
                bytes[place] = byte;
            }
            if cut > 2048 {
                bytes.truncate(cut);
            }
            let _ = faults(&bytes);
            let _ = super::super::elf::check("x", &bytes);
            let _ = super::super::elf::check_kernel(&bytes);
        }
    }
}
