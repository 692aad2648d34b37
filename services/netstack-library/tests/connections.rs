//! The stack's core against a peer: connections come and go, floods are bounded, strangers are reset.

#[allow(dead_code)]
mod peer;

use interfaces::{
    RRef,
    socket::{End, Event, Local, Round, SocketError, SocketId},
};
use netstack_library::stack::ClientId;
use smoltcp::{
    socket::{tcp::State, udp},
    wire::{EthernetFrame, Ipv4Packet, TcpPacket},
};

use peer::{STACK, World, config};

/// What has happened since the last time.
fn events(world: &mut World, client: ClientId) -> Vec<Event> {
    let mut round = Round::allocate().unwrap();
    world.stack.report(client, &mut round, world.now);
    round.events().to_vec()
}

fn request(world: &mut World, client: ClientId, ask: impl FnOnce(&mut RRef<Round>)) {
    let mut round = Round::allocate().unwrap();
    ask(&mut round);
    world.stack.serve(client, &round, world.now);
}

fn listening(extra: &str, backlog: u32) -> (World, ClientId, SocketId) {
    let mut world = World::new(config(extra));
    let client = world.stack.attach();
    let listener = world.stack.listen(client, Local::port(80), backlog).unwrap();
    (world, client, listener)
}

/// The TCP flags of the frames that the stack sent: RST among them?
fn resets(world: &World) -> usize {
    let is_reset = |frame: &&Vec<u8>| {
        let frame = EthernetFrame::new_unchecked(&frame[..]);
        let ip = Ipv4Packet::new_checked(frame.payload());
        ip.is_ok_and(|ip| {
            ip.next_header() == smoltcp::wire::IpProtocol::Tcp && TcpPacket::new_unchecked(ip.payload()).rst()
        })
    };
    world.sent.iter().filter(is_reset).count()
}

#[test]
fn a_connection_is_accepted_talks_and_ends() {
    let (mut world, client, listener) = listening("", 8);
    let peer = world.connect(80);
    world.run(5);
    let [Event::Accepted { listener: by, socket, .. }] = events(&mut world, client)[..] else { panic!() };
    assert_eq!((by, world.socket(peer).state()), (listener, State::Established));
    world.socket(peer).send_slice(b"question").unwrap();
    world.run(2);
    let mut round = Round::allocate().unwrap();
    world.stack.report(client, &mut round, world.now);
    let [Event::Received { bytes, .. }] = *round.events() else { panic!("{:?}", round.events()) };
    assert_eq!(round.bytes(bytes), b"question");
    request(&mut world, client, |round| assert_eq!(round.send(socket, b"answer"), 6));
    world.run(3);
    let mut place = [0; 16];
    let len = world.socket(peer).recv_slice(&mut place).unwrap();
    assert_eq!(&place[..len], b"answer");
    world.socket(peer).close();
    world.run(3);
    assert_eq!(events(&mut world, client), [Event::Ended { socket }]);
    request(&mut world, client, |round| round.close(socket).unwrap());
    world.run(20);
    assert_eq!(world.socket(peer).state(), State::TimeWait);
    assert_eq!((events(&mut world, client), world.stack.statistics.live.get()), (vec![], 0));
    assert_eq!(resets(&world), 0);
}

/// What a card takes in one frame the stack sends and receives in one: segments, datagrams and answers to a ping are as long as that, and no longer.
#[test]
fn frames_are_as_long_as_the_card_takes_them() {
    for longest in [1_514, 9_014, 15_864] {
        let extra = "receive-buffer = '256KiB'\nsend-buffer = '256KiB'";
        let mut world = World::on_cable(longest, true, config(extra));
        let client = world.stack.attach();
        world.stack.listen(client, Local::port(80), 8).unwrap();
        let bound = world.stack.bind(client, Local::port(53)).unwrap();
        let (stream, datagrams) = (world.connect(80), world.bind(4_000));
        let (mut to_send, datagram) = (vec![7; 200_000], vec![8; usize::from(longest) - 14 - 20 - 8]);
        let peer: &mut udp::Socket = world.sockets.get_mut(datagrams);
        peer.send_slice(&datagram, (STACK, 53)).unwrap();
        let (mut accepted, mut to_return, mut back, mut place) = (None, Vec::new(), 0, vec![0; 65_536]);
        // The peer asks for a neighbour once a second.
        for _ in 0..3_000 {
            if let Ok(taken) = world.socket(stream).send_slice(&to_send) {
                to_send.drain(..taken);
            }
            world.run(1);
            let (mut said, mut answer) = (Round::allocate().unwrap(), Round::allocate().unwrap());
            world.stack.report(client, &mut said, world.now);
            for event in said.events() {
                match *event {
                    Event::Accepted { socket, .. } => accepted = Some(socket),
                    Event::Received { bytes, .. } => to_return.extend_from_slice(said.bytes(bytes)),
                    Event::Datagram { from, bytes, .. } => answer.send_to(bound, from, said.bytes(bytes)).unwrap(),
                    Event::Writable { .. } => {}
                    event => panic!("{event:?}"),
                }
            }
            if let Some(socket) = accepted {
                let taken = answer.send(socket, &to_return);
                to_return.drain(..taken);
            }
            world.stack.serve(client, &answer, world.now);
            let came = world.socket(stream).recv_slice(&mut place).unwrap_or(0);
            assert!(place[..came].iter().all(|byte| *byte == 7));
            back += came;
            let peer: &mut udp::Socket = world.sockets.get_mut(datagrams);
            if back == 200_000 && peer.can_recv() {
                break;
            }
        }
        assert_eq!(back, 200_000, "frames of {longest}");
        let peer: &mut udp::Socket = world.sockets.get_mut(datagrams);
        assert!(peer.recv().unwrap().0 == datagram);
        let of_segments = |frames: &[Vec<u8>]| frames.iter().filter(|frame| frame[23] == 6).map(Vec::len).max();
        assert_eq!(of_segments(&world.sent), Some(longest.into()), "what the stack sends");
        assert_eq!(world.received.iter().max(), Some(&longest.into()), "what the peer does");
        let before = world.sent.len();
        world.ping_with(&vec![9; usize::from(longest) - 14 - 20 - 8]);
        world.run(2);
        assert!(world.sent[before..].iter().any(|frame| frame[23] == 1 && frame.len() == usize::from(longest)));
        assert!(world.sent.iter().all(|frame| frame.len() <= longest.into()));
    }
}

