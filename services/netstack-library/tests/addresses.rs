//! Where the box is and who is where: neighbours of IPv6, addresses that DHCP and routers tell, names that servers know.

#[allow(dead_code)]
mod peer;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use interfaces::{
    packet::PacketFlags,
    socket::{End, Event, Local, Round},
};
use netstack_library::{Config, stack::ClientId};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    socket::{tcp::State, udp},
    time::Duration,
    wire::{
        DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet,
        Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
        UdpPacket, UdpRepr,
    },
};

use peer::{PEER, PEER6, STACK, World, config};

const STACK6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SECOND: u64 = 1_000;

fn learning(text: &str) -> World {
    let config: Config = toml::from_str(text).unwrap();
    let mut world = World::new(config);
    world.stack.learn(0);
    world
}

fn listening(world: &mut World) -> ClientId {
    let client = world.stack.attach();
    world.stack.listen(client, Local::port(80), 8).unwrap();
    client
}

fn events(world: &mut World, client: ClientId) -> Vec<Event> {
    let mut round = Round::allocate().unwrap();
    world.stack.report(client, &mut round, world.now);
    round.events().to_vec()
}

fn checksums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

/// Frames of ICMPv6 that the stack sent, with their destinations.
fn icmpv6_sent(world: &World) -> Vec<(Ipv6Addr, Vec<u8>)> {
    let messages = world.sent.iter().filter_map(|frame| {
        let ip = Ipv6Packet::new_checked(frame.get(14..)?).ok()?;
        (ip.version() == 6 && ip.next_header() == IpProtocol::Icmpv6).then(|| (ip.dst_addr(), ip.payload().to_vec()))
    });
    messages.collect()
}

fn icmpv6_frame(from: Ipv6Addr, to: Ipv6Addr, message: &Icmpv6Repr) -> Vec<u8> {
    let mut frame = vec![0; 54 + message.buffer_len()];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
    if to.is_multicast() {
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    }
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
    message.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(&mut frame[54..]), &checksums());
    frame
}

/// Protects NDP in both directions (RFC 4861 §7.2), ICMPv6 echo, and TCP above them.
#[test]
fn neighbours_of_ipv6_find_each_other_talk_and_ping() {
    let mut world = World::new(config("address6 = '2001:db8::1/64'"));
    let client = listening(&mut world);
    let peer = world.connect_to(STACK6.into(), 80);
    world.run(5);
    let [Event::Accepted { socket, peer: from, .. }] = events(&mut world, client)[..] else { panic!() };
    assert_eq!((world.socket(peer).state(), from.ip()), (State::Established, IpAddr::V6(PEER6)));
    let mut round = Round::allocate().unwrap();
    round.send(socket, b"by six");
    world.stack.serve(client, &round, world.now);
    world.run(3);
    let mut place = [0; 16];
    let len = world.socket(peer).recv_slice(&mut place).unwrap();
    assert_eq!(&place[..len], b"by six");

    let ping = Icmpv6Repr::EchoRequest { ident: 7, seq_no: 1, data: b"ping" };
    world.input(&icmpv6_frame(PEER6, STACK6, &ping));
    world.run(2);
    // RFC 4443 §4.2.
    assert!(
        icmpv6_sent(&world).iter().any(|(to, message)| *to == PEER6 && message[0] == 129 && message.ends_with(b"ping"))
    );
    // Groups of solicited nodes are joined, for switches that look: reports go to all routers that can read them (RFC 3810 §5.2.14).
    let reports: Ipv6Addr = "ff02::16".parse().unwrap();
    let is_report = |frame: &Vec<u8>| Ipv6Packet::new_checked(&frame[14..]).is_ok_and(|ip| ip.dst_addr() == reports);
    assert!(world.sent.iter().any(is_report), "no report of multicast listening");
}

