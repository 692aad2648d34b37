//! Whose a received frame is: the least that must be read of it to find its connection, without asking every socket.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use interfaces::packet::PacketFlags;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

/// Both ends of a connection, as the box sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    pub remote: IpAddr,
    pub remote_port: u16,
    pub local: IpAddr,
    pub local_port: u16,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Tcp {
        flow: Flow,
        syn: bool,
        /// SYN without ACK: somebody wants to connect.
        opens: bool,
        /// Bytes of data.
        data: usize,
    },
    Udp {
        flow: Flow,
        payload: &'a [u8],
    },
    /// ARP, or a neighbour's message of ICMPv6: what all instances learn from.
    Neighbour,
    /// Anything else that is whole: ICMP, what no socket is for.
    Other,
    /// A fragment: there is no reassembly.
    Fragment,
    /// Cut off, malformed, or with a wrong checksum.
    Damaged,
}

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ETHERNET: usize = 14;

impl Frame<'_> {
    /// Reads a frame. Checksums of TCP, UDP and of IPv4's header are verified here unless the card has done so; the others are left to smoltcp.
    pub fn of(frame: &[u8], flags: PacketFlags) -> Frame<'_> {
        if flags.intersects(PacketFlags::IP_CHECKSUM_BAD | PacketFlags::L4_CHECKSUM_BAD) {
            return Frame::Damaged;
        }
        let Some((header, packet)) = frame.split_at_checked(ETHERNET) else { return Frame::Damaged };
        match u16::from_be_bytes([header[12], header[13]]) {
            ARP if names_a_station(packet) => Frame::Neighbour,
            ARP => Frame::Damaged,
            IPV4 => ipv4(packet, flags).unwrap_or(Frame::Damaged),
            IPV6 => ipv6(packet, flags).unwrap_or(Frame::Damaged),
            _ => Frame::Other,
        }
    }
}

/// Whether an ARP message's sender has a hardware address that a station can have: what is learnt from another leads nowhere.
fn names_a_station(message: &[u8]) -> bool {
    message.get(8..14).is_some_and(|sender| sender[0] & 1 == 0 && sender != [0; 6])
}

fn ipv4(packet: &[u8], flags: PacketFlags) -> Option<Frame<'_>> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    if ip.version() != 4 || !(flags.contains(PacketFlags::IP_CHECKSUM_GOOD) || ip.verify_checksum()) {
        return None;
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Some(Frame::Fragment);
    }
    let (remote, local) = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
    transport(ip.next_header(), ip.payload(), remote, local, flags)
}

fn ipv6(packet: &[u8], flags: PacketFlags) -> Option<Frame<'_>> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    if ip.version() != 6 {
        return None;
    }
    let (remote, local) = (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()));
    let (next, payload) = (ip.next_header(), ip.payload());
    match (next, payload.first()) {
        // RFC 4861 §4: router and neighbour solicitation and advertisement.
        (IpProtocol::Icmpv6, Some(133..=136)) => Some(Frame::Neighbour),
        (IpProtocol::Ipv6Frag, _) => Some(Frame::Fragment),
        _ => transport(next, payload, remote, local, flags),
    }
}

fn transport(
    protocol: IpProtocol,
    payload: &[u8],
    remote: IpAddr,
    local: IpAddr,
    flags: PacketFlags,
) -> Option<Frame<'_>> {
    let good = flags.contains(PacketFlags::L4_CHECKSUM_GOOD);
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            if !(good || tcp.verify_checksum(&remote.into(), &local.into())) {
                return None;
            }
            let flow = Flow { remote, remote_port: tcp.src_port(), local, local_port: tcp.dst_port() };
            let (syn, data) = (tcp.syn(), tcp.payload().len());
            Some(Frame::Tcp { flow, syn, opens: syn && !tcp.ack() && !tcp.rst(), data })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            if !(good || udp.verify_checksum(&remote.into(), &local.into())) {
                return None;
            }
            let flow = Flow { remote, remote_port: udp.src_port(), local, local_port: udp.dst_port() };
            let len = usize::from(udp.len());
            Some(Frame::Udp { flow, payload: payload.get(8..len)? })
        }
        _ => Some(Frame::Other),
    }
}

/// Whether a received segment says nothing that the next one doesn't: both are mere acknowledgements, whole, of one connection by IPv4, and the next acknowledges more. (One that repeats
/// another says that something was lost.)
pub fn is_superseded(frame: &[u8], next: (&[u8], PacketFlags)) -> bool {
    // Headers without options, and where in them version and length, protocol, the connection's ends, the sequence number, the acknowledgement, length of header and flags are.
    const LEN: usize = ETHERNET + 40;
    const IP: usize = ETHERNET;
    const PROTOCOL: usize = ETHERNET + 9;
    const ENDS: core::ops::Range<usize> = ETHERNET + 12..ETHERNET + 24;
    const SEQUENCE: core::ops::Range<usize> = ETHERNET + 24..ETHERNET + 28;
    const ACKNOWLEDGED: usize = ETHERNET + 28;
    const KIND: core::ops::Range<usize> = ETHERNET + 32..ETHERNET + 34;
    let acknowledges = |frame: &[u8]| {
        let is_one = frame.len() >= LEN
            && frame[12..14] == IPV4.to_be_bytes()
            && frame[IP..IP + 4] == [0x45, frame[IP + 1], 0, 40]
            && frame[PROTOCOL] == 6
            && frame[KIND] == [0x50, 0x10];
        is_one.then(|| u32::from_be_bytes(*frame[ACKNOWLEDGED..].first_chunk().expect("it is that long")))
    };
    let (next, flags) = next;
    let good = PacketFlags::IP_CHECKSUM_GOOD | PacketFlags::L4_CHECKSUM_GOOD;
    flags.contains(good)
        && matches!((acknowledges(frame), acknowledges(next)), (Some(this), Some(that)) if (that.wrapping_sub(this) as i32) > 0)
        && frame[ENDS] == next[ENDS]
        && frame[SEQUENCE] == next[SEQUENCE]
}

