//! A stack under test and its peer, joined by a wire that the test can cut: the peer is smoltcp as its authors mean it to be used, with one `SocketSet`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{collections::VecDeque, sync::Arc};

use interfaces::{
    host,
    net::{Link, MacAddress, NetInfo},
    packet::PacketFlags,
};
use netstack_library::{Config, stack::Stack};
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::{tcp, udp},
    time::Instant,
    wire::{
        EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr,
        TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    },
};

pub const STACK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Ethernet's longest.
const USUAL_FRAME: u16 = 1514;

/// Frames to and from the peer, up to `longest` bytes.
pub struct Cable {
    longest: u16,
    to_peer: VecDeque<Vec<u8>>,
    from_peer: VecDeque<Vec<u8>>,
}

pub struct World {
    pub stack: Stack,
    /// Of the stack's frames one in so many is lost; 0: none.
    pub loses: usize,
    pub now: u64,
    cable: Cable,
    peer: Interface,
    pub sockets: SocketSet<'static>,
    next_port: u16,
    /// Every frame that the stack sent.
    pub sent: Vec<Vec<u8>>,
    /// Of every frame of the peer's that it got, the length.
    pub received: Vec<usize>,
    /// What the stack has left to the card, of each sort.
    pub left_to_card: Vec<PacketFlags>,
}

pub fn config(extra: &str) -> Config {
    toml::from_str(&format!("address = '10.0.0.1/24'\n{extra}")).unwrap()
}

impl World {
    pub fn new(config: Config) -> World {
        World::behind(false, config)
    }

    /// With a card that does or doesn't fill in checksums.
    pub fn behind(fills_checksums: bool, config: Config) -> World {
        World::on_cable(USUAL_FRAME, fills_checksums, config)
    }

    /// The same on a cable for frames of up to so many bytes.
    pub fn on_cable(longest: u16, fills_checksums: bool, config: Config) -> World {
        World::between(longest, longest, fills_checksums, config)
    }

