//! Whose a frame is, by its headers alone. A header that is cut off or malformed is not there.

use core::net::Ipv4Addr;

/// Bits of sides.
pub const LISTED: u8 = 1;
pub const OTHERS: u8 = 2;

const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Of ARP's fixed part for Ethernet and IPv4 (RFC 826): where the operation and the two addresses stand.
const OPERATION: usize = 6;
const SENDER: usize = 14;
const TARGET: usize = 24;
const REQUEST: u16 = 1;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// The sides that a frame is for: one, or of what tells neighbours' addresses both.
pub fn sides(frame: &[u8], listed: &[Ipv4Addr]) -> u8 {
    let (mut ethertype, mut at) = (be16(frame, 12), 14);
    if ethertype == Some(VLAN) {
        (ethertype, at) = (be16(frame, 16), 18);
    }
    let packet = frame.get(at..).unwrap_or_default();
    let side = |address: Option<Ipv4Addr>| match address {
        Some(address) if listed.contains(&address) => LISTED,
        _ => OTHERS,
    };
    match ethertype {
        // RFC 791: version and header length, then the destination in bytes 16 to 19.
        Some(IPV4) if packet.first().is_some_and(|first| first >> 4 == 4) => side(address(packet, 16)),
        // A question is for whoever has the address. An answer may be to either; so may be what a neighbour tells of itself unasked (RFC 5944 §4.6).
        Some(ARP) if be16(packet, OPERATION) == Some(REQUEST) && address(packet, SENDER) != address(packet, TARGET) => {
            side(address(packet, TARGET))
        }
        Some(ARP) => LISTED | OTHERS,
        _ => OTHERS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 100);
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 3);

    fn ipv4(to: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[30..34].copy_from_slice(&to.octets());
        frame
    }

    fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame[28..32].copy_from_slice(&sender.octets());
        frame[38..42].copy_from_slice(&target.octets());
        frame
    }

    /// Each frame is whose its destination is; what tells of neighbours is for both; what is no IPv4 is not the list's.
    #[test]
    fn every_frame_has_its_side() {
        let neighbour = Ipv4Addr::new(10, 0, 1, 254);
        let of = |frame: &[u8]| sides(frame, &[VIP]);
        assert_eq!((of(&ipv4(VIP)), of(&ipv4(OWN))), (LISTED, OTHERS));
        assert_eq!((of(&arp(1, neighbour, VIP)), of(&arp(1, neighbour, OWN))), (LISTED, OTHERS));
        assert_eq!(
            (of(&arp(2, neighbour, OWN)), of(&arp(1, neighbour, neighbour))),
            (LISTED | OTHERS, LISTED | OTHERS)
        );
        let mut tagged = ipv4(VIP);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(of(&tagged), LISTED);
        let mut ipv6 = ipv4(VIP);
        ipv6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        assert_eq!((of(&ipv6), of(&[]), of(&ipv4(VIP)[..32])), (OTHERS, OTHERS, OTHERS));
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..80), kind in 0usize..4) {
            if frame.len() > 14 && kind < 3 {
                frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x81, 0]][kind]);
            }
            prop_assert!((1..=3).contains(&sides(&frame, &[VIP])));
        }
    }
}
