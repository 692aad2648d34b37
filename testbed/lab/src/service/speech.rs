//! What a service's clients say to it, and what the answer has to be.

use super::history::{Operation, Recorder, Result as Seen};
use crate::clock::Moment;
use crate::options::ServiceKind;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Of a shared key's value: short, so that what is measured is the store and not the wire.
const SHARED_KEYS: u8 = 6;

/// IPv6 and UDP.
const HEADERS: usize = 40 + 8;

/// A client's way with one kind of service.
pub struct Speaker<'a> {
    pub kind: ServiceKind,
    /// Where operations on shared keys are written down; without it there are none.
    pub history: Option<Recorder<'a>>,
    /// Of the link: requests and answers have up to three packets of it, or four.
    pub mtu: usize,
}

impl Speaker<'_> {
    /// One request and its answer, every byte of which is checked; of a store also an operation on a key that all clients share.
    pub fn exchange(&self, stream: &mut TcpStream, random: &mut fastrand::Rng) -> Result<(), String> {
        match self.kind {
            ServiceKind::Echo => {
                let sent: Vec<u8> = (0..random.usize(1..4 * self.mtu)).map(|_| random.u8(..)).collect();
                say(stream, &sent)?;
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back).map_err(|error| format!("receive: {error}"))?;
                if back == sent { Ok(()) } else { Err("what came back isn't what was sent".to_owned()) }
            }
            ServiceKind::Memcached => {
                let key = format!("lab-{:016x}", random.u64(..));
                let value: String = (0..random.usize(1..3 * self.mtu)).map(|_| random.alphanumeric()).collect();
                say(stream, format!("set {key} 0 60 {}\r\n{value}\r\n", value.len()).as_bytes())?;
                expect(stream, b"STORED\r\n")?;
                say(stream, format!("get {key}\r\n").as_bytes())?;
                expect(stream, format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len()).as_bytes())?;
                // Gone again: a durable store gives nothing up to make room, and a run lasts as long as its user likes.
                say(stream, format!("delete {key}\r\n").as_bytes())?;
                expect(stream, b"DELETED\r\n")?;
                self.share(stream, random)
            }
            ServiceKind::Http => {
                say(stream, b"GET / HTTP/1.1\r\nHost: box\r\n\r\n")?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).map_err(|error| format!("receive: {error}"))?;
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                if !head.starts_with("http/1.1 200 ") {
                    return Err(format!("answered {:?}", head.lines().next().unwrap_or_default()));
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                let mut body = vec![0; length.ok_or("an answer without its length")?];
                stream.read_exact(&mut body).map_err(|error| format!("receive: {error}"))?;
                // The page ends so; what is cut off, or out of step, doesn't.
                if body.ends_with(b"</html>\n") { Ok(()) } else { Err("the page isn't whole".to_owned()) }
            }
        }
    }

    /// An operation on a key that other clients use at the same time, written down with its begin, its end, and what came of it. Every value is written only once, so a
    /// value tells who wrote it.
    fn share(&self, stream: &mut TcpStream, random: &mut fastrand::Rng) -> Result<(), String> {
        let Some(recorder) = &self.history else { return Ok(()) };
        let key = random.u8(..SHARED_KEYS);
        let value = random.u64(1..);
        let operation = match random.u8(..10) {
            0..3 => Operation::Set(value),
            3 => Operation::Add(value),
            4 => Operation::Delete,
            5 | 6 => return self.compare_and_swap(recorder, stream, key, value),
            _ => Operation::Get,
        };
        let entry = recorder.begin(key, operation);
        let line = match operation {
            Operation::Set(value) => format!("set shared-{key} 0 0 16\r\n{value:016x}\r\n"),
            Operation::Add(value) => format!("add shared-{key} 0 0 16\r\n{value:016x}\r\n"),
            Operation::Delete => format!("delete shared-{key}\r\n"),
            Operation::Get | Operation::Swap { .. } | Operation::Wipe => format!("get shared-{key}\r\n"),
        };
        say(stream, line.as_bytes())?;
        let seen = if operation == Operation::Get {
            Seen::Value(answered_value(stream, key, "get")?.map(|(value, _)| value))
        } else {
            match read_line(stream)?.as_str() {
                "STORED" | "DELETED" => Seen::Done,
                "NOT_STORED" | "NOT_FOUND" => Seen::Refused,
                other => return Err(format!("{operation:?} was answered by {other:?}")),
            }
        };
        recorder.end(entry, seen, Moment::now());
        Ok(())
    }

    fn compare_and_swap(&self, recorder: &Recorder, stream: &mut TcpStream, key: u8, value: u64) -> Result<(), String> {
        let entry = recorder.begin(key, Operation::Get);
        say(stream, format!("gets shared-{key}\r\n").as_bytes())?;
        let found = answered_value(stream, key, "gets")?;
        recorder.end(entry, Seen::Value(found.as_ref().map(|(value, _)| *value)), Moment::now());
        let Some((expected, unique)) = found else { return Ok(()) };
        let entry = recorder.begin(key, Operation::Swap { expected, value });
        say(stream, format!("cas shared-{key} 0 0 16 {unique}\r\n{value:016x}\r\n").as_bytes())?;
        let seen = match read_line(stream)?.as_str() {
            "STORED" => Seen::Done,
            "EXISTS" | "NOT_FOUND" => Seen::Refused,
            other => return Err(format!("cas was answered by {other:?}")),
        };
        recorder.end(entry, seen, Moment::now());
        Ok(())
    }
}

