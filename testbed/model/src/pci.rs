//! The function's PCI configuration space (82599 §9.3).
//!
//! Capabilities as the silicon lists them: power management, MSI-X, PCI Express. A write reaches
//! only the bits that the silicon lets software change.

/// PCI Express configuration space of one function.
pub const CONFIG_SIZE: usize = 4096;
/// BAR0: the register map.
pub const BAR0_SIZE: u64 = 0x2_0000;
/// BAR4: MSI-X table and pending bits (82599 §9.3.6.1).
pub const BAR4_SIZE: u64 = 0x4000;
/// Where in BAR4 the pending-bit array starts (82599 §9.3.8.4).
pub const PBA_OFFSET: u32 = 0x2000;
pub const VENDOR_INTEL: u16 = 0x8086;

/// Device ids that the model can carry (82599 §9.3.4).
pub mod device {
    /// 82599 with an SFP+ cage.
    pub const SFP: u16 = 0x10FB;
    /// 82599 on a backplane (KX4): no module to ask for.
    pub const KX4: u16 = 0x10F7;
    /// X540 with a 10GBASE-T PHY: the same data path with a smaller packet buffer.
    pub const X540: u16 = 0x1528;
    /// X550, which is like it in all that is modelled.
    pub const X550: u16 = 0x1563;

    /// Whether the device has a 10GBASE-T PHY rather than a cage or a backplane.
    pub fn is_copper(device: u16) -> bool {
        matches!(device, X540 | X550)
    }
}

const PM: usize = 0x40;
const MSIX: usize = 0x70;
const PCIE: usize = 0xA0;

pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    /// Bits that a write may change.
    writable: Box<[u8; CONFIG_SIZE]>,
}

impl ConfigSpace {
    /// `ports` of the card, each a function of its own.
    pub fn new(device: u16, serial: [u8; 6], ports: u8) -> Self {
        let mut space = ConfigSpace { bytes: Box::new([0; CONFIG_SIZE]), writable: Box::new([0; CONFIG_SIZE]) };
        space.put16(0x00, VENDOR_INTEL, 0);
        space.put16(0x02, device, 0);
        // Memory space, bus master, parity, SERR and INTx disable; the 82599 has no I/O space enabled here.
        space.put16(0x04, 0, 0x0546);
        space.put16(0x06, 0x0010, 0); // capability list
        space.bytes[0x08] = 0x01; // revision B0
        space.put16(0x0A, 0x0200, 0); // Ethernet controller
        space.writable[0x0C] = 0xFF;
        // Header type: bit 7 in function 0, and on this card in both, says that there are more (82599 §9.3.3.8; PCI 3.0 §6.2.1).
        space.bytes[0x0E] = if ports > 1 { 0x80 } else { 0 };
        space.put32(0x10, 0x0000_0004, !(BAR0_SIZE as u32 - 1));
        space.put32(0x14, 0, u32::MAX);
        space.put32(0x20, 0x0000_0004, !(BAR4_SIZE as u32 - 1));
        space.put32(0x24, 0, u32::MAX);
        space.put16(0x2C, VENDOR_INTEL, 0);
        space.put16(0x2E, 0x000C, 0);
        space.bytes[0x34] = PM as u8;
        space.writable[0x3C] = 0xFF;
        space.bytes[0x3D] = 1; // INTA#

        // Power management: D0 and D3, version 3 (82599 §9.3.7).
        space.put16(PM, 0x0001 | (MSIX as u16) << 8, 0);
        space.put16(PM + 2, 0x0023, 0);
        space.put16(PM + 4, 0x0008, 0x0103);
        // MSI-X: 64 vectors, table at 0 and PBA at 0x2000 of BAR4 (82599 §9.3.9).
        space.put16(MSIX, 0x0011 | (PCIE as u16) << 8, 0);
        space.put16(MSIX + 2, 63, 0xC000);
        space.put32(MSIX + 4, 4, 0);
        space.put32(MSIX + 8, PBA_OFFSET | 4, 0);
        // PCI Express endpoint, version 2 (82599 §9.3.10): 512-byte payload, function-level reset,
        // 5 GT/s x8 both as capability and as negotiated, which drivers compare with what they need.
        space.put16(PCIE, 0x0010, 0);
        space.put16(PCIE + 2, 0x0002, 0);
        space.put32(PCIE + 4, 0x1000_8002, 0);
        space.put16(PCIE + 8, 0x2810, 0x7FFF);
        space.put32(PCIE + 0x0C, 0x0000_0C82, 0);
        space.put16(PCIE + 0x10, 0, 0x01FB);
        space.put16(PCIE + 0x12, 0x1082, 0);
        space.put32(PCIE + 0x24, 0x0000_001F, 0);
        space.put16(PCIE + 0x28, 0, 0x001F);
        space.put32(PCIE + 0x2C, 0x0000_0006, 0);
        space.put16(PCIE + 0x30, 0x0002, 0x000F);
        // Device serial number: the station address with FF-FF in its middle (82599 §9.4.3).
        space.put32(0x100, 0x0001_0003, 0);
        let [a, b, c, d, e, f] = serial;
        space.bytes[0x104..0x10C].copy_from_slice(&[f, e, d, 0xFF, 0xFF, c, b, a]);
        space
    }

