//! The trusted part of the NVMe driver: everything that decides where the device reads and writes memory.
//!
//! The driver domain (`drivers/nvme`) is safe Rust and knows the device's logic: initialisation, namespaces, features, events, time-outs. This crate knows bus
//! addresses. It promises, whatever the driver does and however often it is replaced:
//!
//! - The device is given only addresses of queues and pages of this lease, and of block buffers whose request is in such a queue. A buffer to be read into has no
//!   other hold; the addresses that are given for a request cover what the namespace's format, as this crate has read it from the device, makes of its blocks.
//! - A buffer leaves a queue only when the device has completed its command, or when the controller has been cut off from the bus ([`Lease::reset`]).
//! - A completion is believed only if it names a command in flight: another ends in `DeviceError::Lied`, never in an access.
//! - Queues and the commands in flight belong to the [`Lease`]; a generation's handles are dropped with it, and opening a queue again adopts it. Meanwhile the device
//!   goes on. Each request comes out exactly once, whichever generation polls.
//!
//! There is no lock: a queue is used by whoever holds its handle, and there is one handle at a time. Nothing here is interrupted half way, since a kernel entry
//! (depth > 0) isn't diverted.
//!
//! Section numbers are of the NVM Express Base Specification 2.0, or, where it says so, of the NVM Command Set Specification 1.0.
#![no_std]

extern crate alloc;

mod admin;
mod commands;
mod device;
mod hardware;
mod io;
mod lease;
mod number;
mod pair;
mod registers;

pub use device::Device;
pub use hardware::{DmaMemory, Hardware};
pub use lease::{Lease, MAX_QUEUES};
pub use registers::LEAST_BAR_BYTES;

/// Whether a PCI function of this class is an NVMe I/O controller (NVMe over PCIe Transport 1.0 §3.1.2.1: mass storage, non-volatile memory, NVM Express).
pub fn matches(class: u32) -> bool {
    class == 0x01_08_02
}
