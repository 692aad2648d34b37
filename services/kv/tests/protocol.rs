//! The protocol, as a client sees it: every answer is the original's, however the bytes come in pieces, and nothing that is sent makes the store panic or take
//! more memory than it may.

mod talk;

use kv::{
    clock::Clock,
    command::Context,
    datagram,
    item::LONGEST_KEY,
    session::{OWN_BUFFER, Session, Wants},
    statistics::Traffic,
    store::{Limits, Store},
};
use proptest::prelude::*;
use talk::Conversation;

const MIB: usize = 1 << 20;

fn limits() -> Limits {
    Limits { memory: 8 << 20, longest_value: MIB, incoming: 4 << 20, evict: true, shards: 2 }
}

/// All that a client says.
fn sent(conversation: &Conversation) -> Vec<u8> {
    conversation.turns.iter().flat_map(|turn| turn.sent.bytes()).collect()
}

struct Server {
    store: Store,
    traffic: [Traffic; 1],
    uptime: u64,
}

impl Server {
    fn new(limits: Limits) -> Server {
        interfaces::host::connect();
        Server { store: Store::new(limits, 7, None), traffic: [Traffic::default()], uptime: 0 }
    }

    fn context(&self) -> Context<'_> {
        let date = Some(1_700_000_000 + self.uptime as i64);
        Context {
            store: &self.store,
            clock: Clock::new(self.uptime, date),
            uptime: self.uptime,
            date,
            traffic: &self.traffic,
        }
    }

    /// Sends `bytes` in pieces of these lengths, over and over, and returns all answers and whether the connection was closed.
    fn send(&self, session: &mut Session, bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, bool) {
        let (mut rest, mut out, mut pieces) = (bytes, Vec::new(), pieces.iter().cycle());
        loop {
            let mut answers = Vec::new();
            match session.work(&self.context(), &mut answers, 64 * 1024) {
                Wants::Close => {
                    out.extend(answers);
                    return (out, true);
                }
                Wants::Input if rest.is_empty() => {
                    out.extend(answers);
                    return (out, false);
                }
                Wants::Input => {
                    let room = session.room();
                    assert!(room > 0, "it wants input, and has no room for it");
                    let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(room).min(rest.len()));
                    session.receive(piece);
                    rest = after;
                }
                Wants::Output => assert!(!answers.is_empty()),
            }
            out.extend(answers);
        }
    }

    fn ask(&self, text: &str) -> String {
        let (answer, _) = self.send(&mut Session::default(), text.replace('\n', "\r\n").as_bytes(), &[usize::MAX]);
        String::from_utf8(answer).unwrap().replace("\r\n", "\n")
    }
}