impl ServiceKind {
    /// A datagram that asks something on a link of that MTU, and the answer to it.
    pub fn datagram(self, mtu: usize, random: &mut fastrand::Rng) -> (Vec<u8>, Vec<u8>) {
        match self {
            ServiceKind::Memcached => {
                // protocol.txt, "UDP protocol": request id, number of this datagram, how many there are, and a reserved word.
                let [high, low] = random.u16(..).to_be_bytes();
                let framed = |text: &str| [&[high, low, 0, 0, 0, 1, 0, 0], text.as_bytes()].concat();
                let key = format!("lab-udp-{:016x}", random.u64(..));
                (framed(&format!("set {key} 0 60 5\r\nvalue\r\n")), framed("STORED\r\n"))
            }
            ServiceKind::Echo | ServiceKind::Http => {
                let bytes: Vec<u8> = (0..random.usize(1..mtu - HEADERS)).map(|_| random.u8(..)).collect();
                (bytes.clone(), bytes)
            }
        }
    }
}

fn say(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).map_err(|error| format!("send: {error}"))
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> Result<(), String> {
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).map_err(|error| format!("receive: {error}"))?;
    if answer == expected { Ok(()) } else { Err("the answer isn't what is due".to_owned()) }
}

/// A line without its end.
fn read_line(stream: &mut TcpStream) -> Result<String, String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|error| format!("receive: {error}"))?;
        line.push(byte[0]);
        if line.len() > 512 {
            return Err("a line of the answer has no end".into());
        }
    }
    Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
}

/// The answer to a `get` or `gets` of one shared key: its value and unique number, if it is there.
fn answered_value(stream: &mut TcpStream, key: u8, asked: &str) -> Result<Option<(u64, String)>, String> {
    let head = read_line(stream)?;
    if head == "END" {
        return Ok(None);
    }
    let wrong = || format!("{asked} was answered by {head:?}");
    let rest = head.strip_prefix(&format!("VALUE shared-{key} 0 16")).ok_or_else(wrong)?;
    let body = read_line(stream)?;
    let value = u64::from_str_radix(&body, 16).map_err(|_| wrong())?;
    match read_line(stream)?.as_str() {
        "END" => Ok(Some((value, rest.trim().to_owned()))),
        _ => Err(wrong()),
    }
}
