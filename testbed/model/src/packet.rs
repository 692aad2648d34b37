//! What the receive parser sees in a frame: layers, addresses, ports, and whether sums are right.
//!
//! Any bytes may be passed in; what doesn't parse is simply absent from the result.

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86DD;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_SCTP: u8 = 132;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    V4 { source: [u8; 4], destination: [u8; 4], options: bool },
    V6 { source: [u8; 16], destination: [u8; 16], extensions: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The VLAN tag's TCI, if the outer ethertype is 0x8100.
    pub vlan: Option<u16>,
    pub ethertype: u16,
    pub network: Option<Network>,
    /// Of the network header, from the frame's start.
    pub network_offset: usize,
    pub protocol: Option<u8>,
    pub fragment: bool,
    /// Of the transport header; where the network header ends.
    pub transport_offset: usize,
    /// End of the network payload by the header's own length, so that padding is left out.
    pub end: usize,
    pub ports: Option<(u16, u16)>,
    pub tcp_flags: u8,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl Parsed {
    pub fn new(frame: &[u8]) -> Parsed {
        let mut vlan = None;
        let mut offset = 14;
        let mut ethertype = be16(frame, 12).unwrap_or(0);
        if ethertype == ETHERTYPE_VLAN {
            vlan = be16(frame, 14);
            ethertype = be16(frame, 16).unwrap_or(0);
            offset = 18;
        }
        let mut parsed = Parsed {
            vlan,
            ethertype,
            network: None,
            network_offset: offset,
            protocol: None,
            fragment: false,
            transport_offset: offset,
            end: frame.len(),
            ports: None,
            tcp_flags: 0,
        };
        // None only says that the frame ended early: what was found until then stands.
        let _ = match ethertype {
            ETHERTYPE_IPV4 => parsed.ipv4(frame),
            ETHERTYPE_IPV6 => parsed.ipv6(frame),
            _ => None,
        };
        parsed
    }

    fn ipv4(&mut self, frame: &[u8]) -> Option<()> {
        let header = frame.get(self.network_offset..)?;
        let first = *header.first()?;
        let length = usize::from(first & 15) * 4;
        if first >> 4 != 4 || length < 20 || header.len() < length {
            return None;
        }
        let total = usize::from(be16(header, 2)?);
        if total < length || total > header.len() {
            return None;
        }
        self.network = Some(Network::V4 {
            source: header[12..16].try_into().ok()?,
            destination: header[16..20].try_into().ok()?,
            options: length > 20,
        });
        self.protocol = Some(header[9]);
        // More fragments, or an offset: no transport header to look at (82599 §7.1.2.8.2).
        self.fragment = be16(header, 6)? & 0x3FFF != 0;
        self.transport_offset = self.network_offset + length;
        self.end = self.network_offset + total;
        self.transport(frame)
    }

    fn ipv6(&mut self, frame: &[u8]) -> Option<()> {
        let header = frame.get(self.network_offset..)?;
        if header.len() < 40 || header[0] >> 4 != 6 {
            return None;
        }
        let end = self.network_offset + 40 + usize::from(be16(header, 4)?);
        if end > frame.len() {
            return None;
        }
        let mut next = header[6];
        let mut offset = self.network_offset + 40;
        let mut extensions = false;
        // Hop-by-hop, routing, destination options; a fragment header ends the search.
        while matches!(next, 0 | 43 | 60) && offset + 8 <= end {
            extensions = true;
            next = frame[offset];
            offset += 8 + 8 * usize::from(frame[offset + 1]);
        }
        self.network = Some(Network::V6 {
            source: header[8..24].try_into().ok()?,
            destination: header[24..40].try_into().ok()?,
            extensions,
        });
        self.fragment = next == 44;
        self.protocol = Some(next);
        self.transport_offset = offset.min(end);
        self.end = end;
        self.transport(frame)
    }

    fn transport(&mut self, frame: &[u8]) -> Option<()> {
        if self.fragment {
            return None;
        }
        let segment = frame.get(self.transport_offset..self.end)?;
        let least = match self.protocol? {
            PROTOCOL_TCP => 20,
            PROTOCOL_UDP => 8,
            PROTOCOL_SCTP => 12,
            _ => return None,
        };
        if segment.len() < least {
            return None;
        }
        self.ports = Some((be16(segment, 0)?, be16(segment, 2)?));
        if self.protocol == Some(PROTOCOL_TCP) {
            self.tcp_flags = segment[13];
        }
        Some(())
    }

    /// Whether the IPv4 header's checksum is right; `None` if there is no IPv4 header.
    pub fn network_sum_good(&self, frame: &[u8]) -> Option<bool> {
        match self.network? {
            Network::V4 { .. } => Some(fold(sum(frame.get(self.network_offset..self.transport_offset)?)) == 0xFFFF),
            Network::V6 { .. } => None,
        }
    }

    /// Whether the TCP or UDP checksum is right; `None` where the hardware checks nothing: fragments,
    /// other protocols, UDP without a checksum (82599 §7.1.11).
    pub fn transport_sum_good(&self, frame: &[u8]) -> Option<bool> {
        self.ports?;
        let protocol = self.protocol?;
        let segment = frame.get(self.transport_offset..self.end)?;
        if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) || (protocol == PROTOCOL_UDP && be16(segment, 6)? == 0) {
            return None;
        }
        let pseudo = match self.network? {
            Network::V4 { source, destination, .. } => sum(&source) + sum(&destination),
            Network::V6 { source, destination, .. } => sum(&source) + sum(&destination),
        };
        Some(fold(pseudo + u64::from(protocol) + segment.len() as u64 + sum(segment)) == 0xFFFF)
    }
}

