//! What rubbish is made of: each sort spoils another layer of a frame that is otherwise right, so that it gets as deep into the box as that layer.

use crate::frame::TAGS;
use crate::network::{TOO_LONG_BY, router_on_segment};
use crate::options::{Protocol, Rubbish, RunOptions};
use fastrand::Rng;
use std::net::Ipv4Addr;

/// A tag, the type behind it: a host's kernel throws away tagged frames that end before, and no card would see them.
const TAGGED_LEAST: usize = 20;

/// Which layer is spoilt, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Random bytes behind the addresses.
    Noise,
    /// Every ethertype, 802.3 lengths, MAC control with pause frames.
    Ethertype,
    /// Addresses of others, groups and nobody.
    Addresses,
    Tag,
    Arp,
    /// Version, header length, total length, checksum, options.
    Ipv4,
    Fragment,
    /// TCP and UDP: cut short, wrong offsets, lengths, checksums, flags.
    Transport,
    /// Echo requests, errors that quote rubbish.
    Icmp,
    Jumbo,
    /// Shorter than a wire carries, which a card pads or drops.
    Runt,
    /// A right frame with some bytes changed, cut or added.
    Mutated,
    /// Nothing wrong with it: a flow that nobody continues.
    Right,
    /// A connection asked for by nobody who would answer: many of them are a flood.
    Syn,
}

impl Sort {
    pub const ALL: [Sort; 14] = [
        Sort::Noise,
        Sort::Ethertype,
        Sort::Addresses,
        Sort::Tag,
        Sort::Arp,
        Sort::Ipv4,
        Sort::Fragment,
        Sort::Transport,
        Sort::Icmp,
        Sort::Jumbo,
        Sort::Runt,
        Sort::Mutated,
        Sort::Right,
        Sort::Syn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Sort::Noise => "noise",
            Sort::Ethertype => "ethertype",
            Sort::Addresses => "addresses",
            Sort::Tag => "tag",
            Sort::Arp => "arp",
            Sort::Ipv4 => "ipv4",
            Sort::Fragment => "fragment",
            Sort::Transport => "transport",
            Sort::Icmp => "icmp",
            Sort::Jumbo => "jumbo",
            Sort::Runt => "runt",
            Sort::Mutated => "mutated",
            Sort::Right => "right",
            Sort::Syn => "syn",
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// An endless row of frames.
pub struct Generator {
    rng: Rng,
    to: [u8; 6],
    own: Ipv4Addr,
    /// VIPs and the box's own services: never none.
    targets: Vec<(Ipv4Addr, u16, Protocol)>,
    /// Whom the box has to find: backends, or else its router.
    neighbours: Vec<Ipv4Addr>,
    only: Option<Sort>,
    /// The longest frame without FCS that the box's card takes, and that most rubbish goes up to.
    longest: usize,
}

impl Generator {
    pub fn new(options: &RunOptions, asked: &Rubbish) -> Self {
        let vips = options.vips.iter().map(|vip| (vip.address, vip.port, vip.protocol));
        let services = options.services.iter().flat_map(|service| {
            let own = options.box_settings.ip;
            let datagrams = service.udp_port.map(|port| (own, port, Protocol::Udp));
            [(own, service.port, Protocol::Tcp)].into_iter().chain(datagrams)
        });
        let backends: Vec<Ipv4Addr> = options.backends.iter().map(|backend| backend.ip).collect();
        Self {
            only: asked.only.as_ref().and_then(|name| Sort::ALL.into_iter().find(|sort| sort.name() == name)),
            longest: usize::from(options.box_settings.mtu) + 14,
            rng: Rng::with_seed(asked.seed),
            to: options.box_settings.mac,
            own: options.box_settings.ip,
            targets: vips.chain(services).collect(),
            neighbours: if backends.is_empty() { vec![router_on_segment(options)] } else { backends },
        }
    }

    pub fn next(&mut self) -> (Sort, Vec<u8>) {
        let sort = self.only.unwrap_or_else(|| self.one_of(&Sort::ALL));
        let mut frame = self.make(sort);
        let tagged = frame.get(12..14).is_some_and(|kind| TAGS.contains(&u16::from_be_bytes([kind[0], kind[1]])));
        let least = if tagged { TAGGED_LEAST } else { 14 };
        if frame.len() < least {
            frame.resize(least, 0);
        }
        (sort, frame)
    }

    fn make(&mut self, sort: Sort) -> Vec<u8> {
        match sort {
            Sort::Noise => {
                let bytes = self.noise(2, self.longest - 12);
                [&self.addresses()[..], &bytes].concat()
            }
            Sort::Ethertype => self.ethertype(),
            Sort::Addresses => self.strange_addresses(),
            Sort::Tag => self.tag(),
            Sort::Arp => self.arp(),
            Sort::Ipv4 => self.ipv4_spoilt(),
            Sort::Fragment => {
                let mut frame = self.right();
                // RFC 791 §3.1: the reserved bit, "don't fragment", "more fragments", and the offset.
                let field = self.rng.u16(..) | self.one_of(&[0, 0x2000]);
                frame[20..22].copy_from_slice(&field.to_be_bytes());
                with_header_checksum(frame)
            }
            Sort::Transport => self.transport(),
            Sort::Icmp => self.icmp(),
            Sort::Jumbo => {
                let (source, destination) = (self.client(), self.target().0);
                let too_long = self.longest - 14 + TOO_LONG_BY as usize;
                let room = self.rng.usize(self.longest - 34 + 1..too_long - 34);
                let datagram = self.datagram(source, destination, room);
                self.packet(source, destination, UDP, &datagram)
            }
            Sort::Runt => {
                let mut frame = self.right();
                frame.truncate(self.rng.usize(14..60));
                frame
            }
            Sort::Mutated => {
                let frame = self.right();
                self.mutate(frame)
            }
            Sort::Right => self.right(),
            Sort::Syn => self.syn(),
        }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }

    fn noise(&mut self, least: usize, most: usize) -> Vec<u8> {
        let length = self.rng.usize(least..=most);
        (0..length).map(|_| self.rng.u8(..)).collect()
    }

    /// To the box, from a station that isn't there.
    fn addresses(&mut self) -> [u8; 12] {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&self.to);
        addresses[6..].copy_from_slice(&[0x02, 0x52, 0x55, 0x42, self.rng.u8(..), self.rng.u8(..)]);
        addresses
    }

    fn target(&mut self) -> (Ipv4Addr, u16, Protocol) {
        let number = self.rng.usize(..self.targets.len());
        self.targets[number]
    }

    /// A host of RFC 5737's second network: nobody is there to answer.
    fn client(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.rng.u8(1..255))
    }

