//! PCI, BARs and MSI-X. With an Intel 82574 in the machine (QEMU's `e1000e`) its interrupt is raised for real; without one only the bus
//! is looked at.

use alloc::format;

use kernel_core::{
    interrupt::{Vector, Waited},
    platform::{Platform, Priority},
};

use super::{Outcome, Test, crew};
use crate::{check, clock, cpu, interrupt, platform::Metal};

pub const TESTS: &[Test] = &[
    ("a PCI function opens once, with sane BARs", functions_open),
    ("MSI-X wakes a thread on each CPU, and not after detaching", message_interrupts),
];

/// Intel 82574L.
const CARD: (u16, u16) = (0x8086, 0x10d3);

fn functions_open() -> Outcome {
    let found = Metal.pci();
    check!(!found.is_empty(), "no PCI function at all");
    for identity in found.iter().filter(|identity| identity.class >> 16 == 2) {
        let (Some(one), Some(again)) = (Metal.pci_open(identity), Metal.pci_open(identity)) else {
            return Err(format!("{identity:?} doesn't open"));
        };
        check!(core::ptr::addr_eq(one, again), "{identity:?} opens twice");
        check!(
            one.config_read(0) == u32::from(identity.vendor_id) | u32::from(identity.device_id) << 16,
            "{identity:?} is another"
        );
        for bar in (0..6).filter_map(|index| one.bar(index)) {
            check!(
                bar.len.is_power_of_two() && bar.address.as_ptr().addr().is_multiple_of(bar.len.min(4096)),
                "{bar:?}"
            );
        }
    }
    Ok(())
}

fn message_interrupts() -> Outcome {
    // 82574 datasheet §10.2: interrupt cause set, mask set, vector allocation; "other" causes go to a vector of their own.
    const CAUSE_SET: usize = 0xc8;
    const CAUSE: usize = 0xc0;
    const MASK_SET: usize = 0xd0;
    const ALLOCATION: usize = 0xe4;
    const OTHER: u32 = 1 << 24;
    static EVENTS: [Vector; 2] = [Vector::new(), Vector::new()];

    let Some(identity) = Metal.pci().into_iter().find(|identity| (identity.vendor_id, identity.device_id) == CARD)
    else {
        crate::report!("         (no 82574 here: -device e1000e)");
        return Ok(());
    };
    let Some(card) = Metal.pci_open(&identity) else { return Err("the card doesn't open".into()) };
    let Some(bar) = card.bar(0) else { return Err("the card has no BAR 0".into()) };
    check!(card.vectors() >= 2, "{} vectors", card.vectors());
    card.set_bus_master(true);
    let write = |offset: usize, value: u32| {
        // SAFETY: a register inside the BAR; the card does no DMA.
        unsafe { bar.address.add(offset).cast::<u32>().write_volatile(value) }
    };
    for cpu in 0..cpu::count() {
        let event = &EVENTS[cpu % 2];
        check!(card.attach(1, cpu, event), "vector 1 can't be attached to CPU {cpu}");
        write(ALLOCATION, (1 | 8) << 16);
        write(MASK_SET, OTHER);
        for round in 0..20 {
            let worker = crew::spawn(cpu, Priority::Normal, move || {
                let waited = event.wait(clock::now() + 30_000_000_000);
                assert!(waited == Waited::Fired, "round {round}: {waited:?}");
            });
            if round % 2 == 0 {
                crew::sleep(500_000);
            }
            write(CAUSE_SET, OTHER);
            worker.join()?;
            write(CAUSE, u32::MAX);
        }
        card.detach(1);
        // A message may have been under way when the vector was masked; from here on nothing may come.
        crew::sleep(1_000_000);
        while event.wait(clock::now()) == Waited::Fired {}
        let strays = interrupt::stray();
        write(CAUSE_SET, OTHER);
        crew::sleep(1_000_000);
        check!(!event.is_pending(), "a detached vector fires");
        check!(interrupt::stray() == strays, "a masked vector sends");
        write(CAUSE, u32::MAX);
    }
    Ok(())
}
