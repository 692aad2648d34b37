//! Frames as others write and read them: smoltcp builds what `frame` looks into and reads what it has written; and whatever the bytes,
//! nothing panics.

use maglev::{
    connections::Signal,
    drops::DropReason,
    frame::{self, ArpOperation, ArpRequest, Checked, Checksums, Content, Protocol, SHORTEST},
};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation as WireOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
        EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl,
        TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    },
};

const BOX: [u8; 6] = [0x02, 0, 0, 0, 0, 0xb0];
const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const BACKEND: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];
const CLIENT: Ipv4Address = Ipv4Address::new(192, 0, 2, 7);
const VIP: Ipv4Address = Ipv4Address::new(10, 0, 1, 100);

fn ethernet(destination: [u8; 6], kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let repr =
        EthernetRepr { src_addr: EthernetAddress(ROUTER), dst_addr: EthernetAddress(destination), ethertype: kind };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame[14..].copy_from_slice(payload);
    frame
}

fn ipv4(protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr =
        Ipv4Repr { src_addr: CLIENT, dst_addr: VIP, next_header: protocol, payload_len: payload.len(), hop_limit: 64 };
    let mut packet = vec![0; 20 + payload.len()];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &ChecksumCapabilities::default());
    packet[20..].copy_from_slice(payload);
    ethernet(BOX, EthernetProtocol::Ipv4, &packet)
}

fn tcp(control: TcpControl, data: &[u8]) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: 40_000,
        dst_port: 80,
        control,
        seq_number: TcpSeqNumber(7),
        ack_number: (control != TcpControl::Syn).then_some(TcpSeqNumber(9)),
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: data,
    };
    let mut segment = vec![0; repr.buffer_len()];
    let caps = ChecksumCapabilities::default();
    repr.emit(&mut TcpPacket::new_unchecked(&mut segment), &IpAddress::Ipv4(CLIENT), &IpAddress::Ipv4(VIP), &caps);
    ipv4(IpProtocol::Tcp, &segment)
}

fn udp(data: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: 40_000, dst_port: 53 };
    let mut datagram = vec![0; 8 + data.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut datagram),
        &IpAddress::Ipv4(CLIENT),
        &IpAddress::Ipv4(VIP),
        data.len(),
        |payload| payload.copy_from_slice(data),
        &ChecksumCapabilities::default(),
    );
    ipv4(IpProtocol::Udp, &datagram)
}

fn echo(data: &[u8]) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &ChecksumCapabilities::default());
    ipv4(IpProtocol::Icmp, &message)
}

fn arp(destination: [u8; 6], operation: WireOperation, target: Ipv4Address) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(ROUTER),
        source_protocol_addr: Ipv4Address::new(10, 0, 1, 1),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut message));
    ethernet(destination, EthernetProtocol::Arp, &message)
}

