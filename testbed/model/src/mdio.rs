//! The MDIO bus behind MSCA and MSRWD (82599 §8.2.3.22.9, IEEE 802.3 clause 45): empty on the 82599,
//! with a 10GBASE-T PHY on the X540.

use std::collections::BTreeMap;

use crate::pci::device;

/// MSCA's fields: register or address, device, operation (82599 §8.2.3.22.9).
const OPERATION_SHIFT: u32 = 26;
const ADDRESS: u32 = 0;
const WRITE: u32 = 1;
const READ_AND_ADVANCE: u32 = 2;
/// Nobody pulls the line low.
const NOTHING: u16 = 0xFFFF;

/// Clause 45 devices.
const PMA: u8 = 1;
const PHY_XS: u8 = 4;
const AUTONEGOTIATION: u8 = 7;

pub struct Mdio {
    /// The PHY's registers by device and address: all that it has. `None`: no PHY.
    registers: Option<BTreeMap<(u8, u16), u16>>,
    /// What the last address cycle named.
    address: u16,
}

impl Mdio {
    pub fn new(device: u16) -> Self {
        let registers = device::is_copper(device).then(|| {
            BTreeMap::from([
                // Control; the identifier that Linux and DPDK know as X540's; speeds of 10 G, 1 G and 100 M.
                ((PMA, 0), 0x2040),
                ((PMA, 1), 0x0006),
                ((PMA, 2), 0x0154),
                ((PMA, 3), 0x0200),
                ((PMA, 4), 0x0031),
                ((PHY_XS, 0), 0),
                // Autonegotiation enabled and complete, link up, the neighbour able; what is advertised.
                ((AUTONEGOTIATION, 0), 0x1000),
                ((AUTONEGOTIATION, 1), 0x002D),
                ((AUTONEGOTIATION, 16), 0x01E1),
                ((AUTONEGOTIATION, 32), 0x1001),
                // Vendor provisioning of 1 G and 100 M.
                ((AUTONEGOTIATION, 0xC400), 0xC000),
            ])
        });
        Mdio { registers, address: 0 }
    }

    /// Carries out a command written to MSCA; returns what MSRWD reads then.
    pub fn command(&mut self, msca: u32, msrwd: u32) -> u32 {
        let to = ((msca >> 16 & 0x1F) as u8, self.address);
        let absent = if self.registers.is_some() { 0 } else { NOTHING };
        let register = self.registers.as_mut().and_then(|registers| registers.get_mut(&to));
        match msca >> OPERATION_SHIFT & 3 {
            ADDRESS => {
                self.address = msca as u16;
                msrwd
            }
            WRITE => {
                if let Some(value) = register {
                    // A PHY's reset bit clears itself (IEEE 802.3 §45.2.1.1.1).
                    *value = if to.1 == 0 { msrwd as u16 & 0x7FFF } else { msrwd as u16 };
                }
                msrwd
            }
            operation => {
                let value = register.map_or(absent, |value| *value);
                if operation == READ_AND_ADVANCE {
                    self.address = self.address.wrapping_add(1);
                }
                msrwd & 0xFFFF | u32::from(value) << 16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mdio: &mut Mdio, device: u32, register: u32) -> u16 {
        mdio.command(1 << 30 | device << 16 | register, 0);
        (mdio.command(1 << 30 | 3 << OPERATION_SHIFT | device << 16, 0) >> 16) as u16
    }

    /// The identifier decides which driver code runs; an 82599 must show an empty bus.
    #[test]
    fn identifiers() {
        let mut copper = Mdio::new(device::X540);
        assert_eq!((read(&mut copper, 1, 2), read(&mut copper, 1, 3)), (0x0154, 0x0200));
        assert_eq!(read(&mut Mdio::new(device::SFP), 1, 2), NOTHING);
    }

    /// Registers keep what is written, resets end, and there are no more registers than the PHY has.
    #[test]
    fn writes() {
        let mut copper = Mdio::new(device::X540);
        copper.command(1 << 30 | 7 << 16, 0);
        copper.command(1 << 30 | WRITE << OPERATION_SHIFT | 7 << 16, 0x9200);
        assert_eq!(read(&mut copper, 7, 0), 0x1200);
        copper.command(1 << 30 | 7 << 16 | 0x7777, 0);
        copper.command(1 << 30 | WRITE << OPERATION_SHIFT | 7 << 16, 0x1234);
        assert_eq!(read(&mut copper, 7, 0x7777), 0);
    }
}
