//! The link: how it is brought up, and what LINKS says of it.

use interfaces::{
    Port,
    device::ixgbe::{DeviceError, IxgbeDevice},
    net::Link,
};

use crate::{
    family::{Mac, Media, Variant},
    registers::*,
};

/// Has the device bring its link up; that takes a while, up to seconds (82599 §4.6.4).
pub fn bring_up(device: Port<dyn IxgbeDevice>, variant: &Variant) -> Result<(), DeviceError> {
    let autoc = device.read(AUTOC)?;
    match variant.media {
        Media::Sfp => {
            device.write(ESDP, device.read(ESDP)? & !ESDP_SDP3)?;
            device.write(AUTOC, autoc & !AUTOC_LINK_MODE | AUTOC_10G_SERIAL | AUTOC_RESTART)
        }
        Media::Backplane => device.write(AUTOC, autoc | AUTOC_RESTART),
        Media::Copper => Ok(()),
    }
}

/// LINKS (82599 §8.2.3.22.20).
pub fn decode(links: u32, mac: Mac) -> Link {
    const UP: u32 = 1 << 30;
    /// X550: the speed in bits 29:28 is one of those between 1 and 10 Gb/s, or 5 Gb/s in place of 100 Mb/s.
    const OTHER_SPEEDS: u32 = 1 << 27;
    if links & UP == 0 {
        return Link::Down;
    }
    let other = mac == Mac::X550 && links & OTHER_SPEEDS != 0;
    let mbps = match (links >> 28 & 3, other) {
        (3, true) => 2_500,
        (3, false) => 10_000,
        (2, _) => 1_000,
        (1, true) => 5_000,
        (1, false) => 100,
        _ => 10,
    };
    Link::Up { mbps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds() {
        assert_eq!(decode(0x3000_0000, Mac::I82599), Link::Down);
        assert_eq!(decode(0x7000_0000, Mac::I82599), Link::Up { mbps: 10_000 });
        assert_eq!(decode(0x6000_0000, Mac::X540), Link::Up { mbps: 1_000 });
        assert_eq!(decode(0x5000_0000, Mac::X540), Link::Up { mbps: 100 });
        assert_eq!(decode(0x7800_0000, Mac::X550), Link::Up { mbps: 2_500 });
        assert_eq!(decode(0x5800_0000, Mac::X550), Link::Up { mbps: 5_000 });
        assert_eq!(decode(0x7800_0000, Mac::I82599), Link::Up { mbps: 10_000 }, "bit 27 means something else there");
    }
}
