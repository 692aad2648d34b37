//! The whole domain above a network that is made of this test.

use interfaces::{
    Port, RRef,
    control::{Counters, Text},
    host::{
        self,
        sockets::{Limits, Network, Peer},
    },
};
use kv::{Config, Exports, Imports, start};
use runtime::env::Env;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

fn config() -> Config {
    let table = "udp-port = 11211\nmemory = \"16MiB\"\nrequest-time = \"500ms\"\n";
    toml::from_str(table).unwrap()
}

fn box_with(limits: Limits, config: Config) -> (Network, Exports) {
    host::connect();
    let network = Network::new(limits);
    let stack: &'static _ = Box::leak(network.stack());
    let exports =
        start(Env::new("kv", 1, &[0, 1]), Imports { stack: Some(Port::new(stack)), net: None, block: None }, config)
            .unwrap();
    (network, exports)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn connect(network: &Network, instance: u16) -> Peer {
    let mut peer = None;
    wait_for("somebody listens", || {
        peer = network.connect(instance, 11211);
        peer.is_some()
    });
    peer.unwrap()
}

/// Sends `request`, as the connection takes it, and receives until that is `answer`.
fn ask(peer: &mut Peer, request: &[u8], answer: &[u8]) {
    let (mut rest, mut bytes) = (request, Vec::new());
    wait_for("an answer", || {
        rest = &rest[peer.send(rest)..];
        bytes.extend(peer.receive());
        bytes.len() >= answer.len()
    });
    assert!(bytes == answer, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
}

fn counter(exports: &Exports, name: &str) -> u64 {
    let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    page.as_slice().iter().find(|counter| counter.name.as_str() == name).unwrap().value
}

/// What is stored through one thread is there for the other, from the smallest to the largest value, through small windows.
#[test]
fn the_store_is_one() {
    let (network, exports) = box_with(Limits { instances: 2, room: 5000, segment: 700, ..Limits::default() }, config());
    let (mut first, mut second) = (connect(&network, 0), connect(&network, 1));
    ask(&mut first, b"set a 7 0 1\r\nx\r\n", b"STORED\r\n");
    ask(&mut second, b"get a\r\n", b"VALUE a 7 1\r\nx\r\nEND\r\n");
    let value = vec![b'v'; 1 << 20];
    let set = [b"set big 0 0 1048576\r\n".as_slice(), &value, b"\r\n"].concat();
    ask(&mut second, &set, b"STORED\r\n");
    let answer = [b"VALUE big 0 1048576\r\n".as_slice(), &value, b"\r\nEND\r\n"].concat();
    ask(&mut first, b"get big\r\n", &answer);
    assert_eq!((counter(&exports, "items"), counter(&exports, "connections.open")), (2, 2));
    let line = exports.control.command(RRef::new(Text::new("flush")).unwrap()).unwrap();
    assert_eq!(line.as_str(), "everything is gone");
    ask(&mut first, b"get a\r\nquit\r\n", b"END\r\n");
    wait_for("the farewell", || first.is_finished());
}

#[test]
fn datagrams_are_answered() {
    let (network, _exports) = box_with(Limits::default(), config());
    let from: SocketAddr = "10.0.0.9:5000".parse().unwrap();
    wait_for("somebody is bound", || network.datagram(0, 11211, from, b"\0\x09\0\0\0\x01\0\0version\r\n"));
    let mut sent = Vec::new();
    wait_for("an answer", || {
        sent.extend(network.datagrams());
        !sent.is_empty()
    });
    assert!(sent[0].1 == from && sent[0].2.starts_with(b"\0\x09\0\0\0\x01\0\0VERSION "));
}

/// Who begins a value and doesn't send it is dropped, and what was set aside for it is free again.
#[test]
fn unfinished_requests_end() {
    let (network, exports) = box_with(Limits { instances: 2, ..Limits::default() }, config());
    let mut peer = connect(&network, 0);
    peer.send(b"set a 0 0 1000000\r\nbegin");
    wait_for("it is dropped", || peer.is_finished());
    assert_eq!(counter(&exports, "connections.timed-out"), 1);
}

/// After a crash of the stack clients find everything as it was.
#[test]
fn the_stack_may_crash() {
    let (network, exports) = box_with(Limits { instances: 2, ..Limits::default() }, config());
    ask(&mut connect(&network, 0), b"set a 0 0 1\r\nx\r\n", b"STORED\r\n");
    for round in 1..=5 {
        // Who isn't there yet would notice nothing.
        let _both = [0, 1].map(|instance| connect(&network, instance));
        network.crash();
        ask(&mut connect(&network, 1), b"get a\r\n", b"VALUE a 0 1\r\nx\r\nEND\r\n");
        wait_for("both threads noticed", || counter(&exports, "stack.lost") == 2 * round);
    }
}

/// On a box that knows the date, what is to expire at one does so then; `stats` says the date.
#[test]
fn dates_are_dates() {
    host::connect();
    host::set_date(1_700_000_000);
    let (network, _exports) = box_with(Limits { instances: 2, ..Limits::default() }, config());
    let mut peer = connect(&network, 0);
    ask(&mut peer, b"set a 0 1700000100 1\r\nx\r\nset b 0 1699999999 1\r\ny\r\n", b"STORED\r\nSTORED\r\n");
    ask(&mut peer, b"get b a\r\n", b"VALUE a 0 1\r\nx\r\nEND\r\n");
    host::advance_clock(Duration::from_secs(90));
    ask(&mut peer, b"get a\r\n", b"VALUE a 0 1\r\nx\r\nEND\r\n");
    host::advance_clock(Duration::from_secs(11));
    ask(&mut peer, b"get a\r\n", b"END\r\n");
    let (mut said, mut sent) = (Vec::new(), false);
    wait_for("the statistics", || {
        sent = sent || peer.send(b"stats\r\n") == 7;
        said.extend(peer.receive());
        said.ends_with(b"END\r\n")
    });
    let said = String::from_utf8(said).unwrap();
    let date = said.lines().find_map(|line| line.strip_prefix("STAT time ")).unwrap().parse::<u64>().unwrap();
    assert!((1_700_000_101..1_700_000_130).contains(&date), "{date}");
}
