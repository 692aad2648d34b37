//! PCI, BARs, MSI-X and the IOMMU. With an Intel 82574 in the machine (QEMU's `e1000e`) its interrupt is raised for real, and with QEMU's `edu`, which copies
//! whatever it is told to, a device goes astray; without them only the bus is looked at.

use alloc::{format, string::String};
use core::ptr::NonNull;

use interfaces::packet::{BufferHead, USUAL_BUFFER};
use kernel_core::{
    interrupt::{Vector, Waited},
    log, packets,
    platform::{Bar, DmaMemory, PciFunction, Platform, Priority},
};

use super::{Outcome, Test, crew};
use crate::{check, clock, cpu, interrupt, iommu, platform::Metal};

pub const TESTS: &[Test] = &[
    ("a PCI function opens once, with sane BARs", functions_open),
    ("MSI-X wakes a thread on each CPU, and not after detaching", message_interrupts),
    ("a device behind the IOMMU reaches what it was granted, and nothing else", confinement),
    ("of a strict box's packet buffers a device reaches those that it has", buffers_one_by_one),
];

/// Intel 82574L.
const CARD: (u16, u16) = (0x8086, 0x10d3);

/// QEMU's device for students (docs/specs/edu.rst): it has 4 KiB of its own, and copies between them and memory.
const EDU: (u16, u16) = (0x1234, 0x11e8);

/// Bytes that it copies at once.
const COPIED: usize = 64;
const PATTERN: u8 = 0xa5;

struct Edu {
    function: &'static dyn PciFunction,
    bar: Bar,
}

impl Edu {
    const OWN_BUFFER: u64 = 0x4_0000;
    const START: u64 = 1;
    const INTO_MEMORY: u64 = 2;

    /// `None`: there is none here.
    fn find() -> Result<Option<Edu>, String> {
        let found = Metal.pci().into_iter().find(|identity| (identity.vendor_id, identity.device_id) == EDU);
        let Some(identity) = found else {
            crate::report!("         (no such device here: -device intel-iommu -device edu)");
            return Ok(None);
        };
        let Some(function) = Metal.pci_open(&identity) else { return Err("it doesn't open".into()) };
        let Some(bar) = function.bar(0) else { return Err("it has no BAR 0".into()) };
        Ok(Some(Edu { function, bar }))
    }

    fn copy(&self, from: u64, to: u64, command: u64) -> Outcome {
        const FROM: usize = 0x80;
        const TO: usize = 0x88;
        const BYTES: usize = 0x90;
        const COMMAND: usize = 0x98;
        for (register, value) in [(FROM, from), (TO, to), (BYTES, COPIED as u64), (COMMAND, Self::START | command)] {
            // SAFETY: a register inside the BAR; the addresses are of pages that a test has for itself.
            unsafe { self.bar.address.add(register).cast::<u64>().write_volatile(value) }
        }
        let deadline = clock::now() + 30_000_000_000;
        // SAFETY: as above.
        while unsafe { self.bar.address.add(COMMAND).cast::<u64>().read_volatile() } & Self::START != 0 {
            check!(clock::now() < deadline, "the device doesn't come to an end");
            crew::sleep(1_000_000);
        }
        Ok(())
    }

    /// Has it read from there into its own memory.
    fn read(&self, bus: u64) -> Outcome {
        self.copy(bus, Self::OWN_BUFFER, 0)
    }

    /// Has it write there what it has read.
    fn write(&self, bus: u64) -> Outcome {
        self.copy(Self::OWN_BUFFER, bus, Self::INTO_MEMORY)
    }
}

/// Waits until the log says that a device was refused to write to that page.
fn said_to_be_refused(bus: u64) -> Outcome {
    let words = format!("write to {:#x}, which is not its own", bus & !0xfff);
    let deadline = clock::now() + 30_000_000_000;
    while !log::read(0, Some(0)).0.iter().any(|line| line.text().contains(&words)) {
        check!(clock::now() < deadline, "nobody says that the device was refused: {words}");
        crew::sleep(1_000_000);
    }
    Ok(())
}

