//! Frames: what a received one holds, and the changes in place that forward or answer it. Nothing here copies, allocates or panics,
//! whatever the bytes are.
//!
//! Ethernet II, at most with an 802.1Q tag of priority only (a VLAN's is the card's business), ARP (RFC 826), IPv4 (RFC 791) without options and fragments, TCP, UDP, ICMP (RFC 792).

use crate::{connections::Signal, drops::DropReason};

/// A station's link-layer address.
pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// The transport of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What the device has found out about a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Good,
    Bad,
    /// Not looked at: done here.
    Not,
}

/// The device's findings about a packet.
#[derive(Clone, Copy, Debug)]
pub struct Checksums {
    pub ip: Checked,
    pub transport: Checked,
}

impl Checksums {
    pub const NOT: Checksums = Checksums { ip: Checked::Not, transport: Checked::Not };
}

/// The packets of one client to one port: addresses and ports as the client sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: ArpOperation,
    pub sender_mac: Mac,
    pub sender: u32,
    pub target: u32,
    /// Where the ARP message starts.
    at: usize,
}

/// What a station says of itself by ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub address: u32,
    pub mac: Mac,
    /// Whether it says so because the box has asked.
    pub answer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    Request,
    Reply,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Arp(Arp),
    /// A segment or datagram of a client.
    Flow(Flow, Signal),
    /// An ICMP error about a packet that a backend sent in `Flow` (turned round: from the client).
    FlowError(Flow),
    Echo(Echo),
}

/// An ICMP echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    pub source: u32,
    pub destination: u32,
    /// Where the IPv4 header starts.
    at: usize,
}

const ETHERNET: usize = 14;
const TAG: usize = 4;
const ARP: usize = 28;
const IPV4: usize = 20;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_VLAN: u16 = 0x8100;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_UNREACHABLE: u8 = 3;
const ICMP_ECHO: u8 = 8;
const ICMP_TIME_EXCEEDED: u8 = 11;
const ICMP_PARAMETER_PROBLEM: u8 = 12;

/// The `N` bytes at `at`.
#[inline]
fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<&[u8; N]> {
    frame.get(at..)?.first_chunk()
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn mac(bytes: &[u8], at: usize) -> Mac {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4], bytes[at + 5]]
}

