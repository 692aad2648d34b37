//! What the model needs of the machine it sits in: memory to reach by DMA, a wire, and somebody to
//! interrupt.
//!
//! The model is a plain state machine behind these three traits. It promises to touch the outside
//! only through them, so a front-end decides what a bus address means and what a cable is.

use std::fmt;

/// A bus address range that isn't mapped for this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRefused {
    pub address: u64,
    pub length: usize,
}

impl fmt::Display for DmaRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DMA of {} bytes at {:#x} refused: the guest mapped no such range for the device",
            self.length, self.address
        )
    }
}

impl std::error::Error for DmaRefused {}

/// Guest memory by bus address. Implementations check the bounds of every access.
pub trait DmaMemory {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), DmaRefused>;
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DmaRefused>;
    /// Stores one little-endian quadword such that a CPU that sees it also sees every earlier write.
    /// This is how a descriptor's DD bit becomes visible. `address` need not be aligned; only an
    /// aligned one is stored in one piece.
    fn publish(&mut self, address: u64, word: u64) -> Result<(), DmaRefused>;
}

/// The cable: whole Ethernet frames without FCS.
pub trait Wire {
    /// Queues a frame for the far end. A wire that can't take it drops it: there is no way back.
    fn send(&mut self, frame: &[u8]);
    /// Pushes out what `send` has queued. The model calls it once a batch.
    fn flush(&mut self) {}
    /// The next frame from the far end, if there is one. Never blocks.
    fn receive(&mut self) -> Option<&[u8]>;
}

/// Delivery of MSI-X messages.
pub trait Interrupts {
    /// Sends the message of `vector`.
    fn raise(&mut self, vector: u16);
}
