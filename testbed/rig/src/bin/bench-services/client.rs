//! The load generator: so many connections that stay open, each with one request under way. A *round* is one request of each, and ends when all are answered, byte by byte as they
//! should be.
//!
//! Its TCP is smoltcp, as its authors mean it to be used.

use std::{collections::VecDeque, fmt, ops::Range, time::Instant};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant as Moment,
    wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address},
};

use crate::link::{Link, turn};

/// The server's address, and the generator's on the same segment.
pub const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 1, 3);
const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 1, 254);
pub const PREFIX: u8 = 24;
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0xFE]);
/// Of its ports, which are taken in turn.
const FIRST_PORT: u16 = 40_000;
/// What a connection holds of an answer, and of a request.
const RECEIVE_BUFFER: usize = 128 << 10;
const SEND_BUFFER: usize = 16 << 10;
/// A shorter frame is padded (IEEE 802.3 §4.2.3.3); without its check sequence.
const SHORTEST: usize = 60;
/// Until a server listens, and an answer comes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A request, and what is to be answered to it, but for the bytes at `free`: a date, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub request: Vec<u8>,
    pub answer: Vec<u8>,
    pub free: Vec<Range<usize>>,
}

impl Question {
    pub fn new(request: Vec<u8>, answer: Vec<u8>) -> Question {
        Question { request, answer, free: vec![] }
    }

    /// Whether `bytes` are the answer's from `at` on.
    pub fn check(&self, at: usize, bytes: &[u8]) -> Result<(), Wrong> {
        let right = self.answer.get(at..at + bytes.len());
        let same = right.is_some_and(|right| {
            right == bytes
                || (at..)
                    .zip(right.iter().zip(bytes))
                    .all(|(at, (right, given))| right == given || self.free.iter().any(|free| free.contains(&at)))
        });
        if same { Ok(()) } else { Err(Wrong { request: self.request.clone(), at, given: bytes.to_vec() }) }
    }
}

/// An answer that isn't what it should be, from a byte on; or none.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub request: Vec<u8>,
    pub at: usize,
    pub given: Vec<u8>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let (request, given) = (shown(&self.request), shown(&self.given));
        match self.given.is_empty() {
            true => write!(f, "no answer to {request:?} after byte {}", self.at),
            false => write!(f, "the answer to {request:?} is wrong from byte {} on: {given:?}", self.at),
        }
    }
}

/// What rounds have cost the far side.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub requests: u64,
    /// CPU time of the far side's own, nanoseconds.
    pub busy: u64,
    /// Cycles of the far side's on the generator's CPU.
    pub receiving: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    /// Cycles from handing a request over to the last byte of its answer, without the generator's own time.
    pub latencies: Vec<u64>,
}

struct Connection {
    socket: SocketHandle,
    /// Of the answer, so many bytes have come.
    got: usize,
    answered: bool,
}

pub struct Client<L> {
    link: L,
    interface: Interface,
    frames: Frames,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    next_port: u16,
    began: Instant,
    /// Cycles that turns have taken.
    time: u64,
    /// The far side's time up to which all has been counted.
    counted: u64,
    cost: Cost,
}

