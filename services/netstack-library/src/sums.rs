//! Checksums of what is sent (RFC 1071): left to a card that fills them in, or four bytes at a time into an accumulator that can't overflow. smoltcp adds two at a time, with a check for
//! each: of a full frame that was more than all else that TCP does.

use core::ops::Range;

use interfaces::packet::PacketFlags;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const IPV6: [u8; 2] = [0x86, 0xDD];
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;

/// Writes the checksum of the TCP segment or UDP datagram in a frame that smoltcp has written without one, and whose place for it is zero. Other frames are left as they are.
pub fn complete(frame: &mut [u8]) {
    let Some(carried) = Carried::by(frame) else { return };
    let sum = match !folded(carried.pseudo_header(frame) + sum(&frame[carried.segment])) {
        // None, says RFC 768.
        0 if carried.protocol == UDP => u16::MAX,
        sum => sum,
    };
    frame[carried.at].copy_from_slice(&sum.to_ne_bytes());
}

/// Has a frame that smoltcp has written without checksums completed by the card; tells what that is to fill in. (smoltcp writes IPv4 headers without options.)
pub fn leave_to_card(frame: &mut [u8]) -> PacketFlags {
    let mut wanted = PacketFlags::empty();
    if frame.get(ETHERNET - 2..ETHERNET).is_some_and(|ethertype| ethertype == IPV4) {
        wanted |= PacketFlags::FILL_IP_CHECKSUM;
    }
    if let Some(carried) = Carried::by(frame) {
        let sum = folded(carried.pseudo_header(frame));
        frame[carried.at].copy_from_slice(&sum.to_ne_bytes());
        wanted |= if carried.protocol == TCP { PacketFlags::FILL_TCP_CHECKSUM } else { PacketFlags::FILL_UDP_CHECKSUM };
    }
    wanted
}

/// A TCP segment or UDP datagram, by where its parts are in a frame.
struct Carried {
    addresses: Range<usize>,
    protocol: u8,
    segment: Range<usize>,
    /// The checksum's place.
    at: Range<usize>,
}

impl Carried {
    fn by(frame: &[u8]) -> Option<Carried> {
        let (addresses, protocol, segment) = parts(frame)?;
        let at = match protocol {
            // RFC 9293 §3.1, RFC 768.
            TCP => segment.start + 16,
            UDP => segment.start + 6,
            _ => return None,
        };
        (at + 2 <= segment.end).then_some(Carried { addresses, protocol, segment, at: at..at + 2 })
    }

    /// All words are taken as they lie in memory, which turns the sum's bytes and nothing else (RFC 1071 §2).
    fn pseudo_header(&self, frame: &[u8]) -> u64 {
        let length = u16::from_ne_bytes((self.segment.len() as u16).to_be_bytes());
        let protocol = u16::from_ne_bytes([0, self.protocol]);
        sum(&frame[self.addresses.clone()]) + u64::from(length) + u64::from(protocol)
    }
}

/// Where the addresses are, and what IP carries.
pub(crate) fn parts(frame: &[u8]) -> Option<(Range<usize>, u8, Range<usize>)> {
    let packet = frame.get(ETHERNET..)?;
    let (addresses, protocol, header) = match *frame.get(ETHERNET - 2..ETHERNET)?.first_chunk()? {
        IPV4 => (12..20, *packet.get(9)?, usize::from(packet[0] & 15) * 4),
        IPV6 => (8..40, *packet.get(6)?, 40),
        _ => return None,
    };
    let start = ETHERNET + header;
    let addresses = ETHERNET + addresses.start..ETHERNET + addresses.end;
    (addresses.end <= start && start <= frame.len()).then_some((addresses, protocol, start..frame.len()))
}

/// Of 16-bit words, not folded: a frame has too few of them to overflow.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let add = |sum: u64, word: &[u8; 4]| sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    add(words.iter().fold(0, add), &last)
}

fn folded(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, Ipv4Address, Ipv6Address, TcpPacket, UdpPacket};

    /// A frame that carries `segment`, whose checksum is to be written.
    fn frame(v6: bool, protocol: u8, addresses: &[u8; 32], segment: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET];
        frame[12..].copy_from_slice(if v6 { &IPV6 } else { &IPV4 });
        let mut header = vec![0; if v6 { 40 } else { 20 }];
        if v6 {
            (header[0], header[6]) = (0x60, protocol);
            header[8..].copy_from_slice(addresses);
        } else {
            (header[0], header[9]) = (0x45, protocol);
            header[12..].copy_from_slice(&addresses[..8]);
        }
        [frame, header, segment.to_vec()].concat()
    }

    fn address(v6: bool, bytes: &[u8]) -> IpAddress {
        match v6 {
            true => IpAddress::Ipv6(Ipv6Address::from(<[u8; 16]>::try_from(bytes).unwrap())),
            false => IpAddress::Ipv4(Ipv4Address::from(<[u8; 4]>::try_from(bytes).unwrap())),
        }
    }

    proptest! {
        /// What is sent has the sum that smoltcp would have written, whatever it is: else no peer takes it.
        #[test]
        fn sums_are_right(
            v6: bool,
            tcp: bool,
            addresses: [u8; 32],
            mut segment in proptest::collection::vec(any::<u8>(), 20..1_500),
        ) {
            let half = if v6 { 16 } else { 4 };
            let (from, to) = (address(v6, &addresses[..half]), address(v6, &addresses[half..2 * half]));
            let length = segment.len() as u16;
            let expected = if tcp {
                segment[12] = 0x50;
                let mut packet = TcpPacket::new_unchecked(segment.clone());
                packet.fill_checksum(&from, &to);
                segment[16..18].fill(0);
                packet.into_inner()
            } else {
                segment[4..6].copy_from_slice(&length.to_be_bytes());
                let mut packet = UdpPacket::new_unchecked(segment.clone());
                packet.fill_checksum(&from, &to);
                segment[6..8].fill(0);
                packet.into_inner()
            };
            let mut sent = frame(v6, if tcp { TCP } else { UDP }, &addresses, &segment);
            let mut left = sent.clone();
            complete(&mut sent);
            let start = sent.len() - segment.len();
            prop_assert_eq!(&sent[start..], &expected[..]);
            // The card adds up what it finds, inverts it, and knows of UDP's 0.
            let wanted = leave_to_card(&mut left);
            prop_assert_eq!(wanted.contains(PacketFlags::FILL_IP_CHECKSUM), !v6);
            prop_assert_eq!(wanted.contains(PacketFlags::FILL_TCP_CHECKSUM), tcp);
            prop_assert_eq!(wanted.contains(PacketFlags::FILL_UDP_CHECKSUM), !tcp);
            let filled = Some(!folded(sum(&left[start..]))).filter(|sum| tcp || *sum != 0).unwrap_or(u16::MAX);
            let at = start + if tcp { 16 } else { 6 };
            left[at..at + 2].copy_from_slice(&filled.to_ne_bytes());
            prop_assert_eq!(&left[start..], &expected[..]);
        }

        /// What isn't TCP or UDP, or is cut off, is left alone.
        #[test]
        fn other_frames_are_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut sent = bytes.clone();
            complete(&mut sent);
            leave_to_card(&mut bytes.clone());
            let carried = parts(&bytes).is_some_and(|(_, protocol, _)| [TCP, UDP].contains(&protocol));
            prop_assert!(carried || sent == bytes);
        }
    }
}
