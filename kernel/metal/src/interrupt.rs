//! Interrupts of devices: which event each vector of each CPU stands for, and the legacy interrupt controllers.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use kernel_core::interrupt::Vector;
use metal::acpi::Acpi;
use x86_64::instructions::port::Port;

use crate::{
    cpu::{
        self, MAX_CPUS,
        trap::{FIRST_DEVICE_VECTOR, LAST_DEVICE_VECTOR},
    },
    lock::SpinLock,
    memory::paging,
};

const VECTORS: usize = (LAST_DEVICE_VECTOR - FIRST_DEVICE_VECTOR) as usize + 1;

static EVENTS: [[AtomicPtr<Vector>; VECTORS]; MAX_CPUS] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; VECTORS] }; MAX_CPUS];
/// One allocation at a time; the handler reads `EVENTS` without it.
static ALLOCATION: SpinLock<()> = SpinLock::new(());
/// Interrupts that nobody waits for.
static STRAY: AtomicU64 = AtomicU64::new(0);

/// A vector of one CPU, taken for a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub cpu: usize,
    pub vector: u8,
}

/// Takes a free vector on `cpu`; from now on it fires `event`.
pub fn attach(cpu: usize, event: &'static Vector) -> Option<Route> {
    let _guard = ALLOCATION.lock();
    let events = EVENTS.get(cpu)?;
    let index = events.iter().position(|slot| slot.load(Ordering::Relaxed).is_null())?;
    events[index].store(ptr::from_ref(event).cast_mut(), Ordering::Release);
    Some(Route { cpu, vector: FIRST_DEVICE_VECTOR + index as u8 })
}

/// Gives a vector back. When this returns its handler runs nowhere and won't run again. The device has been told already not to send.
pub fn detach(route: Route) {
    let slot = &EVENTS[route.cpu][usize::from(route.vector - FIRST_DEVICE_VECTOR)];
    slot.store(ptr::null_mut(), Ordering::SeqCst);
    // Handlers run with interrupts off, so a CPU that answers is in none.
    cpu::barrier();
}

/// Called by the trap's handler.
pub fn dispatch(cpu: usize, vector: u8) {
    let slot = &EVENTS[cpu][usize::from(vector - FIRST_DEVICE_VECTOR)];
    // SAFETY: null or an event that lives for ever.
    match unsafe { slot.load(Ordering::Acquire).as_ref() } {
        Some(event) => event.fire(),
        None => {
            STRAY.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Interrupts that came for nobody, since boot.
pub fn stray() -> u64 {
    STRAY.load(Ordering::Relaxed)
}

/// Moves the legacy controllers' vectors out of the way of exceptions and masks all of their lines (Intel 8259A): an interrupt of the timer would arrive
/// as a double fault otherwise.
pub fn silence_legacy_controllers() {
    let (mut command, mut data) = (Port::<u8>::new(0x20), Port::<u8>::new(0x21));
    let (mut command_2, mut data_2) = (Port::<u8>::new(0xa0), Port::<u8>::new(0xa1));
    // SAFETY: the initialisation sequence ICW1 to ICW4, then all lines masked; nothing uses these controllers.
    unsafe {
        command.write(0x11);
        command_2.write(0x11);
        data.write(0x20);
        data_2.write(0x28);
        data.write(4);
        data_2.write(2);
        data.write(1);
        data_2.write(1);
        data.write(0xff);
        data_2.write(0xff);
    }
}

/// Routes an ISA interrupt (of a serial port) to a vector of a CPU through the I/O APIC that serves it. False if none does.
pub fn route_isa(acpi: &Acpi, isa: u8, apic: u32, vector: u8) -> bool {
    const LEVEL: u32 = 1 << 15;
    const ACTIVE_LOW: u32 = 1 << 13;
    let special = acpi.overrides.iter().find(|special| special.isa == isa);
    let interrupt = special.map_or(u32::from(isa), |special| special.interrupt);
    let flags = special.map_or(0, |special| {
        (u32::from(special.level_triggered) * LEVEL) | (u32::from(special.active_low) * ACTIVE_LOW)
    });
    let controller =
        acpi.io_apics.iter().filter(|io| io.first_interrupt <= interrupt).max_by_key(|io| io.first_interrupt);
    let (Some(controller), Ok(apic)) = (controller, u8::try_from(apic)) else { return false };
    let Ok(registers) = paging::map_device(controller.address.into(), 0x20) else { return false };
    let line = interrupt - controller.first_interrupt;
    let select = registers.cast::<u32>();
    // SAFETY: the controller's registers are mapped: select at 0, window at 0x10 (Intel 82093AA §3.1); only the boot CPU is here.
    unsafe {
        let window = registers.add(0x10).cast::<u32>();
        select.write_volatile(1);
        let last_line = window.read_volatile() >> 16 & 0xff;
        if line > last_line {
            return false;
        }
        select.write_volatile(0x11 + 2 * line);
        window.write_volatile(u32::from(apic) << 24);
        select.write_volatile(0x10 + 2 * line);
        window.write_volatile(flags | u32::from(vector));
    }
    true
}