impl<L: Link> Client<L> {
    pub fn new(link: L) -> Client<L> {
        let mut frames = Frames::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ethernet(MAC)), &mut frames, Moment::ZERO);
        interface
            .update_ip_addrs(|addresses| addresses.push(IpCidr::new(CLIENT.into(), PREFIX)).expect("room for one"));
        Client {
            link,
            interface,
            frames,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            next_port: FIRST_PORT,
            began: Instant::now(),
            time: 0,
            counted: 0,
            cost: Cost::default(),
        }
    }

    /// Opens so many connections, as soon as somebody listens.
    pub fn connect(&mut self, count: usize, port: u16) -> Result<(), String> {
        for _ in 0..count {
            let buffer = |len| SocketBuffer::new(vec![0; len]);
            let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
            socket.set_nagle_enabled(false);
            let socket = self.sockets.add(socket);
            self.connections.push(Connection { socket, got: 0, answered: false });
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut all = true;
            for at in 0..self.connections.len() {
                let handle = self.connections[at].socket;
                let state = self.sockets.get::<Socket>(handle).state();
                all &= state == State::Established;
                // Nobody listens yet, or it was refused.
                if state == State::Closed {
                    self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
                    let socket = self.sockets.get_mut::<Socket>(handle);
                    let asked = socket.connect(self.interface.context(), (SERVER, port), self.next_port);
                    asked.map_err(|error| format!("connecting: {error}"))?;
                }
            }
            if all {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("nobody answers at {SERVER}, port {port}"));
            }
            self.turn(&[]).map_err(|wrong| wrong.to_string())?;
            // A server that starts isn't asked all the time.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What has been spent since this was asked last.
    pub fn take_cost(&mut self) -> Cost {
        std::mem::take(&mut self.cost)
    }

    /// Each connection, in their order, asks one of these, and gets its answer.
    pub fn round(&mut self, questions: &[&Question]) -> Result<(), Wrong> {
        let begun = self.time;
        for (connection, question) in self.connections.iter_mut().zip(questions) {
            let sent = self.sockets.get_mut::<Socket>(connection.socket).send_slice(&question.request);
            if sent != Ok(question.request.len()) {
                return Err(Wrong { request: question.request.clone(), at: 0, given: vec![] });
            }
            (connection.got, connection.answered) = (0, false);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut left = questions.len();
        while left > 0 {
            for ended in self.turn(questions)? {
                self.cost.latencies.push(ended - begun);
                left -= 1;
            }
            let silent = self.connections.iter().zip(questions).find(|(connection, _)| !connection.answered);
            if let Some((connection, question)) = silent.filter(|_| Instant::now() > deadline) {
                return Err(Wrong { request: question.request.clone(), at: connection.got, given: vec![] });
            }
        }
        self.cost.requests += questions.len() as u64;
        Ok(())
    }

    /// Sends one request on the first connection, and gives what has come when `complete` says that it is all.
    pub fn ask(&mut self, request: &[u8], complete: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Wrong> {
        let silent = |got: &[u8]| Wrong { request: request.to_vec(), at: 0, given: got.to_vec() };
        let handle = self.connections[0].socket;
        let sent = self.sockets.get_mut::<Socket>(handle).send_slice(request);
        let (mut got, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while !complete(&got) {
            if sent != Ok(request.len()) || Instant::now() > deadline {
                return Err(silent(&got));
            }
            self.turn(&[])?;
            let socket = self.sockets.get_mut::<Socket>(handle);
            let taken = socket.recv(|bytes| {
                got.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            taken.map_err(|_| silent(&got))?;
        }
        Ok(got)
    }

    fn now(&self) -> Moment {
        Moment::from_micros(self.began.elapsed().as_micros() as i64)
    }

    /// A turn with all that there is to send; what has come is looked at. Returns when answers were complete, in turns' time.
    fn turn(&mut self, questions: &[&Question]) -> Result<Vec<u64>, Wrong> {
        while self.interface.poll_egress(self.now(), &mut self.frames, &mut self.sockets) != PollResult::None {}
        self.cost.frames_in += self.frames.outgoing.len() as u64;
        let turn = turn(&mut self.link, &mut self.frames.outgoing, &mut self.counted);
        self.cost.busy += turn.busy;
        self.cost.receiving += turn.receiving;
        self.cost.frames_out += turn.frames.len() as u64;
        let mut ended = Vec::new();
        for (frame, at) in turn.frames {
            self.frames.incoming = Some(frame);
            let _ = self.interface.poll_ingress_single(self.now(), &mut self.frames, &mut self.sockets);
            for (connection, question) in self.connections.iter_mut().zip(questions) {
                let socket = self.sockets.get_mut::<Socket>(connection.socket);
                while socket.can_recv() {
                    let checked = socket.recv(|bytes| {
                        let checked = question.check(connection.got, bytes);
                        connection.got += bytes.len();
                        (bytes.len(), checked)
                    });
                    checked.expect("it can receive")?;
                }
                if !connection.answered && connection.got == question.answer.len() {
                    connection.answered = true;
                    ended.push(self.time + at);
                }
            }
        }
        self.time += turn.cycles;
        Ok(ended)
    }
}

/// What smoltcp takes for a device: one frame that has come, and all that are to go.
#[derive(Default)]
struct Frames {
    incoming: Option<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for Frames {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Place<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Frame, Place<'_>)> {
        Some((Frame(self.incoming.take()?), Place(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Place<'_>> {
        Some(Place(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        // Every byte of an answer is looked at anyway; and who offloads sums to its card leaves them to that.
        capabilities.checksum = ChecksumCapabilities::default();
        (capabilities.checksum.ipv4, capabilities.checksum.tcp) = (Checksum::Tx, Checksum::Tx);
        capabilities
    }
}

struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Place<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len.max(SHORTEST)];
        let result = f(&mut frame[..len]);
        self.0.push_back(frame);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The judge of every figure: an answer that is wrong in one byte, or too long, is found wherever it is cut; what may differ may.
    #[test]
    fn a_wrong_byte_is_found() {
        let question = Question { request: b"ask".to_vec(), answer: b"Date: now\r\nbody".to_vec(), free: vec![6..9] };
        let all = |given: &[u8], cut: usize| {
            question.check(0, &given[..cut]).and_then(|()| question.check(cut, &given[cut..]))
        };
        for cut in 0..=15 {
            assert_eq!(all(b"Date: now\r\nbody", cut), Ok(()));
            assert_eq!(all(b"Date: ...\r\nbody", cut), Ok(()));
            for wrong in (0..6).chain(9..15) {
                let mut given = b"Date: now\r\nbody".to_vec();
                given[wrong] ^= 1;
                assert!(all(&given, cut).is_err(), "byte {wrong}, cut at {cut}");
            }
            assert!(all(b"Date: now\r\nbody.", cut).is_err());
        }
    }
}
