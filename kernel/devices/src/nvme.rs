//! NVMe controllers: a PCI function as `nvme_device::Hardware`, and its lease as the core keeps it.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
};

use interfaces::{
    InterfaceId,
    abi::RawObject,
    device::nvme::{DeviceError, Identity, NvmeDevice, NvmeVector},
};
use kernel_core::{
    blocks,
    device::{DeviceClass, Lease, Recipient},
    machine,
    platform::{self, PAGE, PciFunction, PciIdentity},
};
use nvme_device::{Device, DmaMemory, Hardware, LEAST_BAR_BYTES};

use crate::function::{self, Event, Function};

/// What the core asks: is this one, and may a domain have it.
pub struct Controllers;

impl DeviceClass for Controllers {
    fn matches(&self, identity: &PciIdentity) -> bool {
        nvme_device::matches(identity.class)
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String> {
        let controller = Function::take(function, cpus, "the NVMe controller", LEAST_BAR_BYTES, blocks::open_to)?;
        Ok(Arc::new(Kept(nvme_device::Lease::new(Controller(controller)))))
    }
}

/// A lease in the core's hands.
struct Kept(Arc<nvme_device::Lease<Controller>>);

impl Lease for Kept {
    fn serial(&self) -> Option<String> {
        // ASCII, padded with spaces (NVMe 2.0 §5.17.2.1).
        self.0.serial().map(|serial| String::from_utf8_lossy(&serial).trim().to_string())
    }

    fn interface(&self) -> InterfaceId {
        InterfaceId::of::<dyn NvmeDevice>()
    }

    fn open(&self, driver: &Recipient) -> RawObject {
        driver.give::<dyn NvmeDevice>(Box::new(Device::new(&self.0)))
    }
}

struct Controller(Function);

// SAFETY: `Function::allocate` gives zeroed pages of nobody else's at one bus address; block buffers are of `kernel_core::blocks`, made of such pages that are never unmapped; and a
// function whose bus mastering is off sends no requests.
unsafe impl Hardware for Controller {
    fn identity(&self) -> Identity {
        let PciIdentity { vendor_id, device_id, .. } = self.0.identity();
        Identity { vendor: vendor_id, device: device_id, vectors: self.0.vectors() }
    }

    fn bar_bytes(&self) -> u32 {
        self.0.bar_bytes()
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

    fn vector(&self, vector: u16, cpu: u16) -> Result<Box<dyn NvmeVector>, DeviceError> {
        Ok(Box::new(self.0.event(vector, cpu).ok_or(DeviceError::NoSuchQueue)?))
    }

    fn delay_micros(&self, micros: u32) {
        function::delay(micros);
    }

    fn now(&self) -> u64 {
        machine().now()
    }
}

impl NvmeVector for Event {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        Ok(Event::wait(self, deadline)?)
    }
}