/// Whether an address is one host's.
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast() && address != Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => !address.is_multicast() && address != Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// A SYN from 10.0.0.2:1000 to 10.0.0.1:80.
    fn syn() -> Vec<u8> {
        let mut frame = alloc::vec![0u8; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        let ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        frame[14..34].copy_from_slice(&ip);
        frame[34..38].copy_from_slice(&[1000u16.to_be_bytes(), 80u16.to_be_bytes()].concat());
        frame[46..48].copy_from_slice(&[0x50, 0x02]);
        let (remote, local) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        TcpPacket::new_unchecked(&mut frame[34..]).fill_checksum(&remote.into(), &local.into());
        frame
    }

    #[test]
    fn a_syn_is_found_by_both_its_ends_and_a_wrong_checksum_is_damage() {
        let flow = Flow {
            remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
            remote_port: 1000,
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            local_port: 80,
        };
        let mut frame = syn();
        assert_eq!(Frame::of(&frame, PacketFlags::empty()), Frame::Tcp { flow, syn: true, opens: true, data: 0 });
        assert_eq!(Frame::of(&frame, PacketFlags::L4_CHECKSUM_BAD), Frame::Damaged);
        frame[50] ^= 1;
        assert_eq!(Frame::of(&frame, PacketFlags::empty()), Frame::Damaged);
        let checked = PacketFlags::L4_CHECKSUM_GOOD | PacketFlags::IP_CHECKSUM_GOOD;
        assert_eq!(
            Frame::of(&frame, checked),
            Frame::Tcp { flow, syn: true, opens: true, data: 0 },
            "the card has looked"
        );
    }

    /// Who says that a neighbour is at an address that no station has is not believed: answers to that neighbour would reach nobody.
    #[test]
    fn nobody_is_at_an_impossible_address() {
        let mut frame = alloc::vec![0u8; 60];
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        for (sender, expected) in [
            ([2, 0, 0, 0, 0, 9], Frame::Neighbour),
            ([0; 6], Frame::Damaged),
            ([0xff; 6], Frame::Damaged),
            ([1, 0, 0x5e, 0, 0, 1], Frame::Damaged),
        ] {
            frame[22..28].copy_from_slice(&sender);
            assert_eq!(Frame::of(&frame, PacketFlags::empty()), expected);
        }
        assert_eq!(Frame::of(&frame[..27], PacketFlags::empty()), Frame::Damaged);
    }

    /// An acknowledgement is left out only where the next, of the same connection, says all that it says: so nothing is that tells of a loss, carries data, or ends something.
    #[test]
    fn only_what_the_next_says_too_is_superseded() {
        let good = PacketFlags::L4_CHECKSUM_GOOD | PacketFlags::IP_CHECKSUM_GOOD;
        let acknowledgement = |upto: u32| {
            let mut frame = syn();
            frame[42..46].copy_from_slice(&upto.to_be_bytes());
            frame[47] = 0x10;
            frame
        };
        let superseded = |first: u32, next: u32, change: &dyn Fn(&mut Vec<u8>, &mut Vec<u8>), flags| {
            let (mut first, mut next) = (acknowledgement(first), acknowledgement(next));
            change(&mut first, &mut next);
            is_superseded(&first, (&next, flags))
        };
        let same = |_: &mut Vec<u8>, _: &mut Vec<u8>| {};
        assert!(superseded(5, 6, &same, good) && superseded(u32::MAX, 3, &same, good));
        assert!(!superseded(6, 6, &same, good), "it says that something was lost");
        assert!(!superseded(7, 6, &same, good) && !superseded(5, 6, &same, PacketFlags::empty()));
        // Padded to Ethernet's shortest, as they come.
        assert!(superseded(5, 6, &|first, next| [first, next].into_iter().for_each(|frame| frame.resize(60, 0)), good));
        for at in [12, 14, 17, 23, 26, 30, 34, 36, 41, 46, 47] {
            assert!(!superseded(5, 6, &|first, _| first[at] ^= 1, good), "byte {at} of the first");
            assert!(!superseded(5, 6, &|_, next| next[at] ^= 1, good), "byte {at} of the next");
        }
        assert!(!is_superseded(&acknowledgement(5)[..53], (&acknowledgement(6), good)));
        assert!(!is_superseded(&acknowledgement(5), (&acknowledgement(6)[..53], good)));
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..4u8, protocol in any::<u8>(), flags in 0..16u16) {
            let mut frame = noise;
            if frame.len() > 24 {
                match kind {
                    0 => { frame[12..15].copy_from_slice(&[8, 0, 0x45]); frame[23] = protocol; }
                    1 => { frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]); frame[20] = protocol; }
                    2 => frame[12..14].copy_from_slice(&[8, 6]),
                    _ => {}
                }
            }
            Frame::of(&frame, PacketFlags::from_bits_truncate(flags));
        }
    }
}