    fn put16(&mut self, at: usize, value: u16, writable: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 2].copy_from_slice(&writable.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32, writable: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }

    /// All bytes, as a bus would read them.
    pub fn bytes(&self) -> &[u8; CONFIG_SIZE] {
        &self.bytes
    }

    /// Reads `into.len()` bytes at `offset`; what lies beyond the space reads as ones.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = offset.checked_add(i).and_then(|at| self.bytes.get(at)).copied().unwrap_or(0xFF);
        }
    }

    pub fn write(&mut self, offset: usize, from: &[u8]) {
        for (i, byte) in from.iter().enumerate() {
            let Some(at) = offset.checked_add(i).filter(|at| *at < CONFIG_SIZE) else {
                return;
            };
            self.bytes[at] = self.bytes[at] & !self.writable[at] | byte & self.writable[at];
        }
    }

    /// Whether the function may master the bus: without it there is no DMA and no message.
    pub fn bus_master(&self) -> bool {
        self.bytes[0x04] & 0x04 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How every operating system sizes a 64-bit BAR: ones in, mask out.
    #[test]
    fn bars_are_sized_by_writing_ones() {
        let mut space = ConfigSpace::new(device::SFP, [2, 0, 0, 0, 0, 1], 1);
        space.write(0x10, &[0xFF; 8]);
        let mut bar = [0; 8];
        space.read(0x10, &mut bar);
        assert_eq!(u64::from_le_bytes(bar) & !0xF, !(BAR0_SIZE - 1));
        assert_eq!(bar[0] & 0xF, 4, "64-bit, not prefetchable");
    }

    /// The capability list ends and names each capability once.
    #[test]
    fn capability_list() {
        let space = ConfigSpace::new(device::KX4, [2, 0, 0, 0, 0, 1], 1);
        let mut at = usize::from(space.bytes()[0x34]);
        let mut ids = Vec::new();
        while at != 0 && ids.len() < 10 {
            ids.push(space.bytes()[at]);
            at = usize::from(space.bytes()[at + 1]);
        }
        assert_eq!(ids, [0x01, 0x11, 0x10]);
    }

    /// A bus driver looks for more functions only if the header says that there are some.
    #[test]
    fn two_ports_are_two_functions() {
        let header = |ports| ConfigSpace::new(device::SFP, [2, 0, 0, 0, 0, 1], ports).bytes()[0x0E];
        assert_eq!((header(1), header(2)), (0, 0x80));
    }

    /// Identity can't be overwritten.
    #[test]
    fn identity_is_read_only() {
        let mut space = ConfigSpace::new(device::SFP, [2, 0, 0, 0, 0, 1], 1);
        space.write(0, &[0; 4]);
        assert_eq!(space.bytes()[..4], [0x86, 0x80, 0xFB, 0x10]);
        space.write(CONFIG_SIZE - 1, &[1, 2, 3]);
        let mut beyond = [0; 2];
        space.read(CONFIG_SIZE, &mut beyond);
        assert_eq!(beyond, [0xFF; 2]);
    }
}
