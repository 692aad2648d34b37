//! The devices that this driver knows, and how they differ. (PCI ids and differences: Linux's and DPDK's ixgbe.)

/// The controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mac {
    I82599,
    X540,
    X550,
}

/// What brings the link up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// SFP+ cage: the laser is switched by a pin, the MAC speaks 10G serial.
    Sfp,
    /// Backplane, CX4, XAUI: as the EEPROM has set it; autonegotiation restarted.
    Backplane,
    /// 10GBASE-T: the PHY's firmware does it alone.
    Copper,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub device: u16,
    pub name: &'static str,
    pub mac: Mac,
    pub media: Media,
}

impl Variant {
    /// KiB of receive packet buffer (82599 §7.1.3; X540 §7.1.3: 384).
    pub fn packet_buffer_kib(&self) -> u32 {
        match self.mac {
            Mac::I82599 => 512,
            Mac::X540 | Mac::X550 => 384,
        }
    }

    /// The variant with this PCI device id.
    pub fn find(vendor: u16, device: u16) -> Option<&'static Variant> {
        VARIANTS.iter().find(|variant| vendor == INTEL && variant.device == device)
    }
}

const INTEL: u16 = 0x8086;

const fn variant(device: u16, name: &'static str, mac: Mac, media: Media) -> Variant {
    Variant { device, name, mac, media }
}

pub const VARIANTS: &[Variant] = &[
    variant(0x10FB, "82599 SFP+", Mac::I82599, Media::Sfp),
    variant(0x10F7, "82599 KX4", Mac::I82599, Media::Backplane),
    variant(0x1514, "82599 KX4 mezzanine", Mac::I82599, Media::Backplane),
    variant(0x1517, "82599 KR", Mac::I82599, Media::Backplane),
    variant(0x10F8, "82599 combined backplane", Mac::I82599, Media::Backplane),
    variant(0x10F9, "82599 CX4", Mac::I82599, Media::Backplane),
    variant(0x10FC, "82599 XAUI", Mac::I82599, Media::Backplane),
    variant(0x152A, "82599 backplane FCoE", Mac::I82599, Media::Backplane),
    variant(0x1529, "82599 SFP+ FCoE", Mac::I82599, Media::Sfp),
    variant(0x1507, "82599 SFP+ EM", Mac::I82599, Media::Sfp),
    variant(0x154D, "82599 SFP+ SF2", Mac::I82599, Media::Sfp),
    variant(0x154A, "82599 SFP+ quad", Mac::I82599, Media::Sfp),
    variant(0x1557, "82599EN SFP+", Mac::I82599, Media::Sfp),
    variant(0x1528, "X540-T2", Mac::X540, Media::Copper),
    variant(0x1560, "X540-T1", Mac::X540, Media::Copper),
    variant(0x1563, "X550-T2", Mac::X550, Media::Copper),
    variant(0x15D1, "X550-T1", Mac::X550, Media::Copper),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variant is one whose registers the trusted layer knows: else the kernel would offer no device for it.
    #[test]
    fn the_trusted_layer_takes_every_variant() {
        for variant in VARIANTS {
            assert!(ixgbe_device::matches(INTEL, variant.device), "{}", variant.name);
        }
    }

    /// An id stands for one variant, and another vendor's same number for none.
    #[test]
    fn ids_are_unique() {
        for variant in VARIANTS {
            assert_eq!(Variant::find(INTEL, variant.device), Some(variant));
            assert_eq!(Variant::find(0x8087, variant.device), None);
        }
        assert_eq!(Variant::find(INTEL, 0x10B6), None, "an 82598 has other registers");
    }
}