#[test]
fn nobody_listens_there_so_the_peer_is_reset() {
    let (mut world, client, _) = listening("", 8);
    let peer = world.connect(81);
    world.run(5);
    assert_eq!(world.socket(peer).state(), State::Closed);
    assert_eq!((resets(&world), world.stack.statistics.strange.get()), (1, 1));
    assert!(events(&mut world, client).is_empty());
}

/// What a restarted stack does with connections of the generation before: it doesn't know them.
#[test]
fn a_segment_of_an_unknown_connection_is_answered_by_rst() {
    let (mut before, client, _) = listening("", 8);
    let peer = before.connect(80);
    before.run(5);
    events(&mut before, client);
    let (fresh, _, _) = listening("", 8);
    before.stack = fresh.stack;
    before.socket(peer).send_slice(b"are you there?").unwrap();
    before.run(5);
    assert_eq!(before.socket(peer).state(), State::Closed, "the peer knows at once");
}

/// The service dies: its handle is dropped, and every peer is told.
#[test]
fn a_dropped_handle_resets_its_connections_and_frees_its_port() {
    let (mut world, client, _) = listening("", 8);
    let peers: Vec<_> = (0..3).map(|_| world.connect(80)).collect();
    world.run(5);
    assert_eq!(events(&mut world, client).len(), 3);
    world.stack.detach(client, world.now);
    world.run(3);
    assert!(peers.iter().all(|peer| world.socket(*peer).state() == State::Closed));
    assert_eq!((resets(&world), world.stack.statistics.live.get()), (3, 0));
    let next = world.stack.attach();
    world.stack.listen(next, Local::port(80), 8).unwrap();
    let again = world.connect(80);
    world.run(5);
    assert_eq!(world.socket(again).state(), State::Established);
    assert!(matches!(events(&mut world, next)[..], [Event::Accepted { .. }]));
}

/// A thousand SYNs of strangers who never answer: memory stays bounded, and who answers gets in.
#[test]
fn a_flood_of_syns_is_bounded_and_keeps_nobody_out() {
    let (mut world, client, _) = listening("connections = 64", 16);
    let first = world.connect(80);
    world.run(5);
    let syn = world.syn_template();
    for stranger in 0..1_000u32 {
        let frame = world.syn_from(&syn, stranger);
        world.input(&frame);
    }
    assert!(world.stack.statistics.live.get() <= 17, "{}", world.stack.statistics.live.get());
    assert!(world.stack.statistics.displaced.get() >= 900);
    let second = world.connect(80);
    world.run(10);
    assert_eq!(world.socket(first).state(), State::Established);
    assert_eq!(world.socket(second).state(), State::Established, "it was the newest, and answered");
    let accepted = events(&mut world, client).into_iter().filter(|event| matches!(event, Event::Accepted { .. }));
    assert_eq!(accepted.count(), 2);
}

#[test]
fn more_than_there_is_room_for_is_found_out() {
    let (mut world, client, _) = listening("send-buffer = '4KiB'", 8);
    let peer = world.connect(80);
    world.run(5);
    let [Event::Accepted { socket, room: 4096, .. }] = events(&mut world, client)[..] else { panic!() };
    request(&mut world, client, |round| assert_eq!(round.send(socket, &[1; 4097]), 4097));
    world.run(3);
    assert_eq!(events(&mut world, client), [Event::Closed { socket, end: End::Overrun }]);
    assert_eq!(world.socket(peer).state(), State::Closed);
}

