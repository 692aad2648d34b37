//! What rules look at in a frame. A header that is missing, cut off or malformed is not there: rules that name it don't match, whatever the
//! bytes are.

/// A frame's headers as far as rules ask for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The 802.1Q tag's VLAN; none without a tag, or with one of priority only.
    pub vlan: Option<u16>,
    pub ethertype: Option<u16>,
    pub ipv4: Option<Ipv4>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub source: u32,
    pub destination: u32,
    pub protocol: u8,
    /// Source and destination, of TCP and UDP; not in later fragments.
    pub ports: Option<(u16, u16)>,
}

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

fn be32(frame: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

impl Headers {
    pub fn of(frame: &[u8]) -> Headers {
        let (mut vlan, mut ethertype, mut at) = (None, be16(frame, 12), 14);
        if ethertype == Some(VLAN) {
            vlan = be16(frame, 14).map(|tag| tag & 0xfff).filter(|&number| number != 0);
            (ethertype, at) = (be16(frame, 16), 18);
        }
        let ipv4 = if ethertype == Some(IPV4) { Ipv4::of(frame.get(at..).unwrap_or_default()) } else { None };
        Headers { vlan, ethertype, ipv4 }
    }
}

impl Ipv4 {
    fn of(packet: &[u8]) -> Option<Ipv4> {
        let first = *packet.first()?;
        let header_len = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header_len < 20 || packet.len() < header_len {
            return None;
        }
        let protocol = packet[9];
        let later_fragment = be16(packet, 6)? & 0x1fff != 0;
        let ports = match protocol {
            TCP | UDP if !later_fragment => be16(packet, header_len).zip(be16(packet, header_len + 2)),
            _ => None,
        };
        Some(Ipv4 { source: be32(packet, 12)?, destination: be32(packet, 16)?, protocol, ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    fn udp() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 53, 0, 8, 0, 0,
        ]);
        frame
    }

    #[test]
    fn ports_are_found_behind_options_and_tags_but_not_in_fragments() {
        let ipv4 = Ipv4 { source: 0x0a00_0001, destination: 0x0a00_0002, protocol: UDP, ports: Some((12345, 53)) };
        assert_eq!(Headers::of(&udp()), Headers { vlan: None, ethertype: Some(IPV4), ipv4: Some(ipv4) });
        let mut tagged = udp();
        tagged.splice(12..12, [0x81, 0, 0x20, 7]);
        assert_eq!(Headers::of(&tagged), Headers { vlan: Some(7), ethertype: Some(IPV4), ipv4: Some(ipv4) });
        let mut options = udp();
        options[14] = 0x46;
        options.splice(34..34, [1; 4]);
        assert_eq!(Headers::of(&options).ipv4, Some(ipv4));
        let mut fragment = udp();
        fragment[21] = 1;
        assert_eq!(Headers::of(&fragment).ipv4, Some(Ipv4 { ports: None, ..ipv4 }));
    }

    #[test]
    fn what_is_cut_off_is_not_there() {
        let whole = udp();
        for len in 0..whole.len() {
            let headers = Headers::of(&whole[..len]);
            assert_eq!(headers.ethertype.is_some(), len >= 14, "{len}");
            assert_eq!(headers.ipv4.is_some(), len >= 34, "{len}");
            assert_eq!(headers.ipv4.is_some_and(|ipv4| ipv4.ports.is_some()), len >= 38, "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..100), like in any::<bool>(), version in any::<u8>()) {
            let mut frame = noise;
            if like && frame.len() > 14 {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | version]);
            }
            Headers::of(&frame);
        }
    }
}