/// Puts an 802.1Q tag in.
fn tagged(mut frame: Vec<u8>, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// Recomputes the IPv4 header checksum after a change.
fn resealed(mut frame: Vec<u8>) -> Vec<u8> {
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

fn parse(frame: &[u8]) -> Result<Content, DropReason> {
    frame::parse(frame, &BOX, Checksums::NOT)
}

fn signal(frame: &[u8]) -> Signal {
    match parse(frame) {
        Ok(Content::Flow(flow, signal)) => {
            assert_eq!((flow.source, flow.destination), (CLIENT.to_bits(), VIP.to_bits()));
            assert_eq!(flow.source_port, 40_000);
            signal
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_say_where_their_connection_stands() {
    assert_eq!(signal(&tcp(TcpControl::Syn, b"")), Signal::Open);
    assert_eq!(signal(&tcp(TcpControl::None, b"data")), Signal::Data);
    assert_eq!(signal(&tcp(TcpControl::Psh, b"odd")), Signal::Data);
    assert_eq!(signal(&tcp(TcpControl::Fin, b"")), Signal::Finish);
    assert_eq!(signal(&tcp(TcpControl::Rst, b"")), Signal::Reset);
    assert_eq!(signal(&udp(b"x")), Signal::Datagram);
}

#[test]
fn padding_after_the_datagram_is_no_part_of_it() {
    let mut frame = udp(b"odd");
    frame.resize(60, 0xee);
    assert_eq!(signal(&frame), Signal::Datagram);
}

/// Each with the reason that its counter shows.
#[test]
fn what_is_not_to_be_forwarded_has_its_reason() {
    let edit = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let mut options = tcp(TcpControl::None, b"");
    options[14] = 0x46;
    let mut quoted_fragment = tcp(TcpControl::None, b"");
    quoted_fragment[20] = 0x20;
    let mut no_checksum = udp(b"x");
    no_checksum[40..42].fill(0);
    let cases: &[(&str, Vec<u8>, DropReason)] = &[
        ("empty", vec![], DropReason::Runt),
        ("half a header", vec![0; 13], DropReason::Runt),
        ("half an IPv4 header", tcp(TcpControl::None, b"")[..30].to_vec(), DropReason::Runt),
        ("half a segment", tcp(TcpControl::None, b"data")[..50].to_vec(), DropReason::Truncated),
        ("half an ARP message", arp(BOX, WireOperation::Request, VIP)[..40].to_vec(), DropReason::Runt),
        ("another station's", ethernet(BACKEND, EthernetProtocol::Ipv4, &[0; 46]), DropReason::NotForUs),
        (
            "IPv4 in a broadcast",
            {
                let mut f = tcp(TcpControl::Syn, b"");
                f[..6].fill(0xff);
                f
            },
            DropReason::NotForUs,
        ),
        ("multicast", edit(tcp(TcpControl::Syn, b""), 0, 0x01), DropReason::NotForUs),
        ("from a multicast station", edit(tcp(TcpControl::Syn, b""), 6, 0x01), DropReason::BadSource),
        ("IPv6", ethernet(BOX, EthernetProtocol::Ipv6, &[0x60; 46]), DropReason::UnknownProtocol),
        ("LLDP", ethernet(BOX, EthernetProtocol::from(0x88cc), &[0; 46]), DropReason::UnknownProtocol),
        ("GRE", ipv4(IpProtocol::from(47), &[0; 20]), DropReason::UnknownProtocol),
        ("a tag", tagged(tcp(TcpControl::Syn, b""), 5), DropReason::OtherVlan),
        ("IPv4 that says it is 6", edit(tcp(TcpControl::None, b""), 14, 0x65), DropReason::BadHeader),
        ("header length 4", edit(tcp(TcpControl::None, b""), 14, 0x44), DropReason::BadHeader),
        ("options", options, DropReason::IpOptions),
        ("IPv4 checksum", edit(tcp(TcpControl::None, b""), 22, 63), DropReason::BadChecksum),
        ("TCP checksum", edit(tcp(TcpControl::None, b"data"), 57, b'A'), DropReason::BadChecksum),
        ("UDP checksum", edit(udp(b"data"), 45, b'A'), DropReason::BadChecksum),
        ("ICMP checksum", edit(echo(b"data"), 45, b'A'), DropReason::BadChecksum),
        ("first fragment", resealed(quoted_fragment), DropReason::Fragment),
        ("later fragment", resealed(edit(tcp(TcpControl::None, b""), 21, 1)), DropReason::Fragment),
        ("from loopback", resealed(edit(tcp(TcpControl::None, b""), 26, 127)), DropReason::BadSource),
        ("from multicast", resealed(edit(tcp(TcpControl::None, b""), 26, 224)), DropReason::BadSource),
        ("TCP header length", edit(tcp(TcpControl::None, b""), 46, 0x40), DropReason::BadHeader),
        ("UDP too short a length", edit(udp(b"x"), 39, 7), DropReason::BadHeader),
        ("UDP too long a length", edit(udp(b"x"), 39, 90), DropReason::Truncated),
        (
            "ICMP timestamp",
            {
                let mut f = echo(b"");
                f[34] = 13;
                f[36] -= 5;
                f
            },
            DropReason::UnknownProtocol,
        ),
        ("ARP for another hardware", edit(arp(BOX, WireOperation::Request, VIP), 15, 6), DropReason::BadHeader),
        ("ARP operation", edit(arp(BOX, WireOperation::Request, VIP), 21, 3), DropReason::UnknownProtocol),
        ("ARP from a group", edit(arp(BOX, WireOperation::Request, VIP), 22, 1), DropReason::BadSource),
    ];
    for (what, frame, reason) in cases {
        assert_eq!(parse(frame), Err(*reason), "{what}");
    }
    assert_eq!(signal(&no_checksum), Signal::Datagram, "RFC 768: no checksum");
}

/// The device's word is taken, both ways: a good one saves looking at the payload, a bad one counts.
#[test]
fn the_device_is_believed_about_checksums() {
    let mut frame = tcp(TcpControl::None, b"data");
    frame[57] ^= 1;
    let with = |ip, transport| frame::parse(&frame, &BOX, Checksums { ip, transport });
    assert!(with(Checked::Good, Checked::Good).is_ok());
    assert_eq!(with(Checked::Good, Checked::Bad), Err(DropReason::BadChecksum));
    assert_eq!(with(Checked::Bad, Checked::Good), Err(DropReason::BadChecksum));
}

#[test]
fn no_vlan_is_heard() {
    assert_eq!(parse(&tagged(tcp(TcpControl::Syn, b""), 6)), Err(DropReason::OtherVlan));
    assert!(parse(&tagged(tcp(TcpControl::Syn, b""), 0)).is_ok(), "number 0 is priority only");
    assert!(parse(&tagged(tcp(TcpControl::Syn, b""), 0xe000)).is_ok(), "priority bits are no part of the number");
    assert_eq!(parse(&tagged(tcp(TcpControl::Syn, b""), 0)[..16]), Err(DropReason::Runt));
}

/// Path MTU discovery: a router tells the VIP that a backend's packet was too big; that belongs to the client's flow.
#[test]
fn an_icmp_error_belongs_to_the_flow_that_it_quotes() {
    let mut quoted =
        Ipv4Repr { src_addr: VIP, dst_addr: CLIENT, next_header: IpProtocol::Tcp, payload_len: 1480, hop_limit: 60 };
    let build = |repr: &Ipv4Repr| {
        let mut inner = vec![0; 28];
        repr.emit(&mut Ipv4Packet::new_unchecked(&mut inner), &ChecksumCapabilities::default());
        inner[20..24].copy_from_slice(&[0, 80, 0x9c, 0x40]);
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
        message.extend(inner);
        Icmpv4Packet::new_unchecked(&mut message).fill_checksum();
        ipv4(IpProtocol::Icmp, &message)
    };
    match parse(&build(&quoted)) {
        Ok(Content::FlowError(flow)) => {
            assert_eq!((flow.source, flow.source_port), (CLIENT.to_bits(), 40_000));
            assert_eq!((flow.destination, flow.destination_port, flow.protocol), (VIP.to_bits(), 80, Protocol::Tcp));
        }
        other => panic!("{other:?}"),
    }
    quoted.src_addr = Ipv4Address::new(10, 0, 1, 101);
    assert_eq!(parse(&build(&quoted)), Err(DropReason::BadHeader), "an error about somebody else's packet");
}

#[test]
fn forwarding_changes_the_link_addresses_alone() {
    for frame in [tcp(TcpControl::None, b"data"), tagged(udp(b"data"), 5)] {
        let mut sent = frame.clone();
        frame::redirect(&mut sent, BACKEND, BOX);
        assert_eq!(sent[..6], BACKEND);
        assert_eq!(sent[6..12], BOX);
        assert_eq!(sent[12..], frame[12..]);
    }
}

#[test]
fn an_arp_answer_is_what_others_expect() {
    for is_tagged in [false, true] {
        let request = arp(frame::BROADCAST, WireOperation::Request, VIP);
        let mut frame = if is_tagged { tagged(request, 0) } else { request };
        let Ok(Content::Arp(request)) = parse(&frame) else { panic!("no ARP") };
        assert_eq!((request.operation, request.target), (ArpOperation::Request, VIP.to_bits()));
        frame::answer_arp(&mut frame, &request, BOX);
        let header = EthernetFrame::new_checked(&frame).unwrap();
        assert_eq!((header.src_addr(), header.dst_addr()), (EthernetAddress(BOX), EthernetAddress(ROUTER)));
        let message = &frame[if is_tagged { 18 } else { 14 }..];
        assert_eq!(
            ArpRepr::parse(&ArpPacket::new_checked(message).unwrap()).unwrap(),
            ArpRepr::EthernetIpv4 {
                operation: WireOperation::Reply,
                source_hardware_addr: EthernetAddress(BOX),
                source_protocol_addr: VIP,
                target_hardware_addr: EthernetAddress(ROUTER),
                target_protocol_addr: Ipv4Address::new(10, 0, 1, 1),
            }
        );
    }
}

#[test]
fn an_arp_request_is_what_others_expect() {
    let (own, target) = (Ipv4Address::new(10, 0, 1, 2), Ipv4Address::new(10, 0, 1, 11));
    let mut bytes = [0xaa; SHORTEST];
    let request = ArpRequest { to: frame::BROADCAST, sender: own.to_bits(), target: target.to_bits() };
    frame::write_arp_request(&mut bytes, &request, &BOX);
    let header = EthernetFrame::new_checked(&bytes[..]).unwrap();
    assert_eq!((header.src_addr(), header.dst_addr()), (EthernetAddress(BOX), EthernetAddress::BROADCAST));
    let message = &bytes[14..];
    assert_eq!(
        ArpRepr::parse(&ArpPacket::new_checked(message).unwrap()).unwrap(),
        ArpRepr::EthernetIpv4 {
            operation: WireOperation::Request,
            source_hardware_addr: EthernetAddress(BOX),
            source_protocol_addr: own,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Replies to echo requests of any content have right checksums and the same content.
    #[test]
    fn an_echo_answer_is_what_others_expect(data in proptest::collection::vec(any::<u8>(), 0..1400)) {
        let mut frame = echo(&data);
        let Ok(Content::Echo(request)) = parse(&frame) else { panic!("no echo") };
        frame::answer_echo(&mut frame, &request, BOX);
        let header = EthernetFrame::new_checked(&frame).unwrap();
        prop_assert_eq!((header.src_addr(), header.dst_addr()), (EthernetAddress(BOX), EthernetAddress(ROUTER)));
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        prop_assert!(packet.verify_checksum());
        prop_assert_eq!((packet.src_addr(), packet.dst_addr()), (VIP, CLIENT));
        let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        let reply = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default()).unwrap();
        prop_assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: &data });
    }

    /// Good frames of all kinds, cut anywhere and with any bytes changed, and entirely random ones: no panic, and what is answered keeps
    /// its length.
    #[test]
    fn no_frame_makes_it_panic(
        kind in 0usize..7,
        cut in 0usize..200,
        changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..120),
        tag in prop_oneof![Just(0u16), 1u16..4095],
    ) {
        let mut frame = match kind {
            0 => tcp(TcpControl::Syn, b"data"),
            1 => udp(b"data"),
            2 => echo(b"some data"),
            3 => arp(BOX, WireOperation::Request, VIP),
            4 => tagged(tcp(TcpControl::None, b"data"), tag),
            5 => { let mut f = ethernet(BOX, EthernetProtocol::Ipv4, &noise); if f.len() > 14 { f[14] = 0x45; } f }
            _ => noise,
        };
        frame.truncate(cut);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        for checksums in [Checksums::NOT, Checksums { ip: Checked::Good, transport: Checked::Good }] {
            let mut frame = frame.clone();
            match frame::parse(&frame, &BOX, checksums) {
                Ok(Content::Arp(arp)) => frame::answer_arp(&mut frame, &arp, BOX),
                Ok(Content::Echo(echo)) => frame::answer_echo(&mut frame, &echo, BOX),
                Ok(Content::Flow(..) | Content::FlowError(_)) => frame::redirect(&mut frame, BACKEND, BOX),
                Err(_) => {}
            }
        }
    }
}