    /// The same between a card and a peer who take frames of different lengths.
    pub fn between(longest: u16, peers_longest: u16, fills_checksums: bool, config: Config) -> World {
        host::connect();
        host::set_longest_frame(longest);
        let mut cable = Cable { longest: peers_longest, to_peer: VecDeque::new(), from_peer: VecDeque::new() };
        let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 2]));
        let mut peer = Interface::new(smoltcp::iface::Config::new(mac), &mut cable, Instant::ZERO);
        peer.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(PEER.into(), 24)).unwrap();
            addresses.push(IpCidr::new(PEER6.into(), 64)).unwrap();
        });
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let card = NetInfo { mac, queues: 1, max_frame: longest, fills_checksums, link: Link::Down };
        let stack = Stack::new(Arc::new(config), &card, 0);
        let sockets = SocketSet::new(Vec::new());
        World {
            stack,
            loses: 0,
            now: 0,
            cable,
            peer,
            sockets,
            next_port: 50_000,
            sent: Vec::new(),
            received: Vec::new(),
            left_to_card: Vec::new(),
        }
    }

    /// A connection of the peer's, asked for.
    pub fn connect(&mut self, port: u16) -> SocketHandle {
        self.connect_to(STACK.into(), port)
    }

    pub fn connect_to(&mut self, to: IpAddr, port: u16) -> SocketHandle {
        self.connect_with(self.peers_buffer(), to, port)
    }

    /// The same, where the peer has so much room for what it receives and sends.
    pub fn connect_with(&mut self, room: usize, to: IpAddr, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; room]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.connect(self.peer.context(), (to, port), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    /// A socket of the peer's for datagrams.
    pub fn bind(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; self.peers_buffer()]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    /// Some frames' worth.
    fn peers_buffer(&self) -> usize {
        if self.cable.longest == USUAL_FRAME { 8192 } else { 65_535 }
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets both sides work for so many milliseconds, one at a time.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += 1_000_000;
            self.peer.poll(Instant::from_micros((self.now / 1_000) as i64), &mut self.cable, &mut self.sockets);
            while let Some(frame) = self.cable.from_peer.pop_front() {
                self.received.push(frame.len());
                self.input(&frame);
            }
            self.stack.output(self.now);
            while let Some(mut batch) = self.stack.outbox.take() {
                for packet in batch.packets() {
                    let mut frame = packet.data().to_vec();
                    fill_in(&mut frame, packet.flags);
                    if !self.left_to_card.contains(&packet.flags) {
                        self.left_to_card.push(packet.flags);
                    }
                    self.sent.push(frame.clone());
                    if self.loses == 0 || !self.sent.len().is_multiple_of(self.loses) {
                        self.cable.to_peer.push_back(frame);
                    }
                }
                batch.clear();
                self.stack.outbox.put_back(batch);
            }
        }
    }

    /// A SYN as the peer would send it to port 80.
    pub fn syn_template(&self) -> Vec<u8> {
        let syn = TcpRepr {
            src_port: 1,
            dst_port: 80,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 8192,
            window_scale: None,
            max_seg_size: Some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let len = syn.buffer_len();
        let mut frame = ethernet(20 + len);
        ipv4(IpProtocol::Tcp, len)
            .emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
        let mut tcp = TcpPacket::new_unchecked(&mut frame[34..]);
        syn.emit(&mut tcp, &PEER.into(), &STACK.into(), &ChecksumCapabilities::default());
        frame
    }

    /// The same of the `stranger`-th of many that are not there.
    pub fn syn_from(&self, template: &[u8], stranger: u32) -> Vec<u8> {
        let mut frame = template.to_vec();
        let from = Ipv4Addr::from_bits(0x0a00_0064 + stranger % 100);
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
        ip.set_src_addr(from);
        ip.fill_checksum();
        let mut tcp = TcpPacket::new_unchecked(&mut frame[34..]);
        tcp.set_src_port(1_000 + (stranger / 100) as u16);
        tcp.fill_checksum(&from.into(), &STACK.into());
        frame
    }

    /// The next frame that the peer sends, which doesn't arrive.
    pub fn next_frame(&mut self) -> Vec<u8> {
        self.peer.poll(Instant::from_micros((self.now / 1_000) as i64), &mut self.cable, &mut self.sockets);
        self.cable.from_peer.pop_front().expect("it has something to send")
    }

    /// The peer sends an echo request.
    pub fn ping(&mut self) {
        self.ping_with(b"ping");
    }

    pub fn ping_with(&mut self, data: &[u8]) {
        let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data };
        let mut frame = ethernet(20 + echo.buffer_len());
        let ip = ipv4(IpProtocol::Icmp, echo.buffer_len());
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut frame[34..]), &ChecksumCapabilities::default());
        // The answer has to find the peer: first a connection, which makes the stack ask for its address.
        self.connect(80);
        self.run(3);
        self.input(&frame);
    }

    pub fn input(&mut self, frame: &[u8]) {
        if let netstack_library::stack::Concerns::Asker(_) = self.stack.input(frame, PacketFlags::empty(), self.now) {
            self.stack.input_stray(frame);
        }
    }
}

/// What a card does with a frame whose checksums are left to it: it adds up what it finds, and puts the inverted sum in its place.
fn fill_in(frame: &mut [u8], wanted: PacketFlags) {
    let is_wanted = |flag| wanted.contains(flag);
    let (ipv4, whole) = (is_wanted(PacketFlags::FILL_IP_CHECKSUM), frame.len());
    let transport = if ipv4 { 34 } else { 54 };
    for (is_wanted, part, at) in [
        (ipv4, 14..34, 24),
        (is_wanted(PacketFlags::FILL_TCP_CHECKSUM), transport..whole, transport + 16),
        (is_wanted(PacketFlags::FILL_UDP_CHECKSUM), transport..whole, transport + 6),
    ] {
        if is_wanted {
            let word = |word: &[u8]| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
            let sum: u32 = frame[part].chunks(2).map(word).sum();
            let sum = (sum >> 16) + (sum & 0xFFFF);
            frame[at..at + 2].copy_from_slice(&(!((sum >> 16) + sum) as u16).to_be_bytes());
        }
    }
}

fn ethernet(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame
}

fn ipv4(next_header: IpProtocol, payload_len: usize) -> Ipv4Repr {
    Ipv4Repr { src_addr: PEER, dst_addr: STACK, next_header, payload_len, hop_limit: 64 }
}

impl Device for Cable {
    type RxToken<'a> = Frame;
    type TxToken<'a> = End<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, End<'_>)> {
        let frame = self.to_peer.pop_front()?;
        Some((Frame(frame), End(&mut self.from_peer)))
    }

    fn transmit(&mut self, _: Instant) -> Option<End<'_>> {
        Some(End(&mut self.from_peer))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, self.longest.into());
        capabilities
    }
}

pub struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct End<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for End<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
