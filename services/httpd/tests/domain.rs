//! The whole domain above a network that is made of this test.

use httpd::{Config, Exports, Imports, start};
use interfaces::{
    Port, RRef,
    config::Duration,
    control::Counters,
    folder::{self, Coding, File, Folder, Representation},
    host::{
        self,
        sockets::{Limits, Network, Peer},
    },
    socket::Local,
};
use runtime::env::Env;
use std::time::{Duration as Span, Instant};

const BIG: usize = 100_000;

fn config() -> Config {
    let file = |path: &'static str, bytes| File {
        path: path.as_bytes(),
        media_type: "text/plain",
        modified: 0,
        representations: Box::new([Representation { coding: Coding::Identity, tag: 1, bytes }]),
    };
    let archive = folder::write(&[file("big", &[b'x'; BIG]), file("hello", b"Hello")]);
    Config {
        content: Folder::packed(archive),
        port: 80,
        access_log: true,
        connections: 100,
        requests: 1000,
        longest_body: interfaces::config::Size(1000),
        waiting: interfaces::config::Size(1 << 20),
        request_time: Duration::from_millis(300),
        answer_time: Duration::from_millis(500),
        idle_time: Duration::from_millis(700),
        stack: None,
    }
}

/// The domain, started on a network of its own.
fn box_with(limits: Limits, config: Config) -> (Network, Exports) {
    host::connect();
    let network = Network::new(limits);
    let stack: &'static _ = Box::leak(network.stack());
    let exports =
        start(Env::new("web", 1, &[0]), Imports { stack: Some(Port::new(stack)), net: None }, config).unwrap();
    (network, exports)
}

fn connect(network: &Network) -> Peer {
    let deadline = Instant::now() + Span::from_secs(10);
    loop {
        if let Some(peer) = network.connect(0, 80) {
            return peer;
        }
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::sleep(Span::from_millis(1));
    }
}

/// Takes what is sent until it ends with `end`.
fn receive_until(peer: &mut Peer, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + Span::from_secs(20);
    let mut bytes = Vec::new();
    while !done(&bytes) {
        bytes.extend(peer.receive());
        assert!(Instant::now() < deadline, "so far {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]));
        std::thread::sleep(Span::from_millis(1));
    }
    bytes
}

fn counter(exports: &Exports, name: &str) -> u64 {
    let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    page.as_slice().iter().find(|counter| counter.name.as_str() == name).unwrap().value
}

#[test]
fn many_clients_are_served_at_once() {
    // One client is looked after here after the other, so the last ones take their time.
    let patient = Duration::from_millis(60_000);
    let config = Config { answer_time: patient, idle_time: patient, ..config() };
    let (network, exports) = box_with(Limits { room: 4000, segment: 100, ..Limits::default() }, config);
    let mut peers: Vec<Peer> = (0..50).map(|_| connect(&network)).collect();
    for peer in &mut peers {
        assert!(
            peer.send(
                b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\nGET /big HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            ) > 0
        );
    }
    for peer in &mut peers {
        let bytes = receive_until(peer, |bytes| bytes.ends_with(&[b'x'; BIG]));
        assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && bytes.windows(5).any(|window| window == b"Hello"));
    }
    assert_eq!((counter(&exports, "connections.accepted"), counter(&exports, "answers.ok")), (50, 100));
}

/// Slowloris: who sends a head byte by byte is told so and dropped however often a byte comes; who takes no answer is reset; who says nothing is closed.
#[test]
fn slow_clients_are_dropped() {
    let (network, exports) = box_with(Limits { room: 4000, ..Limits::default() }, config());
    let (mut slow, mut stuck, silent) = (connect(&network), connect(&network), connect(&network));
    stuck.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    let began = Instant::now();
    let mut last_words = Vec::new();
    while !last_words.ends_with(b"408 Request Timeout\n") {
        slow.send(b"G");
        last_words.extend(slow.receive());
        assert!(began.elapsed() < Span::from_secs(5), "it is still there");
        std::thread::sleep(Span::from_millis(20));
    }
    let deadline = Instant::now() + Span::from_secs(10);
    while !(stuck.is_reset() && silent.is_finished()) {
        assert!(Instant::now() < deadline, "reset {}, finished {}", stuck.is_reset(), silent.is_finished());
        std::thread::sleep(Span::from_millis(5));
    }
    assert_eq!((counter(&exports, "connections.timed-out"), counter(&exports, "connections.open")), (3, 0));
}

/// More clients than there may be are closed, and those that are there go on.
#[test]
fn too_many_clients_are_turned_away() {
    let (network, exports) = box_with(Limits::default(), Config { connections: 3, ..config() });
    let mut peers: Vec<Peer> = (0..5).map(|_| connect(&network)).collect();
    let deadline = Instant::now() + Span::from_secs(10);
    while counter(&exports, "connections.refused") < 2 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Span::from_millis(1));
    }
    peers[0].send(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    receive_until(&mut peers[0], |bytes| bytes.ends_with(b"Hello"));
}

/// After a crash of the stack the server listens again by itself.
#[test]
fn the_stack_may_crash() {
    let (network, exports) = box_with(Limits::default(), config());
    let old = connect(&network);
    for round in 1..=5 {
        network.crash();
        let mut peer = connect(&network);
        peer.send(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
        receive_until(&mut peer, |bytes| bytes.ends_with(b"Hello"));
        assert_eq!(counter(&exports, "stack.lost"), round);
    }
    assert!(old.is_reset());
}

/// Who finds its port in other hands serves as soon as that has let go of it; no stack has been lost by that.
#[test]
fn a_port_in_other_hands_is_waited_for() {
    host::connect();
    let network = Network::new(Limits::default());
    let stack: &'static _ = Box::leak(network.stack());
    let mut other = stack.open(0).unwrap();
    other.listen(Local::port(80), 1).unwrap();
    let imports = Imports { stack: Some(Port::new(stack)), net: None };
    let exports = start(Env::new("web", 1, &[0]), imports, config()).unwrap();
    std::thread::sleep(Span::from_millis(20));
    drop(other);
    let deadline = Instant::now() + Span::from_secs(20);
    while counter(&exports, "connections.accepted") == 0 {
        assert!(Instant::now() < deadline, "it never listens");
        drop(connect(&network));
        std::thread::sleep(Span::from_millis(1));
    }
    assert_eq!(counter(&exports, "stack.lost"), 0);
}

/// On a box that knows the date answers say it, and an answer of today isn't sent again to who has it (RFC 9110 §6.6.1, §13.1.3).
#[test]
fn answers_have_a_date() {
    host::connect();
    let (network, _exports) = box_with(Limits::default(), config());
    let ask = |peer: &mut Peer, fields: &str| {
        let request = format!("GET /hello HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        assert!(peer.send(request.as_bytes()) == request.len());
        String::from_utf8(receive_until(peer, |bytes| bytes.windows(4).any(|end| end == b"\r\n\r\n"))).unwrap()
    };
    let mut peer = connect(&network);
    assert!(!ask(&mut peer, "").contains("\r\nDate: "));
    host::set_date(1_700_000_000);
    let answer = ask(&mut connect(&network), "");
    assert!(answer.contains("\r\nDate: Tue, 14 Nov 2023 22:13:2"), "{answer}");
    let modified = answer.lines().find(|line| line.starts_with("Last-Modified: ")).unwrap();
    let answer =
        ask(&mut connect(&network), &format!("{}\r\n", modified.replace("Last-Modified", "If-Modified-Since")));
    assert!(answer.starts_with("HTTP/1.1 304 ") && answer.contains("\r\nDate: "), "{answer}");
}
