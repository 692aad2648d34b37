//! Connections: what clients do that no table of requirements has, by chance and by intent.

mod site;

use httpd::{
    connection::{Connection, Service, Wants},
    head::{self, HeadLimits, Name},
};
use proptest::prelude::*;
use site::{LIMITS, content, converse, send, service};

/// TCP has no messages: the answers are the same however the bytes come.
#[test]
fn the_cuts_between_packets_mean_nothing() {
    let content = content();
    let request = b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\n\
                    GET /hello.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2,5-6\r\n\r\nBAD\r\n\r\n";
    let whole = send(&content, request, &[usize::MAX]);
    assert_eq!(whole.text().matches("HTTP/1.1 ").count(), 4);
    for pieces in [&[1][..], &[2, 3, 5], &[60, 1]] {
        assert_eq!(send(&content, request, pieces).bytes, whole.bytes);
    }
}

/// A large file is copied only as fast as it is taken, and whole.
#[test]
fn a_large_file_comes_piece_by_piece() {
    let answers = send(&content(), b"GET /big.bin HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &[usize::MAX]);
    let (head, body) =
        answers.bytes.split_at(answers.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4);
    assert!(
        String::from_utf8_lossy(head).contains("Content-Length: 300000\r\n") && body.len() == 300_000 && answers.closed
    );
}

/// A client that dawdles over a request is told so and let go; one that is silent between requests is just let go. What it can make us hold is a head's length.
#[test]
fn slow_clients_hold_little_and_are_dropped() {
    let content = content();
    let mut slow = Connection::default();
    let answers = converse(&content, &mut slow, b"GET /hello.txt HTTP/1.1\r\nHost: h\r\nX: 1", &[1]);
    assert!(answers.bytes.is_empty() && slow.amid_request() && slow.room(&LIMITS) < LIMITS.head.head);
    let mut out = Vec::new();
    slow.time_out(&service(&content), &mut out);
    assert!(out.starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
    assert_eq!(slow.work(&service(&content), &mut out, usize::MAX), Wants::Close);

    let mut silent = Connection::default();
    converse(&content, &mut silent, b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n", &[99]);
    assert!(!silent.amid_request());
    out.clear();
    silent.time_out(&service(&content), &mut out);
    assert!(out.is_empty() && silent.work(&service(&content), &mut out, usize::MAX) == Wants::Close);
}

/// A head without end, in one line or in many, is cut off at its limit.
#[test]
fn endless_heads_are_cut_off() {
    let content = content();
    for (endless, status) in [(b"GET /".to_vec(), "414"), (b"GET / HTTP/1.1\r\nX: ".to_vec(), "431")] {
        let answers = send(&content, &[endless, vec![b'a'; 100_000]].concat(), &[1000]);
        assert!(answers.closed && answers.text().starts_with(&format!("HTTP/1.1 {status} ")), "{}", answers.text());
    }
    let lines = [b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(10_000)].concat();
    assert!(send(&content, &lines, &[1000]).text().starts_with("HTTP/1.1 431 "));
}

/// A connection has an end: after its last request it says so.
#[test]
fn the_last_request_closes() {
    let request = b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n".repeat(150);
    let answers = send(&content(), &request, &[usize::MAX]);
    assert_eq!(answers.text().matches("404 Not Found\r\n").count(), LIMITS.requests as usize);
    assert!(answers.closed && answers.text().matches("Connection: close").count() == 1);
}

/// The log has what was asked for, without what a terminal or a log's reader would take for more.
#[test]
fn every_answer_is_logged() {
    let content = content();
    let mut connection = Connection::default();
    converse(
        &content,
        &mut connection,
        b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\nG\x1b[2J\" x\r\n\r\n",
        &[usize::MAX],
    );
    let lines: Vec<String> = connection.take_log().map(|access| access.to_string()).collect();
    assert_eq!(lines, ["\"GET /hello.txt HTTP/1.1\" 200 25", "\"HEAD / HTTP/1.1\" 200 0", "\"G?[2J? x\" 400 16"]);
    assert_eq!(connection.take_log().count(), 0);
    // A server without an access log counts its answers all the same, and keeps no line.
    let unlogged = Service { lines: false, ..service(&content) };
    connection = Connection::default();
    connection.receive(b"GET /hello.txt HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(connection.work(&unlogged, &mut Vec::new(), usize::MAX), Wants::Input);
    let kept: Vec<String> = connection.take_log().map(|access| access.to_string()).collect();
    assert_eq!(kept, ["\"\" 200 25"]);
}

/// Pieces of requests, well-formed and not, so that noise looks like a client.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "GET ",
        "HEAD ",
        "OPTIONS ",
        "PUT ",
        "/hello.txt",
        "/",
        "*",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: h\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Range: bytes=1-3,7-9\r\n",
        "If-None-Match: *\r\n",
        "Expect: 100-continue\r\n",
        "Accept-Encoding: gzip;q=0.5\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "abc",
        ":",
        " ",
        "\t",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    prop_oneof![
        9 => proptest::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever comes, and however it is cut, the answers are whole, the same, and no more than were asked for.
    #[test]
    fn no_bytes_make_it_panic(fragments in proptest::collection::vec(fragment(), 0..60), pieces in proptest::collection::vec(1usize..40, 1..5)) {
        let content = content();
        let bytes = fragments.concat();
        let whole = send(&content, &bytes, &[usize::MAX]);
        let cut = send(&content, &bytes, &pieces);
        prop_assert_eq!(whole.text(), cut.text());
        prop_assert_eq!(whole.closed, cut.closed);
        prop_assert!(whole.text().matches("HTTP/1.1 ").count() <= 2 * bytes.iter().filter(|&&byte| byte == b'\n').count() + 1);
    }

    /// What we take for a head another careful reader takes for the same one: `httparse` is what hyper reads with.
    #[test]
    fn heads_are_read_as_others_read_them(fragments in proptest::collection::vec(fragment(), 1..12)) {
        let bytes = fragments.concat();
        let limits = HeadLimits { line: 4096, head: 4096, fields: 60 };
        if let Ok(Some((ours, len))) = head::read(&bytes, &limits) {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut theirs = httparse::Request::new(&mut fields);
            let status = theirs.parse(&bytes);
            prop_assert_eq!(status, Ok(httparse::Status::Complete(len)));
            prop_assert_eq!(theirs.path.map(str::as_bytes), Some(ours.target));
            prop_assert_eq!(theirs.version, Some(ours.minor.min(1)));
            for &name in Name::ALL {
                let mine: Vec<&[u8]> = ours.values(name).collect();
                let of_name = |field: &&httparse::Header| field.name.as_bytes().eq_ignore_ascii_case(name.text());
                let others: Vec<&[u8]> = theirs.headers.iter().filter(of_name).map(|field| field.value).collect();
                prop_assert_eq!(mine, others);
            }
        }
    }
}
