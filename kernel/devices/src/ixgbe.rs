//! The 82599 family: a PCI function as `ixgbe_device::Hardware`, and its lease as the core keeps it.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::ptr::NonNull;

use interfaces::{
    CallError, InterfaceId,
    abi::RawObject,
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice},
    packet::BufferHead,
};
use ixgbe_device::{BAR_BYTES, Device, DmaMemory, Hardware};
use kernel_core::{
    device::{DeviceClass, Lease, Recipient},
    interrupt::{Vector, Waited},
    machine, packets,
    platform::{self, Bar, PAGE, PciFunction, PciIdentity},
};

/// Receive address 0 (82599 §8.2.3.7.8), which the device loads from its EEPROM.
const RAL0: u32 = 0xa200;
const RAH0: u32 = 0xa204;
const GONE: u32 = 0xffff_ffff;

/// The command register (PCI 3.0 §6.2.2), with memory decoding and bus mastering. Decoding stays on: a reset needs the registers.
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;

/// Waits below this are spent spinning, longer ones sleeping.
const SPIN_LIMIT_NANOS: u64 = 50_000;

/// What the core asks: is this one of the family, and may a domain have it.
pub struct Family;

impl DeviceClass for Family {
    fn matches(&self, identity: &PciIdentity) -> bool {
        ixgbe_device::matches(identity.vendor_id, identity.device_id)
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String> {
        let identity = function.identity();
        let name = || format!("the network card {:04x}:{:04x}", identity.vendor_id, identity.device_id);
        let bar = function
            .bar(0)
            .filter(|bar| bar.len >= BAR_BYTES as usize)
            .ok_or_else(|| format!("{} has no BAR 0 of {BAR_BYTES} bytes: the firmware hasn't placed it", name()))?;
        // One vector for each CPU of the domain, and one for everything else; a card has 64. With fewer, the driver polls.
        let wanted = cpus.len() as u16 + 1;
        let vectors = if function.vectors() >= wanted { wanted } else { 0 };
        let vectors = (0..vectors).map(|_| &*Box::leak(Box::new(Vector::new()))).collect();
        let card = Card { function, bar, cpus: cpus.to_vec(), vectors };
        // Firmware may have left the card receiving; and from here on its registers can be read.
        card.set_bus_master(false);
        Ok(Arc::new(Kept { mac: card.mac(), lease: ixgbe_device::Lease::new(card) }))
    }
}

/// A lease in the core's hands.
struct Kept {
    mac: Option<[u8; 6]>,
    lease: Arc<ixgbe_device::Lease<Card>>,
}

impl Lease for Kept {
    fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    fn interface(&self) -> InterfaceId {
        InterfaceId::of::<dyn IxgbeDevice>()
    }

    fn open(&self, driver: &Recipient) -> RawObject {
        driver.give::<dyn IxgbeDevice>(Box::new(Device::new(&self.lease)))
    }

    fn died(&self) {
        self.lease.hold_frames();
    }

    fn buffers(&self) -> usize {
        self.lease.buffers()
    }
}

struct Card {
    function: &'static dyn PciFunction,
    bar: Bar,
    /// The domain's CPUs.
    cpus: Vec<usize>,
    vectors: Vec<&'static Vector>,
}

impl Card {
    fn register(&self, offset: u32) -> Option<NonNull<u32>> {
        let is_inside = offset.is_multiple_of(4) && offset < BAR_BYTES;
        // SAFETY: the BAR has at least `BAR_BYTES` bytes: checked when the lease was made.
        is_inside.then(|| unsafe { self.bar.address.add(offset as usize).cast() })
    }

    fn mac(&self) -> Option<[u8; 6]> {
        let (low, high) = (self.read(RAL0), self.read(RAH0));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let mac = [a, b, c, d, e, f];
        (low != GONE && mac != [0; 6]).then_some(mac)
    }
}

// SAFETY: `dma_map` gives zeroed pages of nobody else's at one bus address; `packets` gives buffers of the pool that nobody else has, each behind
// its head, in memory that is never unmapped; and a function whose bus mastering is off sends no requests.
unsafe impl Hardware for Card {
    fn identity(&self) -> Identity {
        let PciIdentity { vendor_id, device_id, revision, .. } = self.function.identity();
        Identity { vendor: vendor_id, device: device_id, revision, vectors: self.vectors.len() as u16 }
    }

    fn read(&self, offset: u32) -> u32 {
        // SAFETY: a register of the device; reading one touches no memory.
        self.register(offset).map_or(GONE, |register| unsafe { register.read_volatile() })
    }

    unsafe fn write(&self, offset: u32, value: u32) {
        if let Some(register) = self.register(offset) {
            // SAFETY: a register of the device; by the caller's contract the value makes it touch nothing but the lease's memory.
            unsafe { register.write_volatile(value) }
        }
    }

    fn set_bus_master(&self, on: bool) {
        let command = self.function.config_read(COMMAND) & 0xffff & !COMMAND_BUS_MASTER;
        let command = command | COMMAND_MEMORY | COMMAND_NO_INTX | if on { COMMAND_BUS_MASTER } else { 0 };
        // The upper half is the status register, in which zeroes change nothing.
        self.function.config_write(COMMAND, command);
        // The answer to a read comes behind whatever the device has sent before (PCIe 3.0 §2.4.1): all its writes are in memory.
        self.function.config_read(COMMAND);
    }

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let platform::DmaMemory { address, bus, pages } = machine().dma_map(bytes.div_ceil(PAGE))?;
        Some(DmaMemory { address, bus, bytes: pages * PAGE })
    }

    unsafe fn free(&self, memory: DmaMemory) {
        let DmaMemory { address, bus, bytes } = memory;
        // SAFETY: what `allocate` gave, and by the caller's contract out of the device's reach.
        unsafe { machine().dma_unmap(platform::DmaMemory { address, bus, pages: bytes / PAGE }) }
    }

    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        for (taken, place) in into.iter_mut().enumerate() {
            *place = packets::take();
            if place.is_none() {
                return taken;
            }
        }
        into.len()
    }

    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]) {
        for buffer in from.iter_mut().filter_map(Option::take) {
            // SAFETY: by the caller's contract from the pool, given once, out of the device's reach.
            unsafe { packets::give(buffer) };
        }
    }

    fn interrupt(&self, vector: u16, cpu: u16) -> Result<Box<dyn Interrupt>, DeviceError> {
        let event = *self.vectors.get(usize::from(vector)).ok_or(DeviceError::NoSuchQueue)?;
        let cpu = *self.cpus.get(usize::from(cpu)).ok_or(DeviceError::NoSuchQueue)?;
        if !self.function.attach(vector, cpu, event) {
            return Err(DeviceError::NoSuchQueue);
        }
        Ok(Box::new(Event(event)))
    }

    fn delay_micros(&self, micros: u32) {
        let nanos = u64::from(micros) * 1_000;
        let until = machine().now() + nanos;
        while machine().now() < until {
            if nanos < SPIN_LIMIT_NANOS { core::hint::spin_loop() } else { machine().park(until) }
        }
    }
}

/// A vector as the driver waits for it.
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