#[test]
fn datagrams_go_by_ipv6_too() {
    let mut world = World::new(config("address6 = '2001:db8::1/64'"));
    let client = world.stack.attach();
    let socket = world.stack.bind(client, Local::port(53)).unwrap();
    let handle = world.bind(4_000);
    let peer: &mut udp::Socket = world.sockets.get_mut(handle);
    peer.send_slice(b"question", (IpAddr::V6(STACK6), 53)).unwrap();
    world.run(5);
    let [Event::Datagram { from, .. }] = events(&mut world, client)[..] else { panic!() };
    let mut round = Round::allocate().unwrap();
    round.send_to(socket, from, b"answer").unwrap();
    world.stack.serve(client, &round, world.now);
    world.run(5);
    let peer: &mut udp::Socket = world.sockets.get_mut(handle);
    assert_eq!(peer.recv().unwrap().0, b"answer");
}

/// What the stack leaves to a card that fills in checksums is what the card fills in: the peer takes all of it, by either IP.
#[test]
fn checksums_are_left_to_a_card_that_fills_them_in() {
    let mut world = World::behind(true, config("address6 = '2001:db8::1/64'"));
    let client = listening(&mut world);
    let bound = world.stack.bind(client, Local::port(53)).unwrap();
    for (to, port) in [(IpAddr::V4(STACK), 4_000), (IpAddr::V6(STACK6), 4_001)] {
        let (stream, datagrams) = (world.connect_to(to, 80), world.bind(port));
        let peer: &mut udp::Socket = world.sockets.get_mut(datagrams);
        peer.send_slice(b"question", (to, 53)).unwrap();
        // The peer asks for a neighbour once a second.
        world.run(1_005);
        let mut round = Round::allocate().unwrap();
        for event in events(&mut world, client) {
            match event {
                Event::Accepted { socket, .. } => assert_eq!(round.send(socket, b"by TCP"), 6),
                Event::Datagram { from, .. } => round.send_to(bound, from, b"by UDP").unwrap(),
                event => panic!("{event:?}"),
            }
        }
        world.stack.serve(client, &round, world.now);
        world.run(5);
        let mut place = [0; 16];
        assert_eq!(world.socket(stream).recv_slice(&mut place), Ok(6));
        let peer: &mut udp::Socket = world.sockets.get_mut(datagrams);
        assert_eq!((&place[..6], peer.recv().unwrap().0), (&b"by TCP"[..], &b"by UDP"[..]));
    }
    world.ping();
    world.run(2);
    let [ip, tcp, udp] =
        [PacketFlags::FILL_IP_CHECKSUM, PacketFlags::FILL_TCP_CHECKSUM, PacketFlags::FILL_UDP_CHECKSUM];
    for sort in [ip | tcp, ip | udp, ip, tcp, udp, PacketFlags::empty()] {
        assert!(world.left_to_card.contains(&sort), "{sort:?} of {:?}", world.left_to_card);
    }
}

// --- DHCP ---

/// A server of the test's own, which gives one address.
struct Server {
    lease: Option<u32>,
    /// Kinds of messages that came, in order.
    heard: Vec<DhcpMessageType>,
    seen: usize,
}

impl Server {
    /// Looks at what the stack has sent since the last time, and answers.
    fn serve(&mut self, world: &mut World) {
        let sent: Vec<Vec<u8>> = world.sent[self.seen..].to_vec();
        self.seen = world.sent.len();
        for frame in sent {
            let Some(asked) = dhcp_question(&frame) else { continue };
            self.heard.push(asked.0);
            let Some(lease) = self.lease else { continue };
            let kind = match asked.0 {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                DhcpMessageType::Request => DhcpMessageType::Ack,
                _ => continue,
            };
            world.input(&dhcp_answer(asked.1, kind, lease));
        }
    }

    fn run(&mut self, world: &mut World, millis: u64) {
        for _ in 0..millis {
            world.run(1);
            self.serve(world);
        }
    }
}

fn dhcp_question(frame: &[u8]) -> Option<(DhcpMessageType, u32)> {
    let ip = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
    let udp = (ip.version() == 4 && ip.next_header() == IpProtocol::Udp)
        .then(|| UdpPacket::new_checked(ip.payload()).ok())??;
    let dhcp = DhcpPacket::new_checked((udp.dst_port() == 67).then(|| udp.payload())?).ok()?;
    Some((DhcpRepr::parse(&dhcp).ok()?.message_type, dhcp.transaction_id()))
}

