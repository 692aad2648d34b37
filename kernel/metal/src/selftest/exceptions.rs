//! CPU exceptions: each arrives with the right vector and address, on a stack of its own, and the thread goes on elsewhere in a clean state.

use core::arch::asm;

use super::{Outcome, Test, catch};
use crate::check;

pub const TESTS: &[Test] = &[
    ("a body without exceptions returns", nothing_happens),
    ("divide error, invalid opcode, breakpoint, general protection", vectors),
    ("page faults say where", page_faults),
    ("a stack overflow is a page fault on the guard page", stack_overflow),
    ("a diverted thread has clean flags and interrupts", clean_flags),
    ("ten thousand exceptions in a row", many),
];

extern "C" fn nothing() {}

fn nothing_happens() -> Outcome {
    let caught = catch::run(nothing);
    check!(caught.is_none(), "{caught:?}");
    Ok(())
}

extern "C" fn divide() {
    // SAFETY: faults.
    unsafe { asm!("xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx", out("eax") _, out("ecx") _, out("edx") _) };
}

extern "C" fn invalid() {
    // SAFETY: faults.
    unsafe { asm!("ud2") };
}

extern "C" fn breakpoint() {
    // SAFETY: traps.
    unsafe { asm!("int3") };
}

extern "C" fn non_canonical() {
    // SAFETY: faults.
    unsafe { asm!("mov {address}, [{address}]", address = inout(reg) 0x8000_0000_0000_0000u64 => _) };
}

fn vectors() -> Outcome {
    for (vector, body) in [(0, divide as extern "C" fn()), (6, invalid), (3, breakpoint), (13, non_canonical)] {
        let caught = catch::run(body).map(|caught| caught.vector);
        check!(caught == Some(vector), "vector {vector} gives {caught:?}");
    }
    Ok(())
}

const NOWHERE: u64 = 0xffff_e000_1234_5678;

extern "C" fn write_nowhere() {
    // SAFETY: faults.
    unsafe { (NOWHERE as *mut u8).write_volatile(1) };
}

extern "C" fn jump_nowhere() {
    // SAFETY: faults.
    unsafe { asm!("call {}", in(reg) NOWHERE, clobber_abi("C")) };
}

fn page_faults() -> Outcome {
    for body in [write_nowhere as extern "C" fn(), jump_nowhere] {
        let caught = catch::run(body);
        check!(caught.is_some_and(|caught| (caught.vector, caught.address) == (14, NOWHERE)), "{caught:?}");
    }
    Ok(())
}

extern "C" fn overflow() {
    // Each step uses the red zone and a frame, as a domain's recursion would.
    #[inline(never)]
    #[allow(unconditional_recursion)]
    fn deeper(depth: u64) -> u64 {
        let mut frame = [depth; 32];
        core::hint::black_box(&mut frame);
        deeper(depth + 1) + frame[(depth % 32) as usize]
    }
    core::hint::black_box(deeper(0));
}

fn stack_overflow() -> Outcome {
    use alloc::sync::Arc;
    let result = Arc::new(crate::lock::SpinLock::new(None));
    let theirs = result.clone();
    let worker = super::crew::spawn(0, kernel_core::platform::Priority::Normal, move || {
        let caught = catch::run(overflow);
        *theirs.lock() = Some(caught);
    });
    let (bottom, _) = worker.stack;
    worker.join()?;
    let caught = result.lock().take().flatten();
    let is_on_guard =
        caught.is_some_and(|caught| caught.vector == 14 && (bottom - 4096..bottom).contains(&caught.address));
    check!(is_on_guard, "{caught:?} for a stack from {bottom:#x}");
    Ok(())
}

extern "C" fn dirty() {
    // SAFETY: sets DF and AC, clears IF, then faults.
    unsafe { asm!("cli", "pushfq", "or qword ptr [rsp], 0x40400", "popfq", "ud2") };
}

fn clean_flags() -> Outcome {
    let caught = catch::run(dirty);
    let flags: u64;
    // SAFETY: reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    check!(caught.is_some_and(|caught| caught.vector == 6), "{caught:?}");
    check!(flags & 0x4_0700 == 0x200, "flags {flags:#x} afterwards");
    Ok(())
}

fn many() -> Outcome {
    for round in 0..10_000 {
        let caught = catch::run(if round % 2 == 0 { invalid } else { write_nowhere });
        check!(caught.is_some(), "round {round} isn't caught");
    }
    Ok(())
}
