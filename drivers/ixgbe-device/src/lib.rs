//! The trusted part of the 82599 family's driver: everything that decides where the device reads and writes memory.
//!
//! The driver domain (`drivers/ixgbe`) is safe Rust and knows the device's logic: reset order, link, RSS, statistics. This crate knows bus addresses.
//! It promises, whatever the driver does and however often it is replaced:
//!
//! - The device is given only addresses of descriptor rings of this lease and of buffers that are in such a ring. A buffer is in exactly one
//!   place: the pool, a ring, or a batch.
//! - A buffer leaves a ring only when the device has written its descriptor back, or when the device has been stopped, waited for and cut off from
//!   the bus ([`Lease::reset`]).
//! - Where the IOMMU confines the device to single buffers, it is let to one before it hears of it; and one that leaves a ring has left its reach before
//!   anybody else gets it.
//! - What the device wrote is believed only as far as it is checked: a lie ends in `DeviceError::Lied`, never in an access outside the buffer.
//! - Rings, posted buffers and cursors belong to the [`Lease`]; a generation's handles are dropped with it, and opening a ring again adopts it.
//!   Meanwhile nothing is disabled: the device goes on, with frames held in its packet buffer instead of dropped.
//!
//! There is no lock: a ring is used by whoever holds its handle, and there is one handle at a time. Nothing here is interrupted half way, since a
//! kernel entry (depth > 0) isn't diverted.
//!
//! Section numbers are of Intel's 82599 10 GbE Controller Datasheet.
#![no_std]

extern crate alloc;

mod descriptors;
mod device;
mod family;
mod hardware;
mod lease;
mod receive;
mod registers;
mod ring;
mod transmit;

pub use device::Device;
pub use family::matches;
pub use hardware::{DmaMemory, Hardware};
pub use lease::{Lease, MAX_QUEUES};
pub use registers::BAR_BYTES;