fn dhcp_answer(transaction_id: u32, message_type: DhcpMessageType, lease: u32) -> Vec<u8> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let message = DhcpRepr {
        message_type,
        transaction_id,
        secs: 0,
        client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 1]),
        client_ip: zero,
        your_ip: STACK,
        server_ip: zero,
        router: Some(PEER),
        subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        relay_agent_ip: zero,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(PEER),
        parameter_request_list: None,
        dns_servers: Some([PEER].into_iter().collect()),
        max_size: None,
        lease_duration: Some(lease),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let (udp, len) = (UdpRepr { src_port: 67, dst_port: 68 }, 8 + message.buffer_len());
    let ip =
        Ipv4Repr { src_addr: PEER, dst_addr: STACK, next_header: IpProtocol::Udp, payload_len: len, hop_limit: 64 };
    let mut frame = vec![0; 34 + len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums());
    let write = |place: &mut [u8]| message.emit(&mut DhcpPacket::new_unchecked(place)).unwrap();
    let mut packet = UdpPacket::new_unchecked(&mut frame[34..]);
    udp.emit(&mut packet, &PEER.into(), &STACK.into(), message.buffer_len(), write, &checksums());
    frame
}

/// Protects the whole life of a lease (RFC 2131 §4.4): asked for, got with gateway and servers, renewed at half its time, over when the server is silent; then its
/// connections are reset, and it is asked for again.
#[test]
fn a_lease_is_got_renewed_and_lost() {
    let mut world = learning("address = 'dhcp'");
    let client = listening(&mut world);
    let mut server = Server { lease: None, heard: Vec::new(), seen: 0 };
    server.run(&mut world, 4 * SECOND);
    assert!(
        server.heard.len() >= 2 && server.heard.iter().all(|kind| *kind == DhcpMessageType::Discover),
        "{:?}",
        server.heard
    );
    assert_eq!(world.stack.learned(), None);

    server.lease = Some(120);
    server.run(&mut world, 4 * SECOND);
    let learned = world.stack.learned().expect("an address");
    assert_eq!((learned.ipv4.unwrap().to_string(), learned.gateway), (format!("{STACK}/24"), Some(PEER)));
    assert_eq!(learned.dns, [IpAddr::V4(PEER)]);
    let peer = world.connect(80);
    server.run(&mut world, 10);
    let [Event::Accepted { socket, .. }] = events(&mut world, client)[..] else { panic!() };

    let requests = |server: &Server| server.heard.iter().filter(|kind| **kind == DhcpMessageType::Request).count();
    assert_eq!(requests(&server), 1);
    server.run(&mut world, 62 * SECOND);
    assert_eq!((requests(&server), world.stack.learned()), (2, None), "renewed, and nothing is new");

    server.lease = None;
    server.run(&mut world, 122 * SECOND);
    assert!(requests(&server) > 2, "it tries to renew");
    let learned = world.stack.learned().expect("the loss of it");
    assert_eq!((learned.ipv4, learned.gateway, learned.dns), (None, None, vec![]));
    assert_eq!(server.heard.last(), Some(&DhcpMessageType::Discover));
    assert!(events(&mut world, client).contains(&Event::Closed { socket, end: End::Reset }));
    assert_eq!(world.socket(peer).state(), State::Closed);
    server.run(&mut world, 2);
    assert_eq!(world.stack.statistics.live.get(), 0);

    server.lease = Some(120);
    server.run(&mut world, 4 * SECOND);
    assert!(world.stack.learned().is_some_and(|learned| learned.ipv4.is_some()));
}

