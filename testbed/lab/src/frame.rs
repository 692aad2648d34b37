//! What the lab wants to know of a frame: Ethernet with at most one tag (802.1Q §9), IPv4 (RFC 791 §3.1), TCP (RFC 9293 §3.1), UDP (RFC 768).
//!
//! Parsing never fails loudly: what isn't understood is [`Kind::Other`], and is counted as such.

use std::net::Ipv4Addr;

/// The first bytes of every probe.
pub const PROBE_MAGIC: [u8; 8] = *b"rlprobe1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Arp,
    Ip(Ip),
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        sequence: u32,
        flags: u8,
    },
    Udp {
        source: u16,
        destination: u16,
        probe: Option<u64>,
    },
    /// Another protocol, a fragment that isn't the first, or cut short.
    Other,
}

/// 802.1Q and 802.1ad: the kernel takes either out of what it receives.
pub const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// RFC 9293 §3.1.
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

impl Frame {
    /// `untagged`: the host's kernel has taken a tag out of these bytes, as it does on receipt; then another one is looked through no more.
    pub fn parse(bytes: &[u8], untagged: bool) -> Frame {
        let address = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        Frame { destination: address(0), source: address(6), kind: kind(bytes, untagged).unwrap_or(Kind::Other) }
    }
}

fn kind(bytes: &[u8], untagged: bool) -> Option<Kind> {
    let tagged = !untagged && TAGS.contains(&be16(bytes, 12)?);
    let at = if tagged { 16 } else { 12 };
    match be16(bytes, at)? {
        0x0806 => Some(Kind::Arp),
        0x0800 => ip(bytes.get(at + 2..)?).map(Kind::Ip),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<Ip> {
    let first = *bytes.first()?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    let source = Ipv4Addr::from(*bytes.get(12..)?.first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*bytes.get(16..)?.first_chunk::<4>()?);
    let fragment = be16(bytes, 6)? & 0x1fff;
    let transport = if fragment == 0 { transport(bytes[9], bytes.get(header..)) } else { None };
    Some(Ip { source, destination, transport: transport.unwrap_or(Transport::Other) })
}

fn transport(protocol: u8, bytes: Option<&[u8]>) -> Option<Transport> {
    let bytes = bytes?;
    let (source, destination) = (be16(bytes, 0)?, be16(bytes, 2)?);
    match protocol {
        6 => Some(Transport::Tcp {
            source,
            destination,
            sequence: u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?),
            flags: *bytes.get(13)?,
        }),
        17 => {
            let payload = bytes.get(8..).unwrap_or_default();
            let probe = payload
                .strip_prefix(&PROBE_MAGIC)
                .and_then(|rest| rest.first_chunk())
                .map(|number| u64::from_be_bytes(*number));
            Some(Transport::Udp { source, destination, probe })
        }
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe_frame(number: u64) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x08, 0x00];
        frame.extend([0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x30, 0x39, 0, 53, 0, 24, 0, 0]);
        frame.extend(PROBE_MAGIC);
        frame.extend(number.to_be_bytes());
        frame
    }

    #[test]
    fn a_probe_is_recognised_with_its_number() {
        let frame = Frame::parse(&probe_frame(77), false);
        assert_eq!(frame.source, [2, 0, 0, 0, 0, 8]);
        let Kind::Ip(ip) = frame.kind else { panic!("{frame:?}") };
        assert_eq!(ip.destination, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(ip.transport, Transport::Udp { source: 12345, destination: 53, probe: Some(77) });
    }

    /// Else the sums of two captures, one before and one after the kernel took the tag out, would differ.
    #[test]
    fn a_tag_makes_no_difference_whether_it_is_there_or_was_taken_out() {
        let plain = probe_frame(5);
        let mut tagged = plain[..12].to_vec();
        tagged.extend([0x81, 0, 0, 0]);
        tagged.extend(&plain[12..]);
        let kind = Frame::parse(&plain, true).kind;
        assert!(matches!(kind, Kind::Ip(_)));
        assert_eq!(Frame::parse(&tagged, false).kind, kind);
        assert_eq!(Frame::parse(&tagged, true).kind, Kind::Other);
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut bytes = probe_frame(1);
        bytes[14 + 7] = 1;
        let Kind::Ip(ip) = Frame::parse(&bytes, false).kind else { panic!() };
        assert_eq!(ip.transport, Transport::Other);
    }

    proptest! {
        /// Captures hold whatever was on the wire.
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), cut in 0usize..64, untagged: bool) {
            Frame::parse(&bytes, untagged);
            let probe = probe_frame(3);
            Frame::parse(&probe[..cut.min(probe.len())], untagged);
        }
    }
}
