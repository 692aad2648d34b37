//! How a card differs from the next one.

use std::time::Duration;

use crate::pci;
use crate::receive::PACKET_BUFFER;

/// What is plugged into an SFP+ cage (SFF-8472).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SfpModule {
    /// A passive copper cable, which every driver accepts without asking for its vendor.
    #[default]
    DirectAttach,
    /// 10GBASE-SR optics, of the vendor that drivers insist on.
    ShortRange,
    /// 10GBASE-LR optics, likewise.
    LongRange,
    /// An empty cage.
    Absent,
}

/// A card. `..NicConfig::default()` gives the rest.
#[derive(Clone, Debug)]
pub struct NicConfig {
    pub mac: [u8; 6],
    /// PCI device id; see [`pci::device`].
    pub device: u16,
    /// Which port of a card with two of them this is: 0 or 1 (82599 §8.2.3.1.2, STATUS.LAN_ID).
    pub port: u8,
    /// How many ports the card has: 1 or 2.
    pub ports: u8,
    pub module: SfpModule,
    /// How long CTRL's reset bits read as set after a reset: on the silicon up to a millisecond, and longer with the link (82599 §8.2.3.1.1).
    pub reset_delay: Duration,
    /// From a reset to link up. The silicon takes a good part of a second; tests want none.
    pub link_delay: Duration,
    /// How long a queue goes on after its enable bit was cleared, which reads as set until then: the
    /// silicon finishes what DMA has under way (82599 §4.6.7.1, about 100 us).
    pub disable_delay: Duration,
}

impl NicConfig {
    /// Bytes of receive packet buffer: 512 KiB, on X540 and X550 384 KiB (X540 §7.1.3; Linux: `IXGBE_X540_RX_PB_SIZE`).
    pub fn packet_buffer(&self) -> usize {
        if pci::device::is_copper(self.device) { 384 * 1024 } else { PACKET_BUFFER }
    }
}

impl Default for NicConfig {
    fn default() -> Self {
        NicConfig {
            mac: [0x02, 0, 0, 0, 0, 0x01],
            device: pci::device::SFP,
            port: 0,
            ports: 1,
            module: SfpModule::default(),
            reset_delay: Duration::ZERO,
            link_delay: Duration::ZERO,
            disable_delay: Duration::ZERO,
        }
    }
}