/// Who doesn't learn passes on what is for who does, and goes by what that one has learned.
#[test]
fn another_instance_goes_by_what_was_learned() {
    let mut world = World::new(toml::from_str("address = 'dhcp'").unwrap());
    let answer = dhcp_answer(1, DhcpMessageType::Offer, 60);
    let concerns = world.stack.input(&answer, PacketFlags::empty(), 0);
    assert_eq!(concerns, netstack_library::stack::Concerns::Learner);
    let mut learner = learning("address = 'dhcp'");
    let mut server = Server { lease: Some(60), heard: Vec::new(), seen: 0 };
    server.run(&mut learner, SECOND);
    let client = listening(&mut world);
    world.stack.move_to(&learner.stack.learned().unwrap(), 0);
    let peer = world.connect(80);
    world.run(5);
    assert!(matches!(events(&mut world, client)[..], [Event::Accepted { .. }]));
    assert_eq!(world.socket(peer).state(), State::Established);
}

// --- Router advertisements ---

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);

fn advertisement(router_lifetime: u64, valid_lifetime: u64) -> Vec<u8> {
    let message = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: Duration::from_secs(router_lifetime),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: 64,
            flags: NdiscPrefixInfoFlags::ADDRCONF | NdiscPrefixInfoFlags::ON_LINK,
            valid_lifetime: Duration::from_secs(valid_lifetime),
            preferred_lifetime: Duration::from_secs(valid_lifetime),
            prefix: Ipv6Addr::new(0x2001, 0xdb8, 0, 5, 0, 0, 0, 0),
        }),
    });
    icmpv6_frame(ROUTER, "ff02::1".parse().unwrap(), &message)
}

/// Protects RFC 4862: a router is asked for, its prefix makes the address, and neither outlives the time that was told; nobody shortens that below two hours.
#[test]
fn a_router_tells_the_prefix_and_for_how_long() {
    let mut world = learning("address6 = 'auto'");
    world.run(9 * SECOND);
    let solicitations = icmpv6_sent(&world).iter().filter(|(_, message)| message[0] == 133).count();
    assert_eq!(solicitations, 3, "RFC 4861 §10: MAX_RTR_SOLICITATIONS");
    let frame = advertisement(30, 3 * 3600);
    world.input(&frame);
    world.run(1);
    let learned = world.stack.learned().expect("an address");
    assert_eq!(learned.ipv6.unwrap().to_string(), "2001:db8:0:5:0:ff:fe00:1/64");
    assert_eq!(learned.gateway6, Some(ROUTER));
    world.run(31 * SECOND);
    assert_eq!(world.stack.learned().expect("the router's end").gateway6, None);
    // §5.5.3 (e).
    world.input(&advertisement(0, 1));
    world.run(10 * SECOND);
    assert_eq!(world.stack.learned(), None, "one advertisement took the address away");
    for (place, spoilt) in [(21, 64), (54 + 1, 1), (54 + 2, 0x55)] {
        let mut frame = advertisement(30, 3 * 3600);
        frame[place] = spoilt;
        world.input(&frame);
    }
    world.run(2);
    assert_eq!(world.stack.learned(), None, "hop limit, code and checksum are looked at");
}

// --- Names ---

fn with_names() -> (World, ClientId, smoltcp::iface::SocketHandle) {
    let mut world = World::new(config("dns = ['10.0.0.2']"));
    let client = world.stack.attach();
    let server = world.bind(53);
    (world, client, server)
}

fn ask(world: &mut World, client: ClientId, question: u32, name: &str, ipv6: bool) {
    let mut round = Round::allocate().unwrap();
    round.resolve(question, name, ipv6).unwrap();
    world.stack.serve(client, &round, world.now);
}

/// The answer of a server that knows an address (RFC 1035 §4.1), or that there is none.
fn answer(question: &[u8], address: Option<&[u8]>) -> Vec<u8> {
    let mut message = question.to_vec();
    (message[2], message[3]) = (0x81, if address.is_some() { 0x80 } else { 0x83 });
    if let Some(address) = address {
        message[7] = 1;
        let kind = if address.len() == 4 { 1 } else { 28 };
        message.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, address.len() as u8]);
        message.extend(address);
    }
    message
}

fn question(world: &mut World, server: smoltcp::iface::SocketHandle) -> Option<(Vec<u8>, udp::UdpMetadata)> {
    let socket: &mut udp::Socket = world.sockets.get_mut(server);
    socket.recv().ok().map(|(bytes, from)| (bytes.to_vec(), from))
}

