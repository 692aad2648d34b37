//! The controller's registers (§3.1.3) as far as they are used.

pub const CAP: u32 = 0x00;
pub const VS: u32 = 0x08;
pub const CC: u32 = 0x14;
pub const CSTS: u32 = 0x1C;
pub const AQA: u32 = 0x24;
pub const ASQ: u32 = 0x28;
pub const ACQ: u32 = 0x30;
/// NVMe over PCIe Transport 1.0 §3.1.2: the first doorbell.
pub const DOORBELLS: u32 = 0x1000;

/// Registers and the admin queue's doorbells.
pub const LEAST_BAR_BYTES: u32 = 0x2000;

/// All ones: what a read of a device that has left the bus gives.
pub const GONE: u32 = u32::MAX;

pub const CC_ENABLE: u32 = 1;
/// Entries of 64 and 16 bytes, pages of 4 KiB, round robin, NVM command set (§3.1.3.5).
pub const CC_SETTINGS: u32 = 6 << 16 | 4 << 20;
pub const CC_SHUTDOWN: u32 = 3 << 14;
pub const CC_SHUTDOWN_NORMAL: u32 = 1 << 14;

pub const CSTS_READY: u32 = 1;
pub const CSTS_FATAL: u32 = 1 << 1;
pub const CSTS_SHUTDOWN: u32 = 3 << 2;
pub const CSTS_SHUTDOWN_COMPLETE: u32 = 2 << 2;

/// CAP (§3.1.3.1).
#[derive(Clone, Copy)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The most entries of an I/O queue.
    pub fn entries(self) -> u32 {
        (self.0 as u32 & 0xFFFF) + 1
    }

    /// How long enabling and disabling may take, in microseconds.
    pub fn time_out_micros(self) -> u32 {
        (self.0 as u32 >> 24).max(1) * 500_000
    }

    /// Bytes from one doorbell to the next.
    pub fn doorbell_stride(self) -> u32 {
        4 << (self.0 >> 32 & 0xF)
    }

    /// It has the NVM command set, and pages of 4 KiB.
    pub fn suits(self) -> bool {
        self.0 >> 37 & 1 == 1 && self.0 >> 48 & 0xF == 0
    }
}
