//! The kernel on the metal: boots, owns memory, CPUs, threads, interrupts and devices, and gives them to the domain core through
//! `kernel_core::Platform`. Everything about domains is the core's.
//!
//! How it boots, in order: [`entry`] (32 bits, first tables), [`kernel_start`] (serial port, what the loader says, exact page
//! tables, ACPI, clock, this CPU's tables, interrupt controllers), [`cpu::start`] (the other CPUs), [`pci`], and then a first thread that
//! hands over.
#![no_std]
#![no_main]
#![allow(clippy::missing_safety_doc)]

extern crate alloc;

mod chance;
mod clock;
mod cpu;
mod entry;
mod interrupt;
mod intrinsics;
mod iommu;
mod lock;
mod memory;
mod panic;
mod pci;
mod platform;
mod report;
mod scheduler;
mod screen;
mod selftest;
mod serial;

use alloc::{boxed::Box, string::String};
use core::{
    ptr, slice,
    sync::atomic::{AtomicPtr, Ordering},
};

use bundle::Trust;
use kernel_core::{boot::Boot, platform::Priority, thread::ThreadBlock};
use metal::{
    acpi::{self, Acpi},
    boot_info::{self, BootInfo, multiboot2, pvh},
};

use memory::Direct;

/// Where the boot code leads to: `magic` is what was in `eax`, `info` in `ebx`.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(magic: u32, info: u32) -> ! {
    clock::begin();
    serial::start();
    interrupt::silence_legacy_controllers();
    let (info, loader) = match magic {
        multiboot2::MAGIC => (multiboot2::parse(&Direct, info.into()), "multiboot2"),
        _ => (pvh::parse(&Direct, info.into()), "PVH"),
    };
    let info = match info {
        Ok(info) => info,
        Err(error) => panic!("what the boot loader ({loader}) says can't be used: {error:?}"),
    };
    memory::start(&info);
    screen::start(info.screen);
    report!("RedLeaf, started by {loader}");

    let (acpi, acpi_error) = match acpi::parse(&Direct, info.rsdp.as_ref()) {
        Ok(acpi) => (acpi, None),
        Err(error) => (Acpi::default(), Some(error)),
    };
    panic::configure(info.option("panic") == Some("halt"), acpi.reset);
    if let Some(error) = acpi_error {
        report!("acpi     {error:?}: one CPU, no ECAM");
    }
    for signature in &acpi.damaged {
        report!("acpi     table {} is damaged", String::from_utf8_lossy(signature));
    }
    let (hz, source) = clock::calibrate(acpi.pm_timer);
    report!("clock    {}.{:03} MHz, by {source:?}", hz / 1_000_000, hz / 1_000 % 1_000);

    match clock::learn_date(acpi.century) {
        Some(date) => report!("date     {date} s since 1970, by the battery-backed clock"),
        None => report!("date     unknown: no clock that says one"),
    }

    start_this_cpu(&acpi);
    cpu::start::start_others(&acpi, &info);
    let (mode, timer) = apic_mode();
    report!("cpu      {} of {}, {mode}, timer {timer}", cpu::count(), acpi.cpus.len().max(1));
    report!("memory   {} MiB free", memory::free_pages() / 256);

    iommu::find(&acpi);
    pci::enumerate(&acpi);
    report!("pci      {} functions by {}", pci::found().len(), pci::access());
    if interrupt::route_isa(&acpi, serial::CONSOLE_ISA_INTERRUPT, cpu::this().apic, cpu::trap::VECTOR_CONSOLE) {
        serial::listen();
    } else {
        report!("serial   no interrupt: the console only speaks");
    }

    // SAFETY: there are no threads yet, and nothing of the core but resident blocks was used.
    unsafe { kernel_core::install(platform::metal()) };
    // The core's first call comes from a thread, so that it may block.
    BOOT_INFO.store(Box::leak(Box::new(info)), Ordering::Release);
    platform::start_resident(0, Priority::High, scheduler::reap);
    platform::start_resident(0, Priority::Normal, first_thread);
    scheduler::idle()
}

fn apic_mode() -> (&'static str, &'static str) {
    cpu::apic::mode()
}

fn start_this_cpu(acpi: &Acpi) {
    cpu::apic::find(acpi.local_apic);
    cpu::trap::fill_table();
    cpu::apic::enable();
    let cpu = cpu::create(0, cpu::apic::id(), ThreadBlock::resident(0));
    cpu::install(cpu);
    cpu::segments::install();
    cpu::announce(cpu);
    cpu::apic::calibrate_timer();
}

static BOOT_INFO: AtomicPtr<BootInfo> = AtomicPtr::new(ptr::null_mut());

/// What the loader said, once there are threads.
fn boot_info() -> &'static BootInfo {
    // SAFETY: null or leaked, never written again.
    unsafe { BOOT_INFO.load(Ordering::Acquire).as_ref() }.expect("the first thread starts after the boot")
}

/// The first module: the bundle.
fn bundle(info: &BootInfo) -> Option<&'static [u8]> {
    let boot_info::Module { start, end } = *info.modules.first()?;
    // SAFETY: the module's pages were left out of the book of pages, are in the direct map, and nobody writes them.
    Some(unsafe { slice::from_raw_parts(memory::direct(start), (end - start) as usize) })
}

/// Whose signatures count and what domains must have been compiled with: given to the build by the image builder, which signs with the same key.
const TRUST: Option<Trust> = match (option_env!("REDLEAF_KEY"), option_env!("REDLEAF_ABI")) {
    (Some(key), Some(abi)) => Trust::from_hex(key, abi),
    _ => None,
};

extern "C" fn first_thread(_block: &'static ThreadBlock) -> ! {
    let info = boot_info();
    if let Some(part) = info.option("selftest") {
        selftest::run(part);
    }
    let Some(bundle) = bundle(info) else {
        panic!("no bundle: the boot loader must bring it as the first module (QEMU: -initrd)");
    };
    let Some(trust) = TRUST else {
        panic!("this kernel was built without REDLEAF_KEY and REDLEAF_ABI, so it can believe no bundle");
    };
    report!("bundle   {} bytes", bundle.len());
    if let Err(error) = kernel_core::boot::boot(Boot { bundle, trust, devices: devices::CLASSES }) {
        panic::fatal(format_args!("the box doesn't start: {error}"));
    }
    loop {
        scheduler::park(clock::NEVER);
    }
}
