//! The local APIC of this CPU: end of interrupt, interrupts between CPUs, the one-shot timer. SDM vol. 3, chapter 11.
//!
//! x2APIC (registers as MSRs) where the CPU has it, else xAPIC (memory-mapped, 8-bit ids).

use core::{
    arch::x86_64::__cpuid,
    hint, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use x86_64::registers::model_specific::Msr;

use super::trap::{VECTOR_SPURIOUS, VECTOR_TIMER};
use crate::{clock, memory::paging};

/// Register offsets of xAPIC; the MSR of x2APIC is 0x800 + offset / 16 (§11.12.1.2).
mod register {
    pub const ID: u32 = 0x20;
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const SPURIOUS: u32 = 0xf0;
    pub const COMMAND: u32 = 0x300;
    pub const COMMAND_HIGH: u32 = 0x310;
    pub const TIMER: u32 = 0x320;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

const BASE_MSR: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const DEADLINE_MSR: u32 = 0x6e0;

const TIMER_MASKED: u32 = 1 << 16;
const TIMER_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_16: u32 = 3;

/// Command register (§11.6.1): assert, delivery status, delivery modes.
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;
const MODE_NON_MASKABLE: u32 = 4 << 8;
const MODE_INIT: u32 = 5 << 8;
const MODE_START: u32 = 6 << 8;
const LEVEL_TRIGGERED: u32 = 1 << 15;

static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);
static REGISTERS: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// Timer counts in 2^32 nanoseconds; 0 until calibrated.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the APIC is in x2APIC mode, where this MSR exists.
        return unsafe { Msr::new(0x800 + register / 16).read() } as u32;
    }
    // SAFETY: the registers are mapped, uncached.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register as usize).cast::<u32>().read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; none of the registers written here affects memory safety.
        unsafe { Msr::new(0x800 + register / 16).write(value.into()) };
        return;
    }
    // SAFETY: as in `read`.
    unsafe { REGISTERS.load(Ordering::Relaxed).add(register as usize).cast::<u32>().write_volatile(value) }
}

/// Chooses the mode, on the boot CPU; `address` is the MADT's.
pub fn find(address: Option<u64>) {
    let features = __cpuid(1).ecx;
    X2APIC.store(features & 1 << 21 != 0, Ordering::Relaxed);
    DEADLINE.store(features & 1 << 24 != 0, Ordering::Relaxed);
    let address = address.unwrap_or(0xfee0_0000);
    let registers = paging::map_device(address, 4096).expect("no page table for the local APIC");
    REGISTERS.store(registers, Ordering::Relaxed);
}

/// How the APIC is driven, for the boot report.
pub fn mode() -> (&'static str, &'static str) {
    let mode = if X2APIC.load(Ordering::Relaxed) { "x2APIC" } else { "xAPIC" };
    (mode, if DEADLINE.load(Ordering::Relaxed) { "TSC deadline" } else { "one-shot" })
}

/// Switches this CPU's APIC on.
pub fn enable() {
    let mut base = Msr::new(BASE_MSR);
    // SAFETY: switching on what `find` has found; from xAPIC to x2APIC is an allowed step (§11.12.5).
    unsafe {
        let value = base.read() | BASE_ENABLE;
        base.write(value);
        if X2APIC.load(Ordering::Relaxed) {
            base.write(value | BASE_X2APIC);
        }
    }
    write(register::TASK_PRIORITY, 0);
    write(register::SPURIOUS, 1 << 8 | u32::from(VECTOR_SPURIOUS));
    if DEADLINE.load(Ordering::Relaxed) {
        write(register::TIMER, TIMER_DEADLINE | u32::from(VECTOR_TIMER));
        // The mode must be set before the first deadline is: a store to xAPIC doesn't order that by itself (§11.5.4.1).
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        write(register::TIMER_DIVIDE, DIVIDE_BY_16);
        write(register::TIMER, VECTOR_TIMER.into());
    }
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    if X2APIC.load(Ordering::Relaxed) { read(register::ID) } else { read(register::ID) >> 24 }
}

/// Measures the timer against the clock, unless it counts in TSC ticks anyway.
pub fn calibrate_timer() {
    if DEADLINE.load(Ordering::Relaxed) {
        return;
    }
    write(register::TIMER, TIMER_MASKED | u32::from(VECTOR_TIMER));
    // A busy host stops us at will. Time is read outside of what is counted, so a stop can only make the rate too low; the highest is the best.
    let mut best = 0;
    for _ in 0..3 {
        let start = clock::now();
        write(register::TIMER_INITIAL, u32::MAX);
        while clock::now() - start < 2_000_000 {
            hint::spin_loop();
        }
        let counted = u32::MAX - read(register::TIMER_CURRENT);
        let passed = clock::now() - start;
        best = best.max((u64::from(counted) << 32) / passed.max(1));
    }
    write(register::TIMER_INITIAL, 0);
    write(register::TIMER, VECTOR_TIMER.into());
    // A rate that is a little too low makes the timer early, which costs an interrupt; it never makes a sleeper late.
    TIMER_RATE.store(best.max(1), Ordering::Relaxed);
}

/// Lets the timer fire at `deadline` (nanoseconds since boot), or not at all for [`clock::NEVER`]. It may fire early.
pub fn arm_timer(deadline: u64) {
    if DEADLINE.load(Ordering::Relaxed) {
        let ticks = if deadline == clock::NEVER { 0 } else { clock::ticks_at(deadline).max(1) };
        // SAFETY: the CPU has the deadline mode; 0 disarms (§11.5.4.1).
        unsafe { Msr::new(DEADLINE_MSR).write(ticks) };
        return;
    }
    let counts = if deadline == clock::NEVER {
        0
    } else {
        let ahead = deadline.saturating_sub(clock::now());
        let counts = (u128::from(ahead) * u128::from(TIMER_RATE.load(Ordering::Relaxed))) >> 32;
        u32::try_from(counts).unwrap_or(u32::MAX).max(1)
    };
    write(register::TIMER_INITIAL, counts);
}

pub fn end_of_interrupt() {
    write(register::END_OF_INTERRUPT, 0);
}

fn command(target: u32, command: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // What was written before must be seen by the target; a WRMSR to the x2APIC doesn't order that (§11.12.3).
        core::sync::atomic::fence(Ordering::SeqCst);
        let value = u64::from(target) << 32 | u64::from(command);
        // SAFETY: x2APIC mode; an interrupt to another CPU runs only our own handlers.
        unsafe { Msr::new(0x800 + register::COMMAND / 16).write(value) };
        return;
    }
    // The two halves and the wait belong together.
    x86_64::instructions::interrupts::without_interrupts(|| {
        while read(register::COMMAND) & COMMAND_PENDING != 0 {
            hint::spin_loop();
        }
        write(register::COMMAND_HIGH, target << 24);
        write(register::COMMAND, command);
    });
}

/// Raises `vector` on the CPU with this APIC id, which may be the caller's.
pub fn send(target: u32, vector: u8) {
    command(target, COMMAND_ASSERT | u32::from(vector));
}

pub fn send_non_maskable(target: u32) {
    command(target, COMMAND_ASSERT | MODE_NON_MASKABLE);
}

/// Resets another CPU.
pub fn send_init(target: u32) {
    command(target, COMMAND_ASSERT | LEVEL_TRIGGERED | MODE_INIT);
}

/// Lets a CPU that was reset begin at `page` (its address divided by 4,096), in real mode.
pub fn send_start(target: u32, page: u8) {
    command(target, COMMAND_ASSERT | MODE_START | u32::from(page));
}
