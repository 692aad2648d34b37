//! The 82599 family: a PCI function as `ixgbe_device::Hardware`, and its lease as the core keeps it.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::ptr::NonNull;

use interfaces::{
    InterfaceId,
    abi::RawObject,
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice},
    packet::BufferHead,
};
use ixgbe_device::{BAR_BYTES, Device, DmaMemory, Hardware};
use kernel_core::{
    device::{DeviceClass, Lease, Recipient},
    packets,
    platform::{self, PAGE, PciFunction, PciIdentity},
};

use crate::function::{self, Event, Function, GONE};

/// Receive address 0 (82599 §8.2.3.7.8), which the device loads from its EEPROM.
const RAL0: u32 = 0xa200;
const RAH0: u32 = 0xa204;

/// What the core asks: is this one of the family, and may a domain have it.
pub struct Family;

impl DeviceClass for Family {
    fn matches(&self, identity: &PciIdentity) -> bool {
        ixgbe_device::matches(identity.vendor_id, identity.device_id)
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String> {
        let card = Card(Function::take(function, cpus, "the network card", BAR_BYTES, packets::open_to)?);
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

struct Card(Function);

impl Card {
    fn mac(&self) -> Option<[u8; 6]> {
        let (low, high) = (self.read(RAL0), self.read(RAH0));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let mac = [a, b, c, d, e, f];
        (low != GONE && mac != [0; 6]).then_some(mac)
    }
}

// SAFETY: `Function::allocate` gives zeroed pages of nobody else's at one bus address; `packets` gives buffers of the pool that nobody else has, each of the one size and behind
// its head, in memory that is never unmapped; a function whose bus mastering is off sends no requests, and in a strict box none gets through to a buffer that was revoked.
unsafe impl Hardware for Card {
    fn identity(&self) -> Identity {
        let PciIdentity { vendor_id, device_id, revision, .. } = self.0.identity();
        Identity { vendor: vendor_id, device: device_id, revision, vectors: self.0.vectors() }
    }

    fn read(&self, offset: u32) -> u32 {
        self.0.read(offset)
    }

    unsafe fn write(&self, offset: u32, value: u32) {
        // SAFETY: the same contract.
        unsafe { self.0.write(offset, value) }
    }

    fn set_bus_master(&self, on: bool) {
        self.0.set_bus_master(on);
    }

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let platform::DmaMemory { address, bus, pages } = self.0.allocate(bytes)?;
        Some(DmaMemory { address, bus, bytes: pages * PAGE })
    }

    unsafe fn free(&self, memory: DmaMemory) {
        let DmaMemory { address, bus, bytes } = memory;
        // SAFETY: what `allocate` gave, and by the caller's contract out of the device's use.
        unsafe { self.0.free(platform::DmaMemory { address, bus, pages: bytes / PAGE }) }
    }

    #[inline]
    fn buffer_bytes(&self) -> u16 {
        packets::bytes()
    }

    #[inline]
    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        packets::take(into)
    }

    #[inline]
    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]) {
        // SAFETY: the same contract.
        unsafe { packets::give(from) }
    }

    fn grants_buffers(&self) -> bool {
        packets::is_strict()
    }

    fn grant_buffers(&self, buffers: &[Option<NonNull<BufferHead>>]) -> bool {
        packets::grant_to(self.0.pci(), buffers)
    }

    fn revoke_buffers(&self, buffers: &[Option<NonNull<BufferHead>>]) {
        packets::revoke_from(self.0.pci(), buffers);
    }

    fn interrupt(&self, vector: u16, cpu: u16) -> Result<Box<dyn Interrupt>, DeviceError> {
        Ok(Box::new(self.0.event(vector, cpu).ok_or(DeviceError::NoSuchQueue)?))
    }

    fn delay_micros(&self, micros: u32) {
        function::delay(micros);
    }
}

impl Interrupt for Event {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        Ok(Event::wait(self, deadline)?)
    }
}
