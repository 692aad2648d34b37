//! What this crate needs of the place it runs in: the metal, the rig, or a test on the host.

use alloc::boxed::Box;
use core::ptr::NonNull;

use interfaces::device::nvme::{DeviceError, Identity, NvmeVector};

/// Memory that the device can reach.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    pub address: NonNull<u8>,
    /// Where the device finds its first byte.
    pub bus: u64,
    pub bytes: usize,
}

/// One NVMe function with its BAR 0.
///
/// # Safety
/// `allocate` gives zeroed memory, aligned to 4,096 bytes for CPU and device, contiguous for the device, that nobody else uses until `free`. Block buffers are where their heads
/// say, contiguous for the device from a multiple of 4,096 on, and stay there as long as they have a hold. After `set_bus_master(false)` has returned the function neither reads
/// nor writes memory.
pub unsafe trait Hardware: Send + Sync + 'static {
    fn identity(&self) -> Identity;

    /// Bytes of BAR 0: at least `LEAST_BAR_BYTES`.
    fn bar_bytes(&self) -> u32;

    /// Reads the register at byte `offset` (a multiple of 4 inside the BAR). All ones if the device has left the bus.
    fn read(&self, offset: u32) -> u32;

    /// # Safety
    /// The register's new value makes the device touch no memory but that of the lease.
    unsafe fn write(&self, offset: u32, value: u32);

    /// Lets the function be master of the bus, or stops it.
    fn set_bus_master(&self, on: bool);

    fn allocate(&self, bytes: usize) -> Option<DmaMemory>;

    /// # Safety
    /// `memory` is from `allocate`, and the device can't reach it any more.
    unsafe fn free(&self, memory: DmaMemory);

    /// Attaches MSI-X `vector` to the domain's `cpu`-th CPU, and gives the event that it fires.
    fn vector(&self, vector: u16, cpu: u16) -> Result<Box<dyn NvmeVector>, DeviceError>;

    /// Waits at least so long.
    fn delay_micros(&self, micros: u32);

    /// Nanoseconds since boot.
    fn now(&self) -> u64;
}