/// Sum of big-endian 16-bit words; an odd last byte counts as the high half (RFC 1071).
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        // Two words at once; folding later makes the halves add up to the same.
        total += u64::from(u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    match *chunks.remainder() {
        [] => total,
        [a] => total + (u64::from(a) << 8),
        [a, b] => total + u64::from(u16::from_be_bytes([a, b])),
        [a, b, c, ..] => total + u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8),
    }
}

/// Folds a sum of 16-bit words into one word with end-around carry.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;
    use proptest::prelude::*;

    /// RFC 1071 §3's worked example.
    #[test]
    fn sum_of_rfc1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])), 0xDDF2);
    }

    /// Protects parsing of what the lab sends most, with and without a VLAN tag.
    #[test]
    fn udp_in_ipv4() {
        let frame = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1000, 53, b"hello");
        let parsed = Parsed::new(&frame);
        assert_eq!(parsed.protocol, Some(PROTOCOL_UDP));
        assert_eq!(parsed.ports, Some((1000, 53)));
        assert_eq!(parsed.network_sum_good(&frame), Some(true));
        assert_eq!(parsed.transport_sum_good(&frame), Some(true));
        let tagged = frames::tagged(&frame, 0x2007);
        let parsed = Parsed::new(&tagged);
        assert_eq!((parsed.vlan, parsed.ports), (Some(0x2007), Some((1000, 53))));
        assert_eq!(parsed.transport_sum_good(&tagged), Some(true));
    }

    /// A flipped payload bit must be seen as a bad transport sum, and only there.
    #[test]
    fn bad_sums_are_seen() {
        let mut frame = frames::tcp([10, 0, 0, 1], [10, 0, 0, 2], 1000, 80, 0x18, b"longer than padding");
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let parsed = Parsed::new(&frame);
        assert_eq!(parsed.network_sum_good(&frame), Some(true));
        assert_eq!(parsed.transport_sum_good(&frame), Some(false));
    }

    proptest! {
        /// Hostile frames: no panic, and offsets stay inside the frame.
        #[test]
        fn any_bytes_parse(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..3) {
            let mut frame = bytes;
            if frame.len() >= 14 {
                let ethertype = [ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN][usize::from(kind)];
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            let parsed = Parsed::new(&frame);
            let _ = (parsed.network_sum_good(&frame), parsed.transport_sum_good(&frame));
            if parsed.network.is_some() {
                prop_assert!(parsed.transport_offset <= parsed.end && parsed.end <= frame.len());
            }
        }
    }
}
