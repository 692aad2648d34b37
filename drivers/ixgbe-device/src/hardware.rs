//! What this crate needs of the place it runs in: the metal, the rig, or a test on the host.

use alloc::boxed::Box;
use core::ptr::NonNull;

use interfaces::{
    device::ixgbe::{DeviceError, Identity, Interrupt},
    packet::BufferHead,
};

/// Memory that the device can reach.
#[derive(Clone, Copy, Debug)]
pub struct DmaMemory {
    pub address: NonNull<u8>,
    /// Where the device finds its first byte.
    pub bus: u64,
    pub bytes: usize,
}

/// One 82599-family function with its BAR 0, and the pool that its buffers come from.
///
/// # Safety
/// `allocate` gives zeroed memory, aligned to 128 bytes, at one bus address, that nobody else uses until `free`. `take_buffers` gives buffers of the pool
/// that nobody else has; each is preceded by a `BufferHead` whose `bus` is right and stays so, and followed by `HEADROOM` and `buffer_bytes` more bytes, which is the same number at all times and
/// what a descriptor may name: a multiple of `BUFFER_UNIT`, up to `LARGEST_BUFFER`. The memory of the pool outlives the lease. After `set_bus_master(false)` has returned the function neither reads nor writes memory.
/// Where `grants_buffers`, it neither reads nor writes a buffer after `revoke_buffers` has returned, until that is granted again.
pub unsafe trait Hardware: Send + Sync + 'static {
    fn identity(&self) -> Identity;

    /// Reads the register at byte `offset` (a multiple of 4 below `BAR_BYTES`) of BAR 0. All ones if the device has left the bus.
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

    /// Bytes that each buffer of the pool has behind its headroom.
    fn buffer_bytes(&self) -> u16;

    /// Fills `into`, which is all `None`, from its front with buffers of the pool; returns how many.
    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize;

    /// Gives all buffers in `from` back to the pool, leaving `None`.
    ///
    /// # Safety
    /// They are from the pool, each once, and the device doesn't use them any more.
    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]);

    /// Whether the function reaches a buffer of the pool only from `grant_buffers` to `revoke_buffers`; else it reaches all of them, and neither is called. The same at all times.
    fn grants_buffers(&self) -> bool {
        false
    }

    /// Lets the function reach the buffers in `buffers`, of which it reaches none. False: there is no room for that in the IOMMU, and it reaches none of them.
    fn grant_buffers(&self, _buffers: &[Option<NonNull<BufferHead>>]) -> bool {
        true
    }

    /// Takes the buffers in `buffers` out of the function's reach, all at once; those that it doesn't reach stay so.
    fn revoke_buffers(&self, _buffers: &[Option<NonNull<BufferHead>>]) {}

    /// Attaches MSI-X `vector` to the domain's `cpu`-th CPU, and gives the event that it fires.
    fn interrupt(&self, vector: u16, cpu: u16) -> Result<Box<dyn Interrupt>, DeviceError>;

    /// Waits at least so long.
    fn delay_micros(&self, micros: u32);
}