#[test]
fn names_are_looked_up() {
    let (mut world, client, server) = with_names();
    ask(&mut world, client, 5, "box.example", false);
    ask(&mut world, client, 6, "box.example", true);
    ask(&mut world, client, 7, "nobody.example", false);
    ask(&mut world, client, 8, "not..a.name", false);
    for _ in 0..3 {
        world.run(1_500);
        while let Some((asked, from)) = question(&mut world, server) {
            let told: Option<&[u8]> = match (asked.windows(6).any(|part| part == b"nobody"), asked[asked.len() - 3]) {
                (true, _) => None,
                (false, 1) => Some(&[192, 0, 2, 7]),
                _ => Some(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            };
            let socket: &mut udp::Socket = world.sockets.get_mut(server);
            socket.send_slice(&answer(&asked, told), from).unwrap();
        }
        world.run(5);
    }
    let mut answers: Vec<(u32, Option<IpAddr>)> = events(&mut world, client)
        .iter()
        .map(|event| match event {
            Event::Resolved { question, address } => (*question, *address),
            other => panic!("{other:?}"),
        })
        .collect();
    answers.sort();
    let four = IpAddr::from([192, 0, 2, 7]);
    let six: IpAddr = "2001:db8::7".parse().unwrap();
    assert_eq!(answers, [(5, Some(four)), (6, Some(six)), (7, None), (8, None)]);
    assert_eq!(world.stack.deadline(), u64::MAX, "nothing is under way");
}

#[test]
fn a_silent_server_is_given_up_and_without_one_there_is_no_answer() {
    let (mut world, client, server) = with_names();
    ask(&mut world, client, 1, "box.example", false);
    world.run(25 * SECOND);
    assert!(question(&mut world, server).is_some() && question(&mut world, server).is_some(), "asked again and again");
    assert_eq!(events(&mut world, client), [Event::Resolved { question: 1, address: None }]);
    let mut world = World::new(config(""));
    let client = world.stack.attach();
    ask(&mut world, client, 2, "box.example", false);
    assert_eq!(events(&mut world, client), [Event::Resolved { question: 2, address: None }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever a server, a router or a DHCP server says: no panic, and what was asked is still answered in the end. Each is a right message with some bytes replaced,
    /// and its checksums made right again.
    #[test]
    fn no_message_makes_it_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12), cut in any::<proptest::sample::Index>()) {
        let (mut world, client, server) = with_names();
        ask(&mut world, client, 5, "box.example", false);
        world.run(1_500);
        let (asked, from) = question(&mut world, server).unwrap();
        let mut message = answer(&asked, Some(&[192, 0, 2, 7]));
        for (at, byte) in &changes {
            let at = at.index(message.len());
            message[at] = *byte;
        }
        message.truncate(cut.index(message.len() + 1));
        let socket: &mut udp::Socket = world.sockets.get_mut(server);
        socket.send_slice(&message, from).unwrap();
        world.run(20 * SECOND);
        let answered = matches!(events(&mut world, client)[..], [Event::Resolved { question: 5, .. }]);
        prop_assert!(answered);

        let mut world = learning("address = 'dhcp'\naddress6 = 'auto'");
        world.run(10);
        let transaction = world.sent.iter().find_map(|frame| dhcp_question(frame)).unwrap().1;
        let mut offer = dhcp_answer(transaction, DhcpMessageType::Offer, 60);
        for (at, byte) in &changes {
            let at = 42 + at.index(offer.len() - 42);
            offer[at] = *byte;
        }
        UdpPacket::new_unchecked(&mut offer[34..]).fill_checksum(&PEER.into(), &STACK.into());
        world.input(&offer);
        let mut told = advertisement(30, 7200);
        for (at, byte) in &changes {
            let at = 54 + at.index(told.len() - 54);
            told[at] = *byte;
        }
        Icmpv6Packet::new_unchecked(&mut told[54..]).fill_checksum(&ROUTER, &"ff02::1".parse().unwrap());
        world.input(&told);
        world.run(5);
    }
}