/// The Internet checksum's sum, folded to 16 bits (RFC 1071); 0xffff over data with its right checksum inside.
fn ones_sum(start: u32, data: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum that TCP and UDP checksums begin with (RFC 9293 §3.1).
fn pseudo_header(source: u32, destination: u32, protocol: u8, len: usize) -> u32 {
    let halves = |address: u32| (address >> 16) + (address & 0xffff);
    halves(source) + halves(destination) + u32::from(protocol) + len as u32
}

/// Looks into a frame that the station `own` has received.
#[inline]
pub fn parse(frame: &[u8], own: &Mac, checksums: Checksums) -> Result<Content, DropReason> {
    let header: &[u8; ETHERNET] = bytes(frame, 0).ok_or(DropReason::Runt)?;
    let destination = mac(header, 0);
    let mut ethertype = be16(header, 12);
    let mut at = ETHERNET;
    let to_us = destination == *own;
    if !to_us && destination != BROADCAST {
        return Err(DropReason::NotForUs);
    }
    if ethertype == TYPE_VLAN {
        let tag: &[u8; TAG] = bytes(frame, at).ok_or(DropReason::Runt)?;
        // 802.1Q §9.6: number 0 says priority, not a VLAN.
        if be16(tag, 0) & 0xfff != 0 {
            return Err(DropReason::OtherVlan);
        }
        ethertype = be16(tag, 2);
        at += TAG;
    }
    match ethertype {
        TYPE_ARP => parse_arp(frame, at).map(Content::Arp),
        // RFC 1122 §3.3.6: what comes as a link-layer broadcast has no business with a unicast address.
        TYPE_IPV4 if !to_us => Err(DropReason::NotForUs),
        TYPE_IPV4 if header[6] & 1 != 0 => Err(DropReason::BadSource),
        TYPE_IPV4 => parse_ipv4(frame, at, checksums),
        _ => Err(DropReason::UnknownProtocol),
    }
}

fn parse_arp(frame: &[u8], at: usize) -> Result<Arp, DropReason> {
    let message: &[u8; ARP] = bytes(frame, at).ok_or(DropReason::Runt)?;
    // Ethernet, IPv4, address lengths 6 and 4.
    if message[..6] != [0, 1, 8, 0, 6, 4] {
        return Err(DropReason::BadHeader);
    }
    let operation = match be16(message, 6) {
        1 => ArpOperation::Request,
        2 => ArpOperation::Reply,
        _ => return Err(DropReason::UnknownProtocol),
    };
    let sender_mac = mac(message, 8);
    if sender_mac[0] & 1 != 0 || sender_mac == [0; 6] {
        return Err(DropReason::BadSource);
    }
    Ok(Arp { operation, sender_mac, sender: be32(message, 14), target: be32(message, 24), at })
}

/// Whether no single other host can have this address (RFC 6890: this network, loopback, multicast, reserved, broadcast).
fn is_no_source(address: u32) -> bool {
    matches!(address >> 24, 0 | 127 | 224..)
}

#[inline]
fn parse_ipv4(frame: &[u8], at: usize, checksums: Checksums) -> Result<Content, DropReason> {
    let header: &[u8; IPV4] = bytes(frame, at).ok_or(DropReason::Runt)?;
    let total = usize::from(be16(header, 2));
    match header[0] {
        0x45 => {}
        0x46..=0x4f => return Err(DropReason::IpOptions),
        _ => return Err(DropReason::BadHeader),
    }
    if total < IPV4 {
        return Err(DropReason::BadHeader);
    }
    // What follows the datagram is padding.
    let payload = frame.get(at + IPV4..at + total).ok_or(DropReason::Truncated)?;
    let good = match checksums.ip {
        Checked::Good => true,
        Checked::Bad => false,
        Checked::Not => ones_sum(0, header) == 0xffff,
    };
    if !good {
        return Err(DropReason::BadChecksum);
    }
    // More fragments, or an offset.
    if be16(header, 6) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    let (source, destination) = (be32(header, 12), be32(header, 16));
    if is_no_source(source) || source == destination {
        return Err(DropReason::BadSource);
    }
    match header[9] {
        1 => parse_icmp(payload, source, destination, at),
        6 => parse_tcp(payload, source, destination, checksums.transport),
        17 => parse_udp(payload, source, destination, checksums.transport),
        _ => Err(DropReason::UnknownProtocol),
    }
}

#[inline]
fn parse_tcp(segment: &[u8], source: u32, destination: u32, checked: Checked) -> Result<Content, DropReason> {
    let header: &[u8; 20] = bytes(segment, 0).ok_or(DropReason::Truncated)?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > segment.len() {
        return Err(DropReason::BadHeader);
    }
    let good = match checked {
        Checked::Good => true,
        Checked::Bad => false,
        Checked::Not => ones_sum(pseudo_header(source, destination, 6, segment.len()), segment) == 0xffff,
    };
    if !good {
        return Err(DropReason::BadChecksum);
    }
    let flags = header[13];
    let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    let signal = if rst {
        Signal::Reset
    } else if syn && !ack {
        Signal::Open
    } else if fin {
        Signal::Finish
    } else {
        Signal::Data
    };
    let (source_port, destination_port) = (be16(header, 0), be16(header, 2));
    Ok(Content::Flow(Flow { source, destination, source_port, destination_port, protocol: Protocol::Tcp }, signal))
}

#[inline]
fn parse_udp(datagram: &[u8], source: u32, destination: u32, checked: Checked) -> Result<Content, DropReason> {
    let header: &[u8; 8] = bytes(datagram, 0).ok_or(DropReason::Truncated)?;
    let len = usize::from(be16(header, 4));
    if len < header.len() {
        return Err(DropReason::BadHeader);
    }
    let datagram = datagram.get(..len).ok_or(DropReason::Truncated)?;
    let good = match checked {
        Checked::Good => true,
        Checked::Bad => false,
        // RFC 768: 0 is no checksum.
        Checked::Not => {
            be16(header, 6) == 0 || ones_sum(pseudo_header(source, destination, 17, len), datagram) == 0xffff
        }
    };
    if !good {
        return Err(DropReason::BadChecksum);
    }
    let (source_port, destination_port) = (be16(header, 0), be16(header, 2));
    Ok(Content::Flow(
        Flow { source, destination, source_port, destination_port, protocol: Protocol::Udp },
        Signal::Datagram,
    ))
}

fn parse_icmp(message: &[u8], source: u32, destination: u32, at: usize) -> Result<Content, DropReason> {
    let header: &[u8; 8] = bytes(message, 0).ok_or(DropReason::Truncated)?;
    // No device checks ICMP's checksum.
    if ones_sum(0, message) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    match header[0] {
        ICMP_ECHO if header[1] == 0 => Ok(Content::Echo(Echo { source, destination, at })),
        ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER_PROBLEM => parse_quoted(&message[8..], destination),
        _ => Err(DropReason::UnknownProtocol),
    }
}

/// The flow of the packet that an ICMP error quotes: its IPv4 header and at least 8 bytes more (RFC 792). A backend sent it, from the VIP
/// to the client; path MTU discovery needs the error to reach that very backend.
fn parse_quoted(quoted: &[u8], vip: u32) -> Result<Content, DropReason> {
    let header: &[u8; IPV4] = bytes(quoted, 0).ok_or(DropReason::Truncated)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4 || be32(header, 12) != vip {
        return Err(DropReason::BadHeader);
    }
    // Only a first fragment quotes ports.
    if be16(header, 6) & 0x1fff != 0 {
        return Err(DropReason::Fragment);
    }
    let protocol = match header[9] {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return Err(DropReason::UnknownProtocol),
    };
    let ports: &[u8; 8] = bytes(quoted, header_len).ok_or(DropReason::Truncated)?;
    Ok(Content::FlowError(Flow {
        source: be32(header, 16),
        destination: vip,
        source_port: be16(ports, 2),
        destination_port: be16(ports, 0),
        protocol,
    }))
}

/// Sends the frame on to another station: direct server return leaves all but the link addresses as they are.
#[inline]
pub fn redirect(frame: &mut [u8], to: Mac, from: Mac) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses[..6].copy_from_slice(&to);
        addresses[6..].copy_from_slice(&from);
    }
}

