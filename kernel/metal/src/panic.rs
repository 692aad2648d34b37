//! The end: what happened, on whose behalf, and how the CPU got there; then reset or halt, as the command line says (`panic=halt`,
//! `panic=reset`; reset by default, since an appliance should come back).

use core::{
    fmt::{self, Write},
    hint,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering},
};

use metal::acpi::ResetRegister;
use x86_64::{instructions::interrupts, instructions::port::Port};

use crate::{
    cpu::{self, apic, trap::Frame},
    memory::paging,
    report::Report,
    serial,
};

static PANICKING: AtomicBool = AtomicBool::new(false);
static HALT: AtomicBool = AtomicBool::new(false);
static RESET_PORT: AtomicU16 = AtomicU16::new(0);
static RESET_VALUE: AtomicU8 = AtomicU8::new(0);
/// Exit code for QEMU's isa-debug-exit, if the self-test runs: a panic must fail it. 0: none.
static TEST_EXIT: AtomicU32 = AtomicU32::new(0);

const TEST_EXIT_PORT: u16 = 0xf4;
const BACKTRACE_DEPTH: usize = 24;

/// What to do after a panic, from the command line and the FADT.
pub fn configure(halt: bool, register: Option<ResetRegister>) {
    HALT.store(halt, Ordering::Relaxed);
    if let Some(register) = register {
        RESET_PORT.store(register.port, Ordering::Relaxed);
        RESET_VALUE.store(register.value, Ordering::Relaxed);
    }
}

/// From here on a panic ends QEMU with `code` instead.
pub fn fail_tests_with(code: u32) {
    TEST_EXIT.store(code, Ordering::Relaxed);
}

/// Ends QEMU through its isa-debug-exit device: its exit status is `code * 2 + 1`. Returns if there is no such device.
pub fn exit_qemu(code: u32) {
    // SAFETY: the port is QEMU's device or nothing.
    unsafe { Port::<u32>::new(TEST_EXIT_PORT).write(code) };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    begin();
    let mut out = Report;
    line(&mut out, format_args!("\nkernel panic: {}", info.message()));
    if let Some(location) = info.location() {
        line(&mut out, format_args!("  at {location}"));
    }
    finish(frame_pointer())
}

/// The kernel can't go on, says the domain core.
pub fn fatal(text: fmt::Arguments) -> ! {
    begin();
    line(&mut Report, format_args!("\nkernel panic: {text}"));
    finish(frame_pointer())
}

/// A CPU exception that no domain is to blame for.
pub fn exception(vector: u8, address: u64, frame: &Frame) -> ! {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range",
        "invalid opcode",
        "no FPU",
        "double fault",
        "coprocessor overrun",
        "invalid TSS",
        "segment not present",
        "stack fault",
        "general protection",
        "page fault",
        "reserved",
        "x87 error",
        "alignment check",
        "machine check",
        "SIMD error",
        "virtualisation",
        "control protection",
    ];
    begin();
    let name = NAMES.get(usize::from(vector)).unwrap_or(&"exception");
    let mut out = Report;
    line(&mut out, format_args!("\nkernel panic: {name} (vector {vector}, error {:#x}) in the kernel", frame.error));
    if vector == 14 {
        line(&mut out, format_args!("  address {address:#018x}"));
    }
    registers(&mut out, frame);
    finish(frame.rbp)
}

/// A state that can't be, found in a trap.
pub fn bug(what: &str, frame: &Frame) -> ! {
    begin();
    let mut out = Report;
    line(&mut out, format_args!("\nkernel panic: {what}"));
    registers(&mut out, frame);
    finish(frame.rbp)
}

/// A non-maskable interrupt: another CPU panics and wants this one to stand still, or the hardware reports an error.
pub fn non_maskable() -> ! {
    if PANICKING.load(Ordering::SeqCst) {
        halt();
    }
    panic!("non-maskable interrupt: the hardware reports an error");
}

fn registers(out: &mut Report, frame: &Frame) {
    line(out, format_args!("  rip {:#018x}  rsp {:#018x}  rflags {:#x}", frame.rip, frame.rsp, frame.rflags));
    line(
        out,
        format_args!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", frame.rax, frame.rbx, frame.rcx, frame.rdx),
    );
    line(
        out,
        format_args!("  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", frame.rsi, frame.rdi, frame.rbp, frame.r8),
    );
    line(
        out,
        format_args!("  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", frame.r9, frame.r10, frame.r11, frame.r12),
    );
    line(out, format_args!("  r13 {:016x} r14 {:016x} r15 {:016x}", frame.r13, frame.r14, frame.r15));
}

/// Stops the other CPUs and opens the locks of the console. Whoever panics second stands still.
fn begin() {
    interrupts::disable();
    if PANICKING.swap(true, Ordering::SeqCst) {
        halt();
    }
    serial::panicking();
    if cpu::has_block() {
        let me = cpu::this().id;
        for other in cpu::all().filter(|other| other.id != me) {
            apic::send_non_maskable(other.apic);
        }
    }
}

fn finish(frame: u64) -> ! {
    let mut out = Report;
    if cpu::has_block() {
        let cpu = cpu::this();
        let block = cpu.scheduler.current_block();
        let who = if cpu.scheduler.is_idle() { "idle" } else { "thread" };
        line(
            &mut out,
            format_args!("  CPU {}, {who} {:p}, {} ms after boot", cpu.id, block, crate::clock::now() / 1_000_000),
        );
        // Neither place can fail.
        let _ = out.write_str("  on behalf of ");
        let _ = block.write_chain(&mut out);
        line(&mut out, format_args!(""));
    }
    backtrace(&mut out, frame);
    let code = TEST_EXIT.load(Ordering::Relaxed);
    if code != 0 {
        exit_qemu(code);
    }
    if HALT.load(Ordering::Relaxed) {
        line(&mut out, format_args!("halted"));
        halt();
    }
    line(&mut out, format_args!("resetting"));
    reset()
}

fn line(out: &mut Report, text: fmt::Arguments) {
    // Writing to the console can't fail.
    let _ = writeln!(out, "{text}");
}

fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// Return addresses along the frame pointers, as far as they lead through mapped memory.
fn backtrace(out: &mut Report, mut frame: u64) {
    line(out, format_args!("  return addresses:"));
    for _ in 0..BACKTRACE_DEPTH {
        let is_in_kernel_half = frame.is_multiple_of(8) && frame >> 47 == 0x1_ffff;
        if !is_in_kernel_half || !paging::is_readable(frame) || !paging::is_readable(frame + 8) {
            break;
        }
        // SAFETY: both words are mapped memory; whatever they are, reading them harms nothing.
        let (next, address) = unsafe { ((frame as *const u64).read(), (frame as *const u64).add(1).read()) };
        if address == 0 {
            break;
        }
        line(out, format_args!("    {address:#018x}"));
        if next <= frame {
            break;
        }
        frame = next;
    }
}

fn halt() -> ! {
    loop {
        interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Resets the machine: the FADT's register, the chipset's, the keyboard controller's line.
pub fn reset() -> ! {
    let port = RESET_PORT.load(Ordering::Relaxed);
    // SAFETY: the machine is given up.
    unsafe {
        if port != 0 {
            Port::<u8>::new(port).write(RESET_VALUE.load(Ordering::Relaxed));
            wait();
        }
        Port::<u8>::new(0xcf9).write(6);
        wait();
        Port::<u8>::new(0x64).write(0xfe);
    }
    wait();
    halt()
}

fn wait() {
    for _ in 0..1_000_000 {
        hint::spin_loop();
    }
}