/// Each answer to the commands in `tests/conversations`, which `tests/against_memcached.rs` holds with memcached itself.
#[test]
fn answers_are_the_originals() {
    let wrong: Vec<String> = Conversation::all()
        .iter()
        .filter_map(|conversation| {
            let server = Server::new(limits());
            let (answers, _) = server.send(&mut Session::default(), &sent(conversation), &[usize::MAX]);
            conversation.judge(&answers).err()
        })
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

/// TCP has no messages: a connection gives the same answers whether its bytes come one by one or all at once.
#[test]
fn the_cuts_between_packets_mean_nothing() {
    for conversation in &Conversation::all() {
        for pieces in [[1, 1, 1], [2, 3, 5], [7, 1, 40]] {
            let server = Server::new(limits());
            let (answers, _) = server.send(&mut Session::default(), &sent(conversation), &pieces);
            conversation.judge(&answers).unwrap();
        }
    }
}

/// The largest value and the longest key go through byte for byte, whatever bytes they are; one more of either is refused with the original's words, and the
/// connection goes on.
#[test]
fn values_are_safe_to_the_last_byte() {
    let server = Server::new(limits());
    let value: Vec<u8> = (0..MIB).map(|at| (at * 31 % 257) as u8).collect();
    let key = "k".repeat(LONGEST_KEY);
    let mut request = format!("set {key} 3 0 {MIB}\r\n").into_bytes();
    request.extend_from_slice(&value);
    request.extend_from_slice(format!("\r\nget {key}\r\n").as_bytes());
    let (answer, _) = server.send(&mut Session::default(), &request, &[1460]);
    let mut right = format!("STORED\r\nVALUE {key} 3 {MIB}\r\n").into_bytes();
    right.extend_from_slice(&value);
    right.extend_from_slice(b"\r\nEND\r\n");
    assert!(answer == right);

    let mut session = Session::default();
    let too_large =
        [format!("set {key} 0 0 {}\r\n", MIB + 1).into_bytes(), vec![b'x'; MIB + 1], b"\r\nget a\r\n".to_vec()]
            .concat();
    let (answer, _) = server.send(&mut session, &too_large, &[1460, 1, 9000]);
    assert_eq!(String::from_utf8_lossy(&answer), "SERVER_ERROR object too large for cache\r\nEND\r\n");
    assert_eq!(server.ask(&format!("get {key}\n")), "END\n", "what couldn't be replaced isn't served any more");
}

/// An item is there until its second, and not from then on; a touch moves that.
#[test]
fn items_expire_to_the_second() {
    let mut server = Server::new(limits());
    assert_eq!(server.ask("set a 0 10 1\nx\nset b 0 10 1\nx\nset c 0 1700000010 1\nx\n"), "STORED\nSTORED\nSTORED\n");
    server.uptime = 9;
    assert_eq!(server.ask("get a c\ntouch b 10\n"), "VALUE a 0 1\nx\nVALUE c 0 1\nx\nEND\nTOUCHED\n");
    server.uptime = 10;
    assert_eq!(server.ask("get a b c\nmg b t\n"), "VALUE b 0 1\nx\nEND\nHD t9\n");
    server.uptime = 19;
    assert_eq!(server.ask("get b\nadd b 0 0 1\ny\n"), "END\nSTORED\n");
    assert_eq!(server.ask("flush_all 5\nget b\n"), "OK\nVALUE b 0 1\ny\nEND\n");
    server.uptime = 24;
    assert_eq!(server.ask("get b\n"), "END\n");
}

/// What has expired is found and freed though nobody asks for it.
#[test]
fn expired_items_are_swept() {
    let mut server = Server::new(limits());
    for at in 0..1000 {
        server.ask(&format!("set k{at} 0 {} 1\nx\n", if at % 2 == 0 { 5 } else { 0 }));
    }
    server.uptime = 5;
    let swept: usize = (0..20).map(|_| server.store.sweep(100, server.context().clock)).sum();
    assert_eq!((swept, server.store.totals().items), (500, 500));
}

/// Whenever an item was given its date, or another one, and wherever the search was then: once that second has come it is freed. What has no date stays.
#[test]
fn no_date_is_overlooked_by_the_search() {
    let mut server = Server::new(Limits { shards: 1, ..limits() });
    let sweep = |server: &Server, items: usize| server.store.sweep(items, server.context().clock);
    for at in 0..100 {
        server.ask(&format!("set k{at} 0 {} 1\nx\n", [0, 10, 20, 30][at % 4]));
    }
    assert_eq!(sweep(&server, 200), 0);
    server.uptime = 10;
    assert_eq!(sweep(&server, 200), 25);
    // Amid a search: the oldest, which it has passed, is given a date; so is what it hasn't come to, and something new.
    server.uptime = 20;
    for at in (0..100).step_by(4).chain((3..100).step_by(4)) {
        assert_eq!(server.ask(&format!("mg k{at} s\n")), "HD s1\n");
    }
    assert_eq!(sweep(&server, 30), 25);
    assert_eq!(server.ask("touch k0 5\ntouch k96 6\nset new 0 7 1\nx\n"), "TOUCHED\nTOUCHED\nSTORED\n");
    assert_eq!(sweep(&server, 200), 0);
    for (second, freed) in [(24, 0), (25, 1), (26, 1), (27, 1), (29, 0), (30, 25), (1000, 0)] {
        server.uptime = second;
        assert_eq!(sweep(&server, 200), freed, "at {second}");
    }
    assert_eq!(server.store.totals().items, 23);
}

/// Memory is the quota, and what was used longest ago makes room; what is read stays.
#[test]
fn what_is_used_stays_and_memory_is_bounded() {
    let mut server = Server::new(Limits { memory: 1 << 20, longest_value: 64 << 10, ..limits() });
    server.ask("set loved 0 0 4\nkept\n");
    for at in 0..5000 {
        server.uptime = at / 10;
        let value = "v".repeat((at as usize * 37) % 3000);
        assert_eq!(server.ask(&format!("set k{at} 0 0 {}\n{value}\n", value.len())), "STORED\n");
        assert!(server.ask("get loved\n").starts_with("VALUE"), "evicted after {at}");
        let totals = server.store.totals();
        assert!(totals.bytes <= totals.limit && totals.limit <= 1 << 20);
    }
    assert!(server.store.totals().counts.evictions > 1000);
    assert!(server.ask("get k4999\n").starts_with("VALUE") && server.ask("get k1\n") == "END\n");
}

/// A store that may lose nothing refuses what doesn't fit, and keeps the rest.
#[test]
fn without_eviction_a_full_store_refuses() {
    let server = Server::new(Limits { memory: 1 << 20, shards: 1, evict: false, ..limits() });
    let value = "v".repeat(100_000);
    let set = |key: &str| server.ask(&format!("set {key} 0 0 {}\n{value}\n", value.len()));
    let stored = (0..20).take_while(|at| set(&format!("k{at}")) == "STORED\n").count();
    assert!((5..10).contains(&stored));
    assert_eq!(set("more"), "SERVER_ERROR out of memory storing object\n");
    assert_eq!(set("k0"), "STORED\n", "what takes the place of as much fits");
    assert!((0..stored).all(|at| server.ask(&format!("get k{at}\n")).starts_with("VALUE")));
}

/// Clients that begin large values and don't send them hold no more memory together than is set aside; who comes then is told, and small requests go on.
#[test]
fn unfinished_values_hold_bounded_memory() {
    let server = Server::new(Limits { incoming: 3 << 20, ..limits() });
    let mut sessions: Vec<Session> = (0..5).map(|_| Session::default()).collect();
    let answers: Vec<_> = sessions
        .iter_mut()
        .map(|session| server.send(session, format!("set a 0 0 {}\r\nbegin", MIB - 100).as_bytes(), &[99]).0)
        .collect();
    let refused = answers.iter().filter(|answer| answer.starts_with(b"SERVER_ERROR out of memory")).count();
    assert_eq!(refused, 2);
    assert!(sessions.iter().map(Session::held).sum::<usize>() < (3 << 20) + 5 * 2 * OWN_BUFFER);
    assert_eq!(server.ask("set b 0 0 1\nx\nget b\n"), "STORED\nVALUE b 0 1\nx\nEND\n");
    drop(sessions);
    assert!(server.store.reserve(3 << 20).is_some(), "what was set aside comes back when a client goes");
}

/// A retrieval of many large values is answered piece by piece: no more than one value waits beyond what is enough.
#[test]
fn answers_wait_until_the_client_takes_them() {
    let server = Server::new(limits());
    let value = "v".repeat(100_000);
    server.ask(&format!("set a 0 0 100000\n{value}\n"));
    let mut session = Session::default();
    let line = format!("get{}\r\n", " a".repeat(1000));
    session.receive(line.as_bytes());
    let (mut values, mut most) = (0, 0);
    loop {
        let mut out = Vec::new();
        let wants = session.work(&server.context(), &mut out, 64 * 1024);
        values += out.windows(6).filter(|window| *window == b"VALUE ").count();
        most = most.max(out.len());
        if wants == Wants::Input {
            break;
        }
    }
    assert_eq!(values, 1000);
    assert!(most < 64 * 1024 + 101_000);
}

/// Who sends no line's end speaks something else, or wants our memory; only a retrieval's line may be long, and not without end.
#[test]
fn endless_lines_are_cut_off() {
    let server = Server::new(limits());
    let (answer, closed) = server.send(&mut Session::default(), &b"x".repeat(5000), &[100]);
    assert!(answer.is_empty() && closed);
    let long = [b"get ".to_vec(), b"k ".repeat(20_000), b"\r\n".to_vec()].concat();
    let (answer, closed) = server.send(&mut Session::default(), &long, &[1000]);
    assert!(answer == b"END\r\n" && !closed);
    let (answer, closed) =
        server.send(&mut Session::default(), &[b"get ".to_vec(), b"k ".repeat(200_000)].concat(), &[1000]);
    assert!(answer == b"SERVER_ERROR out of memory reading request\r\n" && closed);
    let (answer, closed) = server.send(&mut Session::default(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[1000]);
    assert!(answer.is_empty() && closed, "a browser is no client");
}

/// UDP: requests of one datagram, answers in numbered pieces, too long ones refused, and anything else unanswered.
#[test]
fn datagrams_carry_their_frame_header() {
    let server = Server::new(limits());
    let ask = |request: &[u8]| {
        let mut pieces = Vec::new();
        let taken = datagram::answer(&server.context(), request, 60_000, |piece| pieces.push(piece.to_vec()));
        (taken, pieces)
    };
    let (_, pieces) = ask(b"\x12\x34\0\0\0\x01\0\0set a 0 0 1\r\nx\r\nget a\r\n");
    assert_eq!(pieces, [b"\x12\x34\0\0\0\x01\0\0STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"]);
    server.ask(&format!("set big 0 0 5000\n{}\n", "v".repeat(5000)));
    let (_, pieces) = ask(b"\0\x07\0\0\0\x01\0\0get big\r\n");
    assert!(
        pieces
            .iter()
            .enumerate()
            .all(|(at, piece)| piece[..8] == [0, 7, 0, at as u8, 0, 4, 0, 0] && piece.len() <= datagram::LONGEST)
    );
    let answer: Vec<u8> = pieces.iter().flat_map(|piece| piece[8..].to_vec()).collect();
    assert_eq!(answer.len(), "VALUE big 0 5000\r\n".len() + 5000 + "\r\nEND\r\n".len());
    server.ask(&format!("set huge 0 0 70000\n{}\n", "v".repeat(70000)));
    let (_, pieces) = ask(b"\0\x07\0\0\0\x01\0\0get huge\r\n");
    assert_eq!(&pieces[0][8..], b"SERVER_ERROR response too large for UDP\r\n");
    for none in [b"".as_slice(), b"\0\0\0\0", b"\0\0\0\0\0\x01\0\0", b"\0\0\0\0\0\x02\0\0get a\r\n"] {
        assert_eq!(ask(none), (false, vec![]));
    }
}

/// Counters add up to what was done.
#[test]
fn statistics_count_what_happened() {
    let server = Server::new(limits());
    server.ask(
        "set a 0 0 1\n1\nget a\nget b\nincr a 1\ndecr x 1\ndelete a\ntouch a 0\ncas a 0 0 1 1\nx\nmg a\nms b 1\nx\n",
    );
    let stats = server.ask("stats\n");
    for line in [
        "cmd_get 3",
        "get_hits 1",
        "get_misses 2",
        "cmd_set 3",
        "incr_hits 1",
        "decr_misses 1",
        "delete_hits 1",
        "touch_misses 1",
        "cas_misses 1",
        "cmd_meta 2",
        "curr_items 1",
        "total_items 2",
        "bytes 128",
    ] {
        assert!(stats.contains(&format!("STAT {line}\n")), "{line} is not in {stats}");
    }
    assert!(stats.ends_with("END\n"));
    assert_eq!(server.ask("stats reset\n"), "RESET\n");
    assert!(server.ask("stats\n").contains("STAT cmd_get 0\n"));
}

/// Commands and pieces of commands, so that noise looks like a client.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "get ",
        "gets ",
        "set ",
        "add ",
        "cas ",
        "incr ",
        "mg ",
        "ms ",
        "md ",
        "ma ",
        "me ",
        "gat ",
        "touch ",
        "delete ",
        "flush_all ",
        "stats ",
        "a ",
        "b ",
        "0 ",
        "1 ",
        "5 ",
        "-1 ",
        "noreply",
        "v ",
        "k ",
        "q ",
        "N30 ",
        "T5 ",
        "E7 ",
        "C7 ",
        "I ",
        "x ",
        "MA ",
        "b ",
        "Zm9v ",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "xxxxx\r\n",
        " ",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a client sends, the store answers in whole lines, or values, or closes; and where packets are cut changes nothing.
    #[test]
    fn no_bytes_make_it_panic(fragments in proptest::collection::vec(fragment(), 0..120), pieces in proptest::collection::vec(1usize..50, 1..5)) {
        let bytes = fragments.concat();
        let whole = Server::new(limits()).send(&mut Session::default(), &bytes, &[usize::MAX]);
        let cut = Server::new(limits()).send(&mut Session::default(), &bytes, &pieces);
        prop_assert!(whole.0.is_empty() || whole.0.ends_with(b"\r\n"));
        prop_assert_eq!(whole, cut);
    }
}