/// Turns an ARP request for an address of ours into its reply.
pub fn answer_arp(frame: &mut [u8], request: &Arp, own: Mac) {
    redirect(frame, request.sender_mac, own);
    if let Some(message) = frame.get_mut(request.at..).and_then(|rest| rest.first_chunk_mut::<ARP>()) {
        let sender: [u8; 10] = core::array::from_fn(|i| message[8 + i]);
        let target: [u8; 4] = core::array::from_fn(|i| message[24 + i]);
        message[6..8].copy_from_slice(&[0, 2]);
        message[8..14].copy_from_slice(&own);
        message[14..18].copy_from_slice(&target);
        message[18..28].copy_from_slice(&sender);
    }
}

/// Turns an echo request into its reply (RFC 1122 §3.2.2.6).
pub fn answer_echo(frame: &mut [u8], request: &Echo, own: Mac) {
    if let Some(requester) = bytes::<ETHERNET>(frame, 0).map(|header| mac(header, 6)) {
        redirect(frame, requester, own);
    }
    let Some(packet) = frame.get_mut(request.at..).and_then(|rest| rest.first_chunk_mut::<{ IPV4 + 8 }>()) else {
        return;
    };
    let (header, message) = packet.split_at_mut(IPV4);
    header[8] = 64;
    header[12..16].copy_from_slice(&request.destination.to_be_bytes());
    header[16..20].copy_from_slice(&request.source.to_be_bytes());
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = !ones_sum(0, header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    // RFC 1624: of the message only this one word changes, from 0x0800 to 0.
    message[0] = ICMP_ECHO_REPLY;
    let checksum = !ones_sum(u32::from(!be16(message, 2)), &[!ICMP_ECHO, !0]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// An ARP request of the box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpRequest {
    /// The station asked, or all.
    pub to: Mac,
    pub sender: u32,
    pub target: u32,
}

/// The smallest frame that a wire carries, without its check sequence.
pub const SHORTEST: usize = 60;

/// Writes a request of the station `own`; the frame is then `SHORTEST` long.
pub fn write_arp_request(frame: &mut [u8; SHORTEST], request: &ArpRequest, own: &Mac) {
    *frame = [0; SHORTEST];
    redirect(frame, request.to, *own);
    let mut at = 12;
    let mut put = |bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&TYPE_ARP.to_be_bytes());
    put(&[0, 1, 8, 0, 6, 4, 0, 1]);
    put(own);
    put(&request.sender.to_be_bytes());
    put(&[0; 6]);
    put(&request.target.to_be_bytes());
}
