//! NVMe controllers: a PCI function as `nvme_device::Hardware`, and its lease as the core keeps it.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::ptr::NonNull;

use interfaces::{
    CallError, InterfaceId,
    abi::RawObject,
    device::nvme::{DeviceError, Identity, NvmeDevice, NvmeVector},
};
use kernel_core::{
    device::{DeviceClass, Lease, Recipient},
    interrupt::{Vector, Waited},
    machine,
    platform::{self, Bar, PAGE, PciFunction, PciIdentity},
};
use nvme_device::{Device, DmaMemory, Hardware, LEAST_BAR_BYTES};

const GONE: u32 = 0xffff_ffff;

/// The command register (PCI 3.0 §6.2.2), with memory decoding and bus mastering. Decoding stays on: a reset needs the registers.
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;

/// Waits below this are spent spinning, longer ones sleeping.
const SPIN_LIMIT_NANOS: u64 = 50_000;

/// What the core asks: is this one, and may a domain have it.
pub struct Controllers;

impl DeviceClass for Controllers {
    fn matches(&self, identity: &PciIdentity) -> bool {
        nvme_device::matches(identity.class)
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String> {
        let identity = function.identity();
        let bar = function.bar(0).filter(|bar| bar.len >= LEAST_BAR_BYTES as usize).ok_or_else(|| {
            format!(
                "the NVMe controller {:04x}:{:04x} has no BAR 0 of {LEAST_BAR_BYTES} bytes: the firmware hasn't placed it",
                identity.vendor_id, identity.device_id
            )
        })?;
        // One vector for the admin queue, and one for each CPU of the domain. With fewer, the driver polls.
        let wanted = cpus.len() as u16 + 1;
        let vectors = if function.vectors() >= wanted { wanted } else { 0 };
        let vectors = (0..vectors).map(|_| &*Box::leak(Box::new(Vector::new()))).collect();
        let controller = Controller { function, bar, cpus: cpus.to_vec(), vectors };
        Ok(Arc::new(Kept(nvme_device::Lease::new(controller))))
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

struct Controller {
    function: &'static dyn PciFunction,
    bar: Bar,
    /// The domain's CPUs.
    cpus: Vec<usize>,
    vectors: Vec<&'static Vector>,
}

impl Controller {
    fn register(&self, offset: u32) -> Option<NonNull<u32>> {
        let is_inside = offset.is_multiple_of(4) && (offset as usize) < self.bar.len;
        // SAFETY: inside the BAR.
        is_inside.then(|| unsafe { self.bar.address.add(offset as usize).cast() })
    }
}

// SAFETY: `dma_map` gives zeroed pages of nobody else's at one bus address; block buffers are of `kernel_core::blocks`, made of such pages that are never unmapped; and a
// function whose bus mastering is off sends no requests.
unsafe impl Hardware for Controller {
    fn identity(&self) -> Identity {
        let PciIdentity { vendor_id, device_id, .. } = self.function.identity();
        Identity { vendor: vendor_id, device: device_id, vectors: self.vectors.len() as u16 }
    }

    fn bar_bytes(&self) -> u32 {
        u32::try_from(self.bar.len).unwrap_or(u32::MAX)
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

    fn vector(&self, vector: u16, cpu: u16) -> Result<Box<dyn NvmeVector>, DeviceError> {
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

    fn now(&self) -> u64 {
        machine().now()
    }
}

/// A vector as the driver waits for it.
struct Event(&'static Vector);

impl NvmeVector for Event {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        match self.0.wait(deadline) {
            Waited::Fired => Ok(true),
            Waited::TimedOut => Ok(false),
            Waited::Cancelled => Err(DeviceError::Call(CallError::Cancelled)),
        }
    }
}
