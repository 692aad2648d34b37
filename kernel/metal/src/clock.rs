//! Time: nanoseconds since boot, from the time-stamp counter, whose rate is measured and never assumed.
//!
//! Measured against the ACPI power-management timer, or without one against the PIT; taken from CPUID where the
//! CPU states its crystal. Emulated on a busy host any two reads may lie far apart, so each sample is the tightest of several.

use core::{
    arch::x86_64::{__cpuid, _rdtsc},
    hint,
    sync::atomic::{AtomicU64, Ordering},
};

use metal::{acpi::PmTimer, date::Registers};
use x86_64::instructions::port::Port;

/// "Not at all" as a deadline.
pub const NEVER: u64 = u64::MAX;

const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
/// How long to measure. 20 ms against a 3.58 MHz timer leaves an error of about 20 ppm.
const WINDOW_PM: u64 = PM_TIMER_HZ / 50;
const WINDOW_PIT: u16 = (PIT_HZ / 25) as u16;

static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds in 2^32 ticks.
static SCALE: AtomicU64 = AtomicU64::new(0);
static HZ: AtomicU64 = AtomicU64::new(0);

/// Seconds since 1970 when [`now`] was 0; 0 while nobody knows.
static BOOT_DATE: AtomicU64 = AtomicU64::new(0);

/// What the rate was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Cpuid,
    PmTimer,
    Pit,
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: every CPU that can run in long mode has the instruction.
    unsafe { _rdtsc() }
}

/// Begins to count, from the very first instruction on.
pub fn begin() {
    START.store(ticks(), Ordering::Relaxed);
}

/// Finds the rate of the counter.
pub fn calibrate(pm_timer: Option<PmTimer>) -> (u64, Source) {
    let (hz, source) = match (from_cpuid(), pm_timer) {
        (Some(hz), _) => (hz, Source::Cpuid),
        (None, Some(timer)) => (against_pm_timer(timer), Source::PmTimer),
        (None, None) => (against_pit(), Source::Pit),
    };
    HZ.store(hz, Ordering::Relaxed);
    SCALE.store(((1_000_000_000u128 << 32) / u128::from(hz)) as u64, Ordering::Relaxed);
    (hz, source)
}

/// SDM vol. 3, §19.7.3: leaf 15h gives the ratio and the crystal, if it gives anything.
fn from_cpuid() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax))
}

/// A value of the reference and the tick in the middle of reading it, from the attempt that took the least.
fn sample(mut reference: impl FnMut() -> u32) -> (u64, u32) {
    (0..8)
        .map(|_| {
            let before = ticks();
            let value = reference();
            let after = ticks();
            (after - before, before + (after - before) / 2, value)
        })
        .min_by_key(|(took, ..)| *took)
        .map(|(_, tick, value)| (tick, value))
        .unwrap_or((0, 0))
}

fn against_pm_timer(timer: PmTimer) -> u64 {
    let mask = if timer.wide { u32::MAX } else { 0xff_ffff };
    let mut port = Port::<u32>::new(timer.port);
    // SAFETY: reading the timer that the FADT names has no effect.
    let mut read = || unsafe { port.read() } & mask;
    let (first_tick, first) = sample(&mut read);
    while u64::from(read().wrapping_sub(first) & mask) < WINDOW_PM {
        hint::spin_loop();
    }
    let (last_tick, last) = sample(&mut read);
    let passed = u64::from(last.wrapping_sub(first) & mask);
    ((u128::from(last_tick - first_tick) * u128::from(PM_TIMER_HZ)) / u128::from(passed.max(1))) as u64
}

/// Channel 2 in mode 0 counts down once; its output is bit 5 of port 0x61 (Intel 8254; the speaker stays off).
fn against_pit() -> u64 {
    let (mut gate, mut command, mut data) = (Port::<u8>::new(0x61), Port::<u8>::new(0x43), Port::<u8>::new(0x42));
    let mut best = u64::MAX;
    for _ in 0..2 {
        // SAFETY: the timer's channel 2 drives nothing but the speaker, which is off.
        let start = unsafe {
            let old = gate.read();
            gate.write(old & !2 | 1);
            command.write(0xb0);
            data.write(WINDOW_PIT as u8);
            data.write((WINDOW_PIT >> 8) as u8);
            ticks()
        };
        // SAFETY: reading has no effect. A machine whose PIT stands still would hang here, so give up after 2^34 ticks.
        while unsafe { gate.read() } & 0x20 == 0 && ticks() - start < 1 << 34 {
            hint::spin_loop();
        }
        // An interruption by the host can only make it longer.
        best = best.min(ticks() - start);
    }
    best * PIT_HZ / u64::from(WINDOW_PIT)
}

/// Nanoseconds since boot: the same on all CPUs, never going back (the counters of all CPUs run as one: `cpu::start` checks it).
pub fn now() -> u64 {
    let passed = ticks().saturating_sub(START.load(Ordering::Relaxed));
    ((u128::from(passed) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Asks the battery-backed clock for the date: once, since reading it is slow. After `calibrate`.
pub fn learn_date(century: Option<u8>) -> Option<i64> {
    let (mut index, mut data) = (Port::<u8>::new(0x70), Port::<u8>::new(0x71));
    let mut read = |register: u8| {
        // SAFETY: reading these registers has no effect; bit 7 of the index keeps the NMI as it is, on.
        unsafe {
            index.write(register);
            data.read()
        }
    };
    let mut registers = || {
        // Register A bit 7: an update begins within 244 µs, and takes 2 ms at most (MC146818A, "Update cycle").
        let limit = now() + 10_000_000;
        while read(0x0a) & 0x80 != 0 && now() < limit {
            hint::spin_loop();
        }
        Registers {
            second: read(0x00),
            minute: read(0x02),
            hour: read(0x04),
            day: read(0x07),
            month: read(0x08),
            year: read(0x09),
            century: century.map(&mut read),
            format: read(0x0b),
        }
    };
    // The same twice: no update came between.
    let mut last = registers();
    let steady = (0..8).find_map(|_| {
        let before = core::mem::replace(&mut last, registers());
        (before == last).then_some(before)
    });
    let date = steady?.date()?;
    BOOT_DATE.store((date as u64).saturating_sub(now() / 1_000_000_000), Ordering::Relaxed);
    Some(date)
}

/// Seconds since 1970 when [`now`] was 0, if the box knows.
pub fn boot_date() -> Option<u64> {
    Some(BOOT_DATE.load(Ordering::Relaxed)).filter(|date| *date != 0)
}

/// The counter's value at a time.
pub fn ticks_at(time: u64) -> u64 {
    let passed = u128::from(time) * u128::from(HZ.load(Ordering::Relaxed)) / 1_000_000_000;
    START.load(Ordering::Relaxed).saturating_add(passed as u64)
}

/// Waits without giving up the CPU; for the boot, before there are threads.
pub fn spin(nanoseconds: u64) {
    let until = now().saturating_add(nanoseconds);
    while now() < until {
        hint::spin_loop();
    }
}
