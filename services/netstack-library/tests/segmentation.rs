//! Trains: what the stack's TCP makes in one piece leaves in frames that the peer takes, and acknowledgements come as soon as without them.

#[allow(dead_code)]
mod peer;

use interfaces::{
    RRef,
    socket::{Event, Local, Round, SocketId},
};
use netstack_library::stack::ClientId;
use smoltcp::{iface::SocketHandle, socket::tcp::State, wire::TcpPacket};

use peer::{STACK, World, config};

const HEADERS: usize = 14 + 20 + 20;

/// The stack's end of a connection, and how much it takes of its service.
struct Accepted {
    socket: SocketId,
    room: usize,
}

/// A stack with a listener, and a peer that is connected to it and takes frames of up to so many bytes.
fn connected(peers_longest: u16, fills_checksums: bool, room: usize) -> (World, ClientId, Accepted, SocketHandle) {
    let mut world = World::between(1_514, peers_longest, fills_checksums, config(""));
    let client = world.stack.attach();
    world.stack.listen(client, Local::port(80), 8).unwrap();
    let peer = world.connect_with(room, STACK.into(), 80);
    world.run(5);
    let mut round = Round::allocate().unwrap();
    world.stack.report(client, &mut round, world.now);
    let [Event::Accepted { socket, room, .. }] = round.events()[..] else { panic!() };
    (world, client, Accepted { socket, room: room as usize }, peer)
}

fn request(world: &mut World, client: ClientId, ask: impl FnOnce(&mut RRef<Round>)) {
    let mut round = Round::allocate().unwrap();
    ask(&mut round);
    world.stack.serve(client, &round, world.now);
}

/// The TCP segments among the frames that the stack sent from the `first` on.
fn segments(world: &World, first: usize) -> impl Iterator<Item = TcpPacket<&[u8]>> {
    let is_tcp = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 6;
    let segment = |frame: &'_ Vec<u8>| 34..14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    world.sent[first..].iter().filter(is_tcp).map(move |frame| TcpPacket::new_checked(&frame[segment(frame)]).unwrap())
}

/// A long answer arrives whole though frames are lost, whatever the peer's size and the card; no frame is longer than the peer or the card takes; and the stack has made trains of it.
#[test]
fn a_long_answer_leaves_in_frames_that_the_peer_takes() {
    let all: Vec<u8> = (0..150_000u32).map(|at| (at % 251) as u8).collect();
    for (peers_longest, fills, loses) in
        [(1_514, true, 0), (1_514, false, 0), (1_514, true, 13), (600, true, 29), (590, false, 0), (9_014, true, 31)]
    {
        let (mut world, client, Accepted { socket, mut room }, peer) = connected(peers_longest, fills, 60_000);
        world.loses = loses;
        let (mut sent, mut got, mut finished) = (0, Vec::new(), false);
        for _ in 0..60_000 {
            let len = room.min(all.len() - sent);
            if len > 0 {
                request(&mut world, client, |round| assert_eq!(round.send(socket, &all[sent..sent + len]), len));
                (sent, room) = (sent + len, room - len);
            } else if sent == all.len() && !finished {
                request(&mut world, client, |round| round.finish(socket).unwrap());
                finished = true;
            }
            world.run(1);
            let mut said = Round::allocate().unwrap();
            world.stack.report(client, &mut said, world.now);
            for event in said.events() {
                match *event {
                    Event::Writable { room: more, .. } => room = more as usize,
                    event => panic!("{event:?}"),
                }
            }
            let mut place = [0; 65_536];
            while let Ok(len @ 1..) = world.socket(peer).recv_slice(&mut place) {
                got.extend_from_slice(&place[..len]);
            }
            if world.socket(peer).state() == State::CloseWait {
                break;
            }
        }
        let case = (peers_longest, fills, loses);
        assert!(got == all, "{case:?}: {} of {} bytes", got.len(), all.len());
        let most = usize::from(peers_longest.min(1_514));
        let longest = world.sent.iter().map(Vec::len).max();
        assert_eq!(longest, Some(most), "{case:?}");
        let trains = world.stack.statistics.trains.get() as usize;
        assert!((1..=world.sent.len() / 4).contains(&trains), "{case:?}: {trains} trains, {} frames", world.sent.len());
        // What ends the stream is said once, at its end, and again only if that was lost.
        let end = segments(&world, 0).filter(|segment| segment.fin()).count();
        assert!(end >= 1 && (loses > 0 || end == 1), "{case:?}: {end} ends");
    }
}

/// Our SYN names what a frame holds, and not what a train does: a peer would send what no buffer takes.
#[test]
fn our_syn_names_what_a_frame_holds() {
    let (world, ..) = connected(9_014, true, 60_000);
    let syn = segments(&world, 0).find(|segment| segment.syn()).unwrap();
    let named = syn.options()[..4].to_vec();
    assert_eq!(named, [[2, 4].as_slice(), &(1_514 - HEADERS as u16).to_be_bytes()].concat());
    // A stack that connects says the same.
    let mut world = World::new(config(""));
    let client = world.stack.attach();
    world.stack.connect(client, "10.0.0.2:7".parse().unwrap(), 0).unwrap();
    world.run(5);
    let syn = segments(&world, 0).find(|segment| segment.syn()).unwrap();
    assert_eq!(syn.options()[..4], [2, 4, 5, 180]);
}

/// What a peer with a small window sends is acknowledged without its having to wait: every second full segment at once; a small one when its time has come, if nothing is sent that the
/// acknowledgement may go with.
#[test]
fn acknowledgements_come_in_time() {
    let (mut world, client, Accepted { socket, .. }, peer) = connected(1_514, true, 60_000);
    let acknowledgements = |world: &World, first| segments(world, first).count();
    // A question alone.
    let first = world.sent.len();
    world.socket(peer).send_slice(b"question").unwrap();
    world.run(8);
    assert_eq!(acknowledgements(&world, first), 0, "it may go with the answer");
    world.run(5);
    assert_eq!(acknowledgements(&world, first), 1, "nobody has answered");
    // A question that is answered.
    let first = world.sent.len();
    world.socket(peer).send_slice(b"question").unwrap();
    world.run(3);
    request(&mut world, client, |round| assert_eq!(round.send(socket, b"answer"), 6));
    world.run(15);
    assert_eq!(acknowledgements(&world, first), 1, "with the answer");
    // Two full segments and a bit, behind a small one.
    let first = world.sent.len();
    world.socket(peer).send_slice(b"small").unwrap();
    world.run(1);
    world.socket(peer).send_slice(&[7; 3_000]).unwrap();
    world.run(1);
    assert_eq!(acknowledgements(&world, first), 1, "more than a full segment has come");
    world.run(30);
    assert_eq!(world.socket(peer).send_queue(), 0);
}