    /// A client's segment or datagram to a VIP, all of it right.
    fn right(&mut self) -> Vec<u8> {
        let (vip, port, protocol) = self.target();
        let source = self.client();
        let from = self.rng.u16(1024..);
        let mut message = match protocol {
            Protocol::Tcp => self.segment(from, port),
            Protocol::Udp => {
                let length = self.rng.usize(8..600);
                self.datagram(source, vip, length)
            }
        };
        message[..2].copy_from_slice(&from.to_be_bytes());
        message[2..4].copy_from_slice(&port.to_be_bytes());
        let number = if protocol == Protocol::Tcp { TCP } else { UDP };
        let message = with_transport_checksum(message, source, vip, number);
        self.packet(source, vip, number, &message)
    }

    fn syn(&mut self) -> Vec<u8> {
        let (source, from) = (self.client(), self.rng.u16(1024..));
        let tcp = self.targets.iter().copied().filter(|(.., protocol)| *protocol == Protocol::Tcp).collect::<Vec<_>>();
        let (target, port, _) = if tcp.is_empty() { self.target() } else { self.one_of(&tcp) };
        let mut segment = [from.to_be_bytes(), port.to_be_bytes()].concat();
        segment.extend(self.rng.u32(..).to_be_bytes());
        segment.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        let segment = with_transport_checksum(segment, source, target, TCP);
        self.packet(source, target, TCP, &segment)
    }

    fn segment(&mut self, from: u16, to: u16) -> Vec<u8> {
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend(self.rng.u64(..).to_be_bytes());
        let flags = self.one_of(&[0x02, 0x02, 0x10, 0x18, 0x11, 0x04]);
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(self.noise(0, 400));
        segment
    }