/// The peer reads slowly: the service is told of room again, and no byte is lost.
#[test]
fn room_comes_back_as_the_peer_reads() {
    let (mut world, client, _) = listening("send-buffer = '4KiB'", 8);
    let peer = world.connect(80);
    world.run(5);
    let [Event::Accepted { socket, room, .. }] = events(&mut world, client)[..] else { panic!() };
    let all: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
    let (mut room, mut sent, mut got) = (room as usize, 0, Vec::new());
    for _ in 0..2_000 {
        let len = room.min(all.len() - sent);
        request(&mut world, client, |round| assert_eq!(round.send(socket, &all[sent..sent + len]), len));
        (sent, room) = (sent + len, room - len);
        world.run(2);
        for event in events(&mut world, client) {
            let Event::Writable { room: more, .. } = event else { panic!("{event:?}") };
            room = more as usize;
        }
        let mut place = [0; 700];
        let len = world.socket(peer).recv_slice(&mut place).unwrap();
        got.extend_from_slice(&place[..len]);
    }
    assert!(got == all, "{} of {} bytes", got.len(), all.len());
}

/// The service doesn't take what it is sent: the window closes, and nothing is lost.
#[test]
fn a_paused_connection_closes_its_window() {
    let (mut world, client, _) = listening("receive-buffer = '4KiB'", 8);
    let peer = world.connect(80);
    world.run(5);
    let [Event::Accepted { socket, .. }] = events(&mut world, client)[..] else { panic!() };
    request(&mut world, client, |round| round.pause(socket).unwrap());
    world.socket(peer).send_slice(&[9; 8192]).unwrap();
    world.run(100);
    assert!(events(&mut world, client).is_empty());
    assert_eq!(world.socket(peer).send_queue(), 8192 - 4096, "the peer still has what found no place");
    request(&mut world, client, |round| round.resume(socket).unwrap());
    let mut got = 0;
    for _ in 0..3_000 {
        got += events(&mut world, client)
            .into_iter()
            .map(|event| if let Event::Received { bytes, .. } = event { bytes.len() } else { 0 })
            .sum::<usize>();
        world.run(1);
    }
    assert_eq!(got, 8192);
}

#[test]
fn the_service_connects_and_a_refusal_is_told() {
    let (mut world, client, _) = listening("", 8);
    let (socket, _) = world.stack.connect(client, "10.0.0.2:99".parse().unwrap(), world.now).unwrap();
    world.run(20);
    assert_eq!(events(&mut world, client), [Event::Closed { socket, end: End::Reset }]);
    let elsewhere = world.stack.connect(client, "192.0.2.1:99".parse().unwrap(), world.now);
    assert!(elsewhere.is_ok(), "without a gateway it isn't known before it is tried");
    assert_eq!(
        world.stack.listen(client, Local { address: Some("10.9.9.9".parse().unwrap()), port: 1 }, 1),
        Err(SocketError::NoAddress)
    );
    assert_eq!(world.stack.listen(client, Local::port(80), 1), Err(SocketError::InUse));
}

/// Ten thousand idle connections are in nobody's way: a segment for one of them costs what it costs beside ten.
#[test]
fn ten_thousand_connections_are_not_searched() {
    let mut costs = Vec::new();
    for idle in [10, 10_000] {
        let (mut world, client, _) =
            listening("connections = 12000\nreceive-buffer = '2KiB'\nsend-buffer = '2KiB'", 12_000);
        let peer = world.connect(80);
        world.run(5);
        let syn = world.syn_template();
        for stranger in 0..idle {
            let frame = world.syn_from(&syn, stranger);
            world.input(&frame);
        }
        world.run(1);
        assert_eq!(world.stack.statistics.live.get(), u64::from(idle) + 1);
        let mut round = Round::allocate().unwrap();
        world.stack.report(client, &mut round, world.now);
        world.socket(peer).send_slice(b"x").unwrap();
        let frame = world.next_frame();
        let before = std::time::Instant::now();
        for _ in 0..2_000 {
            world.input(&frame);
        }
        costs.push(before.elapsed().as_secs_f64());
    }
    println!("2,000 segments beside 10 connections: {:.3} ms, beside 10,000: {:.3} ms", costs[0] * 1e3, costs[1] * 1e3);
    assert!(costs[1] < 20.0 * costs[0], "{costs:?}: a search would cost a thousand times as much");
}

#[test]
fn pings_are_answered() {
    let (mut world, _, _) = listening("", 8);
    world.ping();
    world.run(5);
    let answered = world.sent.iter().any(|frame| {
        let ip = Ipv4Packet::new_checked(EthernetFrame::new_unchecked(&frame[..]).payload().to_vec());
        ip.is_ok_and(|ip| ip.next_header() == smoltcp::wire::IpProtocol::Icmp && ip.src_addr() == STACK)
    });
    assert!(answered);
}
