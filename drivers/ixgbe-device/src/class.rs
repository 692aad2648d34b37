//! The 82599 family in the kernel: [`Hardware`] made of a PCI function, the machine's memory and the kernel's packet pool; and the lease as the
//! domain core keeps it.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::ptr::NonNull;

use interfaces::{
    CallError, Interface,
    abi::RawObject,
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice},
    packet::BufferHead,
};
use kernel_core::{
    device::{DeviceClass, Lease as DeviceLease, Recipient},
    interrupt::{Vector, Waited},
    machine, packets,
    platform::{Bar, DmaMemory as Pages, PAGE, PciFunction, PciIdentity},
};

use crate::{
    device::{Device, matches},
    hardware::{DmaMemory, Hardware},
    lease::Lease,
    registers::{BAR_BYTES, RAH, RAH_VALID, RAL},
};

/// The command register (PCI 3.0 §6.2.2).
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;

/// Waits below this are spent spinning, longer ones sleeping.
const SPIN_LIMIT_NANOS: u64 = 50_000;

/// What the kernel's binary registers for the family.
pub struct IxgbeClass;

impl DeviceClass for IxgbeClass {
    fn matches(&self, identity: &PciIdentity) -> bool {
        matches(identity.vendor_id, identity.device_id)
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn DeviceLease>, String> {
        let PciIdentity { vendor_id: vendor, device_id: device, revision, .. } = function.identity();
        let bar = function.bar(0).filter(|bar| bar.len >= BAR_BYTES as usize);
        let bar = bar.ok_or_else(|| format!("{vendor:04x}:{device:04x} has no BAR 0 of {BAR_BYTES} bytes"))?;
        // One vector per queue and one for the rest; a function that has fewer is polled.
        let wanted = cpus.len() as u16 + 1;
        let vectors = if function.vectors() >= wanted { wanted } else { 0 };
        let card = PciCard {
            function,
            bar,
            identity: Identity { vendor, device, revision, vectors },
            cpus: cpus.into(),
            // Handlers may fire them as long as the machine runs.
            vectors: (0..vectors).map(|_| &*Box::leak(Box::new(Vector::new()))).collect(),
        };
        // Registers can be read from here on.
        card.set_bus_master(false);
        let mac = card.mac();
        Ok(Arc::new(IxgbeLease { lease: Lease::new(card), mac }))
    }
}

struct IxgbeLease {
    lease: Arc<Lease<PciCard>>,
    mac: Option<[u8; 6]>,
}

impl DeviceLease for IxgbeLease {
    fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    fn interface(&self) -> &'static str {
        <dyn IxgbeDevice as Interface>::NAME
    }

    fn open(&self, driver: &Recipient) -> RawObject {
        driver.give(Box::new(Device::new(&self.lease)) as Box<dyn IxgbeDevice>)
    }

    fn died(&self) {
        self.lease.hold_frames();
    }

    fn buffers(&self) -> usize {
        self.lease.buffers()
    }
}

/// A function on the PCI bus.
struct PciCard {
    function: &'static dyn PciFunction,
    bar: Bar,
    identity: Identity,
    /// The machine's CPUs by the domain's order.
    cpus: Vec<usize>,
    vectors: Vec<&'static Vector>,
}

impl PciCard {
    fn register(&self, offset: u32) -> NonNull<u32> {
        assert!(offset < BAR_BYTES && offset.is_multiple_of(4), "a register outside the BAR");
        // SAFETY: the BAR has `BAR_BYTES` (`IxgbeClass::lease`).
        unsafe { self.bar.address.add(offset as usize).cast() }
    }

    /// The address that the EEPROM's auto-read has left in the first receive address (82599 §8.2.3.7.8).
    fn mac(&self) -> Option<[u8; 6]> {
        let (low, high) = (self.read(RAL), self.read(RAH));
        let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
        (high & RAH_VALID != 0 && high != u32::MAX).then_some([a, b, c, d, e, f])
    }
}

// SAFETY: `dma_map` gives pages that are zeroed and nobody else's, and a page is aligned to more than a ring wants; the pool's heads are written by the
// pool alone; bus mastering is the command register's bit. (A device that doesn't
// honour it needs an IOMMU to be held.)
unsafe impl Hardware for PciCard {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn read(&self, offset: u32) -> u32 {
        // SAFETY: a register of the mapped BAR.
        u32::from_le(unsafe { self.register(offset).read_volatile() })
    }

    #[inline]
    unsafe fn write(&self, offset: u32, value: u32) {
        // SAFETY: a register of the mapped BAR; what it does to memory is the caller's promise.
        unsafe { self.register(offset).write_volatile(value.to_le()) };
    }

    fn set_bus_master(&self, on: bool) {
        let command = self.function.config_read(COMMAND) & 0xFFFF;
        let command = command & !COMMAND_BUS_MASTER | if on { COMMAND_BUS_MASTER } else { 0 };
        // The upper half is the status register, in which zeroes change nothing.
        self.function.config_write(COMMAND, command | COMMAND_MEMORY);
        // The answer to a read comes after whatever the device has sent before (PCIe 3.0 §2.4.1): all its writes have arrived.
        self.function.config_read(COMMAND);
    }

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let Pages { address, bus, .. } = machine().dma_map(bytes.div_ceil(PAGE))?;
        Some(DmaMemory { address, bus, bytes })
    }

    unsafe fn free(&self, memory: DmaMemory) {
        let DmaMemory { address, bus, bytes } = memory;
        // SAFETY: from `allocate`, so these are what `dma_map` gave; the device's reach is the caller's promise.
        unsafe { machine().dma_unmap(Pages { address, bus, pages: bytes.div_ceil(PAGE) }) };
    }

    #[inline]
    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        let mut taken = 0;
        for place in into {
            *place = packets::take();
            if place.is_none() {
                break;
            }
            taken += 1;
        }
        taken
    }

    #[inline]
    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]) {
        for head in from.iter_mut().filter_map(Option::take) {
            // SAFETY: the caller's promise.
            unsafe { packets::give(head) };
        }
    }

    fn interrupt(&self, vector: u16, cpu: u16) -> Result<Box<dyn Interrupt>, DeviceError> {
        let event = *self.vectors.get(usize::from(vector)).ok_or(DeviceError::NoSuchQueue)?;
        let cpu = *self.cpus.get(usize::from(cpu)).ok_or(DeviceError::NoSuchQueue)?;
        if self.function.attach(vector, cpu, event) { Ok(Box::new(Event(event))) } else { Err(DeviceError::NoSuchQueue) }
    }

    fn delay_micros(&self, micros: u32) {
        let nanos = u64::from(micros) * 1_000;
        let until = machine().now() + nanos;
        while machine().now() < until {
            if nanos < SPIN_LIMIT_NANOS { core::hint::spin_loop() } else { machine().park(until) }
        }
    }
}

/// A vector, for the one thread that waits for it.
struct Event(&'static Vector);

impl Interrupt for Event {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        match self.0.wait(deadline) {
            Waited::Fired => Ok(true),
            Waited::TimedOut => Ok(false),
            Waited::Cancelled => Err(DeviceError::Call(CallError::Cancelled)),
        }
    }
}