    /// `length` bytes with their header, between ports of no service's.
    fn datagram(&mut self, source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> Vec<u8> {
        let mut datagram = self.noise(length.max(8), length.max(8));
        let length = datagram.len() as u16;
        datagram[4..6].copy_from_slice(&length.to_be_bytes());
        with_transport_checksum(datagram, source, destination, UDP)
    }

    fn packet(&mut self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.addresses().to_vec();
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend(self.rng.u16(..).to_be_bytes());
        frame.extend([0x40, 0, 64, protocol, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(payload);
        with_header_checksum(frame)
    }

    fn ethertype(&mut self) -> Vec<u8> {
        // Lengths (802.3), ARP, RARP, IPv6, MPLS, PPPoE, LLDP, MAC control, and any other.
        let any = self.rng.u16(..);
        let kind = self.one_of(&[any, any, 0x0026, 0x05ff, 0x0806, 0x8035, 0x86dd, 0x8847, 0x8864, 0x88cc, 0x8808]);
        let mut frame = self.addresses().to_vec();
        frame.extend(kind.to_be_bytes());
        frame.extend(self.noise(0, 200));
        if kind == 0x8808 {
            // 802.3 annex 31B: a pause frame, as a rule; what it asks for must not last.
            frame.truncate(14);
            frame[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 1]);
            frame.extend(self.one_of(&[1u16, 1, 0x0101, any]).to_be_bytes());
            frame.extend(self.rng.u16(..1000).to_be_bytes());
            frame.resize(60, 0);
        }
        frame
    }

    fn strange_addresses(&mut self) -> Vec<u8> {
        let mut frame = self.right();
        let mut any = [0; 6];
        any.fill_with(|| self.rng.u8(..));
        let group = [0x01, 0x00, 0x5e, any[3] & 0x7f, any[4], any[5]];
        let address = self.one_of(&[any, group, [0xff; 6], [0; 6], self.to]);
        let at = self.one_of(&[0, 6]);
        frame[at..at + 6].copy_from_slice(&address);
        frame
    }

    fn tag(&mut self) -> Vec<u8> {
        let mut frame = self.right();
        // One tag or two; number 0 is no VLAN, but a priority.
        for _ in 0..self.rng.usize(1..=2) {
            let number = self.one_of(&[0, 0, 1, 4095, 0x0fff]) | self.rng.u16(..8) << 13;
            let tag = [self.one_of(&TAGS).to_be_bytes(), number.to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        if self.rng.u8(..) < 64 {
            frame.truncate(self.rng.usize(TAGGED_LEAST..60));
        }
        frame
    }

    fn arp(&mut self) -> Vec<u8> {
        let mut frame = self.addresses().to_vec();
        let station: [u8; 6] = frame[6..].try_into().unwrap_or_default();
        if self.rng.bool() {
            frame[..6].fill(0xff);
        }
        let stranger = self.client();
        let own = self.one_of(&[self.own, self.targets[0].0]);
        let sender =
            self.one_of(&[stranger, own, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)]);
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, self.one_of(&[1, 1, 2])]);
        frame.extend(station);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        let target = self.one_of(&[own, stranger]);
        frame.extend(target.octets());
        frame.resize(60, 0);
        match self.rng.u8(..5) {
            // As a neighbour, from an address that no station can have.
            0 => {
                let neighbour = self.rng.usize(..self.neighbours.len());
                frame[28..32].copy_from_slice(&self.neighbours[neighbour].octets());
                let impossible = self.one_of(&[[0; 6], [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]]);
                frame[22..28].copy_from_slice(&impossible);
            }
            // Another hardware, protocol, length or operation.
            1 => {
                let at = self.rng.usize(14..22);
                frame[at] ^= self.rng.u8(1..);
            }
            2 => frame.truncate(self.rng.usize(14..42)),
            _ => {}
        }
        frame
    }

    fn ipv4_spoilt(&mut self) -> Vec<u8> {
        let mut frame = self.right();
        match self.rng.u8(..6) {
            0 => frame[14] = self.rng.u8(..),
            // Total length: anything, or a little off.
            1 => {
                let right = u16::from_be_bytes([frame[16], frame[17]]);
                let off = right.wrapping_add(self.rng.u16(..8)).wrapping_sub(4);
                let length = self.one_of(&[0, 19, 20, 0xffff, off, off]);
                frame[16..18].copy_from_slice(&length.to_be_bytes());
            }
            // The checksum itself.
            2 => {
                frame[24] ^= self.rng.u8(1..);
                return frame;
            }
            // Options: some words of them, of any kind.
            3 => {
                let words = self.rng.usize(1..=10);
                let options = self.noise(words * 4, words * 4);
                frame.splice(34..34, options);
                frame[14] = 0x45 + words as u8;
                let length = (frame.len() - 14) as u16;
                frame[16..18].copy_from_slice(&length.to_be_bytes());
            }
            // A source that is nobody's, or the box itself.
            4 => {
                let own = self.own;
                let source = self.one_of(&[
                    own,
                    self.targets[0].0,
                    Ipv4Addr::UNSPECIFIED,
                    Ipv4Addr::LOCALHOST,
                    Ipv4Addr::BROADCAST,
                    Ipv4Addr::new(224, 0, 0, 5),
                ]);
                frame[26..30].copy_from_slice(&source.octets());
            }
            // Another protocol, an expired time to live.
            _ => {
                frame[22] = self.one_of(&[0, 1, 64]);
                frame[23] = self.rng.u8(..);
            }
        }
        with_header_checksum(frame)
    }

    fn transport(&mut self) -> Vec<u8> {
        let mut frame = self.right();
        match self.rng.u8(..4) {
            // Cut short, and the header says so: the datagram is whole, the segment isn't.
            0 => {
                frame.truncate(34 + self.rng.usize(..20));
                let length = (frame.len() - 14) as u16;
                frame[16..18].copy_from_slice(&length.to_be_bytes());
                return with_header_checksum(frame);
            }
            // UDP's length, or half of TCP's sequence number.
            1 => {
                let length = self.rng.u16(..);
                frame[38..40].copy_from_slice(&length.to_be_bytes());
            }
            // TCP's data offset and flags.
            2 if frame.len() > 48 => {
                frame[46] = self.rng.u8(..);
                frame[47] = self.rng.u8(..);
            }
            // One bit, and with it the checksum.
            _ => {
                let at = self.rng.usize(34..frame.len());
                frame[at] ^= 1 << self.rng.u8(..8);
                return frame;
            }
        }
        let (source, destination) = (address(&frame, 26), address(&frame, 30));
        let protocol = frame[23];
        let message = with_transport_checksum(frame.split_off(34), source, destination, protocol);
        frame.extend(message);
        frame
    }

    fn icmp(&mut self) -> Vec<u8> {
        let (source, vip) = (self.client(), self.target().0);
        let mut message = vec![self.one_of(&[8, 8, 0, 3, 11, 12, 5, 13]), self.one_of(&[0, 0, 4, 77]), 0, 0];
        message.extend(self.rng.u32(..).to_be_bytes());
        if matches!(message[0], 3 | 11 | 12) && self.rng.bool() {
            // RFC 792: it quotes a packet, here one that a backend could have sent to that client.
            let protocol = self.one_of(&[TCP, UDP, ICMP]);
            let quoted = self.packet(vip, source, protocol, &[0, 80, 0x30, 0x39, 0, 8, 0, 0]);
            let length = self.rng.usize(14..=quoted.len());
            message.extend(&quoted[14..length]);
        } else {
            message.extend(self.noise(0, 300));
        }
        let checksum = !sum(0, &message) ^ self.one_of(&[0, 0, 0, 1]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message.truncate(message.len() - self.one_of(&[0, 0, 0, 3]).min(message.len()));
        self.packet(source, vip, ICMP, &message)
    }

    fn mutate(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.rng.usize(1..=4) {
            // Behind the addresses: those have a sort of their own.
            let at = self.rng.usize(12..frame.len());
            match self.rng.u8(..4) {
                0 => frame[at] = self.rng.u8(..),
                1 => frame[at] ^= 1 << self.rng.u8(..8),
                2 => frame.truncate(at.max(14)),
                _ => {
                    let more = self.noise(1, 40);
                    frame.splice(at..at, more);
                }
            }
            if frame.len() < 14 {
                break;
            }
        }
        frame.truncate(self.longest);
        frame
    }
}

fn address(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

/// RFC 1071.
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Puts the checksum of the IPv4 header in, over as many bytes as the header says to have, as far as they are there.
fn with_header_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let end = (14 + usize::from(frame[14] & 0xf) * 4).clamp(34, frame.len());
    frame[24..26].fill(0);
    let checksum = !sum(0, &frame[14..end]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Puts TCP's or UDP's checksum in, wherever the message has a place for it.
fn with_transport_checksum(mut message: Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let at = if protocol == TCP { 16 } else { 6 };
    if message.len() >= at + 2 {
        message[at..at + 2].fill(0);
        let pseudo = [&source.octets()[..], &destination.octets(), &[0, protocol]].concat();
        let checksum = !sum(u32::from(sum(message.len() as u32, &pseudo)), &message);
        message[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Kind, Transport};
    use crate::options::tests::options;
    use std::collections::HashSet;

    /// A failure seen once can be looked at again.
    fn asked(seed: u64) -> Rubbish {
        Rubbish { rate: 1, seed, only: None }
    }

    /// A flood of SYNs is nothing but SYNs, to what the box serves itself as well.
    #[test]
    fn one_sort_alone_may_be_asked_for() {
        let mut options = options();
        options.vips.clear();
        options.services.push(crate::options::Service {
            domain: "kv".into(),
            stack: "stack".into(),
            kind: crate::options::ServiceKind::Memcached,
            addresses: vec![options.box_settings.ip.into()],
            port: 11_211,
            udp_port: None,
            durable: false,
        });
        let mut generator = Generator::new(&options, &Rubbish { rate: 1, seed: 1, only: Some("syn".into()) });
        for _ in 0..100 {
            let (sort, frame) = generator.next();
            let crate::frame::Kind::Ip(ip) = crate::frame::Frame::parse(&frame, false).kind else {
                panic!("{frame:02x?}")
            };
            assert_eq!((sort, ip.destination), (Sort::Syn, options.box_settings.ip));
            let to = |transport| match transport {
                crate::frame::Transport::Tcp { destination, flags, .. } => Some((destination, flags)),
                _ => None,
            };
            assert_eq!(to(ip.transport), Some((11_211, crate::frame::SYN)));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_frames() {
        let frames = |seed| {
            let mut generator = Generator::new(&options(), &asked(seed));
            (0..500).map(|_| generator.next().1).collect::<Vec<_>>()
        };
        assert_eq!(frames(7), frames(7));
        assert_ne!(frames(7), frames(8));
    }

    /// Rubbish that all ends in the same place tests nothing else.
    #[test]
    fn every_sort_comes_and_much_of_it_gets_as_far_as_a_vip() {
        let mut options = options();
        options.box_settings.mtu = 9000;
        let mut generator = Generator::new(&options, &asked(1));
        let (mut sorts, mut to_vip, mut longest) = (HashSet::new(), 0, 0);
        for _ in 0..2_000 {
            let (sort, frame) = generator.next();
            assert!((14..=9000 + TOO_LONG_BY as usize + 14).contains(&frame.len()), "{sort:?}: {} bytes", frame.len());
            assert!(sort == Sort::Jumbo || frame.len() <= 9014, "{sort:?}: {} bytes", frame.len());
            longest = longest.max(frame.len());
            sorts.insert(sort.name());
            let Kind::Ip(ip) = Frame::parse(&frame, false).kind else { continue };
            to_vip += u32::from(options.vips.iter().any(|vip| vip.address == ip.destination));
        }
        assert_eq!(sorts.len(), Sort::ALL.len());
        assert!(longest > 9018, "nothing is too long for the card: {longest} bytes");
        assert!(to_vip > 800, "{to_vip} of 2000");
    }

    /// What is called right must be: else the checks behind the checksums are never reached.
    #[test]
    fn right_frames_are_right() {
        let mut generator = Generator::new(&options(), &asked(3));
        for _ in 0..200 {
            let frame = generator.right();
            assert_eq!(sum(0, &frame[14..34]), 0xffff);
            let length = u16::from_be_bytes([frame[16], frame[17]]);
            assert_eq!(usize::from(length), frame.len() - 14);
            let pseudo = [&frame[26..34], &[0, frame[23]]].concat();
            let start = u32::from(sum(u32::from(length) - 20, &pseudo));
            assert_eq!(sum(start, &frame[34..]), 0xffff);
            let Kind::Ip(ip) = Frame::parse(&frame, false).kind else { panic!() };
            assert!(matches!(ip.transport, Transport::Tcp { .. } | Transport::Udp { .. }));
        }
    }

    /// ARP has no defence against a right message with a wrong address in it: such a frame would break the load, not the box.
    #[test]
    fn no_backend_is_given_another_address() {
        let (mut generator, options) = (Generator::new(&options(), &asked(5)), options());
        for _ in 0..20_000 {
            let (_, frame) = generator.next();
            let arp = frame.get(12..20) == Some(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4]) && frame.len() >= 42;
            if arp && frame[22] & 1 == 0 && frame[22..28] != [0; 6] {
                let sender = address(&frame, 28);
                assert!(!options.backends.iter().any(|backend| backend.ip == sender), "{frame:02x?}");
            }
        }
    }
}