fn buffers_one_by_one() -> Outcome {
    let Some(edu) = Edu::find()? else { return Ok(()) };
    let card = edu.function;
    check!(Metal.confine_devices(), "there is no IOMMU: -device intel-iommu");
    let Some(own) = Metal.dma_map(1) else { return Err("no memory".into()) };
    // SAFETY: a page of this test's, which nobody but the device touches meanwhile.
    unsafe { own.address.as_ptr().write_bytes(PATTERN, COPIED) };
    check!(card.grant(&[own]), "its page can't be granted");
    card.set_bus_master(true);
    edu.read(own.bus)?;

    check!(packets::make(64, USUAL_BUFFER, true), "no memory for packet buffers");
    check!(packets::open_to(card), "no room for packet buffers");
    let mut buffers = [None; 2];
    check!(packets::take(&mut buffers) == 2, "no packet buffers");
    let [Some(one), Some(other)] = buffers else { return Err("no packet buffers".into()) };
    // SAFETY: heads are never unmapped, and these are this test's.
    let bus = |head: NonNull<BufferHead>| unsafe { head.as_ref() }.bus;
    // SAFETY: the first byte behind a head of this test's.
    let first = |head: NonNull<BufferHead>| unsafe { head.add(1).cast::<u8>().read_volatile() };
    // SAFETY: as above.
    let wipe = |head: NonNull<BufferHead>| unsafe { head.add(1).cast::<u8>().write_bytes(0, COPIED) };

    edu.write(bus(one))?;
    check!(first(one) == 0, "the device reaches a buffer that it hasn't got");
    said_to_be_refused(bus(one))?;
    check!(packets::grant_to(card, &buffers), "the buffers can't be granted");
    for head in [one, other] {
        edu.write(bus(head))?;
        check!(first(head) == PATTERN, "the device doesn't reach a buffer that it has");
        wipe(head);
    }
    let before = bus(one);
    edu.write(bus(one) - size_of::<BufferHead>() as u64)?;
    check!(bus(one) == before && first(one) == 0, "the device reaches the head of a buffer that it has");
    said_to_be_refused(before - 1)?;

    packets::revoke_from(card, &buffers[1..]);
    edu.write(bus(other))?;
    check!(first(other) == 0, "the device reaches a buffer that it has given back");
    said_to_be_refused(bus(other))?;
    edu.write(bus(one))?;
    check!(first(one) == PATTERN, "the device doesn't reach the buffer that it still has");
    packets::revoke_from(card, &buffers);
    check!(packets::grant_to(card, &buffers[1..]), "a buffer can't be granted again");
    edu.write(bus(other))?;
    check!(first(other) == PATTERN, "the device doesn't reach a buffer that it has got again");
    packets::revoke_from(card, &buffers);

    card.set_bus_master(false);
    card.revoke(&[own]);
    // SAFETY: from `take`, and the device reaches none of them; so it is with the page, which nobody uses any more.
    unsafe {
        packets::give(&mut buffers);
        Metal.dma_unmap(own);
    }
    Ok(())
}

fn confinement() -> Outcome {
    let Some(edu) = Edu::find()? else { return Ok(()) };
    let device = edu.function;
    let (Some(own), Some(foreign)) = (Metal.dma_map(1), Metal.dma_map(1)) else { return Err("no memory".into()) };
    // SAFETY: pages of this test's, which nobody but the device touches meanwhile.
    let first = |memory: &DmaMemory| unsafe { memory.address.as_ptr().read_volatile() };
    // SAFETY: as above.
    unsafe { own.address.as_ptr().write_bytes(PATTERN, COPIED) };
    device.set_bus_master(true);

    iommu::leave_as_firmware_does();
    check!(Metal.confine_devices(), "there is no IOMMU: -device intel-iommu");
    check!(device.grant(&[own]), "its page can't be granted");
    edu.read(own.bus)?;
    edu.write(foreign.bus)?;
    check!(first(&foreign) == 0, "the device wrote to a page that it wasn't granted");
    said_to_be_refused(foreign.bus)?;
    edu.write(own.bus + 2048)?;
    // SAFETY: as above.
    let echoed = unsafe { own.address.as_ptr().add(2048).read_volatile() };
    check!(echoed == PATTERN, "the device doesn't reach its own page: {echoed:#x}");

    device.revoke(&[own]);
    // SAFETY: as above.
    unsafe { own.address.as_ptr().write_bytes(0, COPIED) };
    edu.write(own.bus)?;
    check!(first(&own) == 0, "the device still reaches a page that was taken from it");
    said_to_be_refused(own.bus)?;
    check!(device.grant(&[foreign]), "another page can't be granted");
    edu.write(foreign.bus)?;
    check!(first(&foreign) == PATTERN, "the device doesn't reach the page that it was granted last");
    device.revoke(&[foreign]);
    device.set_bus_master(false);
    // SAFETY: nobody uses them any more, and the device is off the bus.
    unsafe {
        Metal.dma_unmap(own);
        Metal.dma_unmap(foreign);
    }
    Ok(())
}

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
