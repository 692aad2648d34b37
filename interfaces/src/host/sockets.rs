//! A network stack in memory, for tests of services on the host: [`Network::stack`] is what the service imports, and the test plays its peers.
//!
//! ```
//! # use interfaces::{host, host::sockets::{Limits, Network}, socket::{Event, Local, NetStack, Round, Sockets}};
//! # host::connect();
//! let network = Network::new(Limits::default());
//! let mut sockets = network.stack().open(0).unwrap();
//! sockets.listen(Local::port(7), 16).unwrap();
//!
//! let mut peer = network.connect(0, 7).expect("the service listens");
//! peer.send(b"hello");
//! let mut round = sockets.exchange(Round::allocate().unwrap(), 0).unwrap();
//! let [Event::Accepted { .. }, Event::Received { socket, bytes }] = *round.events() else { panic!() };
//! let words = round.bytes(bytes).to_vec();
//! assert_eq!(round.send(socket, &words), 5);
//! sockets.exchange(round, 0).unwrap();
//! assert_eq!(peer.receive(), b"hello");
//! ```
//!
//! What it promises: events come in the order and with the meaning that `socket` gives them; bytes come in pieces of [`Limits::segment`] at most, and a service that
//! sends beyond its room is found out. It has no time: a peer takes what is sent when the test calls [`Peer::receive`].

use alloc::{boxed::Box, collections::VecDeque, string::String, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    CallError, Cap, RRef,
    socket::{End, Event, Local, NetStack, Request, Round, SocketError, SocketId, Sockets, SocketsId, StackInfo},
};

/// What the network is like.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub instances: u16,
    /// Bytes that a connection has room for, in either direction.
    pub room: usize,
    /// Bytes that one `Received` brings at most.
    pub segment: usize,
    pub sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { instances: 1, room: 16 * 1024, segment: 1460, sockets: 1024 }
    }
}

/// The network, as the test has it.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    limits: Limits,
    /// What names are known by.
    names: HashMap<String, IpAddr>,
    handles: HashMap<u64, Handle>,
    /// Handles that were opened: the last one's number.
    opened: u64,
    serial: u32,
    /// Peers that connect have ports from here on.
    next_port: u16,
    /// Connections that services asked for, and that no test has looked at.
    asked: VecDeque<(u64, SocketId, SocketAddr)>,
    /// Datagrams that services sent: from which port, to whom, what.
    datagrams: Vec<(u16, SocketAddr, Vec<u8>)>,
}

/// One open `Sockets`.
struct Handle {
    instance: u16,
    woken: bool,
    sockets: Vec<Option<Socket>>,
    /// Events that are due, but for those that come from a connection's state.
    events: VecDeque<Due>,
}

enum Due {
    Event(Event),
    Datagram { socket: SocketId, from: SocketAddr, bytes: Vec<u8> },
}

struct Socket {
    serial: u32,
    kind: Kind,
}

enum Kind {
    Listens(Local),
    Bound(Local),
    Connection(Box<Connection>),
}

#[derive(Default)]
struct Connection {
    to_service: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    /// What the service believes that it may send.
    believed: usize,
    paused: bool,
    /// The peer has finished, and the service has been told so.
    peer_finished: bool,
    told_ended: bool,
    service_finished: bool,
    /// The service is done with it.
    abandoned: bool,
    end: Option<End>,
}

/// The other end of a connection, as the test has it.
pub struct Peer {
    network: Network,
    handle: u64,
    socket: SocketId,
    /// What it got before the service let go of its sockets.
    last: Vec<u8>,
}

impl Network {
    pub fn new(limits: Limits) -> Network {
        let state = State {
            limits,
            names: HashMap::new(),
            handles: HashMap::new(),
            opened: 0,
            serial: 0,
            next_port: 40_000,
            asked: VecDeque::new(),
            datagrams: Vec::new(),
        };
        Network(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// What a service imports; `Port::new(Box::leak(network.stack()))` is a port of it.
    pub fn stack(&self) -> Box<dyn NetStack> {
        Box::new(self.clone())
    }

    /// A peer connects to that port of an instance; none if nobody listens there.
    pub fn connect(&self, instance: u16, port: u16) -> Option<Peer> {
        let mut state = self.lock();
        let (&handle, listener) =
            state.handles.iter().filter(|(_, handle)| handle.instance == instance).find_map(|(number, handle)| {
                handle.find(|kind| matches!(kind, Kind::Listens(local) if local.port == port)).map(|id| (number, id))
            })?;
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), state.next_port);
        state.next_port += 1;
        let room = state.limits.room;
        let connection = Connection { believed: room, ..Connection::default() };
        let socket = state.add(handle, Kind::Connection(Box::new(connection))).ok()?;
        let accepted = Event::Accepted { listener, socket, peer, room: room as u32 };
        state.handles.get_mut(&handle)?.events.push_back(Due::Event(accepted));
        self.0.changed.notify_all();
        Some(self.peer(handle, socket))
    }

    /// The next connection that a service has asked for, and whom it is for. It is there now; [`Peer::reset`] refuses it.
    pub fn accept(&self) -> Option<(SocketAddr, Peer)> {
        let mut state = self.lock();
        let (handle, socket, to) = state.asked.pop_front()?;
        let room = state.limits.room as u32;
        state.connection(handle, socket)?.believed = room as usize;
        let connected = Event::Connected { socket, room };
        state.handles.get_mut(&handle)?.events.push_back(Due::Event(connected));
        self.0.changed.notify_all();
        Some((to, self.peer(handle, socket)))
    }

    /// From now on `name` has an address.
    pub fn name(&self, name: &str, address: IpAddr) {
        self.lock().names.insert(name.into(), address);
    }

    /// A datagram arrives; false if nobody is bound there.
    pub fn datagram(&self, instance: u16, port: u16, from: SocketAddr, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let bound = state.handles.values_mut().filter(|handle| handle.instance == instance).find_map(|handle| {
            handle.find(|kind| matches!(kind, Kind::Bound(local) if local.port == port)).map(|id| (handle, id))
        });
        let Some((handle, socket)) = bound else { return false };
        handle.events.push_back(Due::Datagram { socket, from, bytes: bytes.into() });
        self.0.changed.notify_all();
        true
    }

    /// Datagrams that services have sent since the last time: from which port, to whom, what.
    pub fn datagrams(&self) -> Vec<(u16, SocketAddr, Vec<u8>)> {
        core::mem::take(&mut self.lock().datagrams)
    }

    /// The stack crashes and is started again: all handles are of an earlier generation, all connections are reset.
    pub fn crash(&self) {
        self.lock().handles.clear();
        self.0.changed.notify_all();
    }

    fn peer(&self, handle: u64, socket: SocketId) -> Peer {
        Peer { network: self.clone(), handle, socket, last: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Sends bytes, as many as the connection has room for. Returns how many.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let mut state = self.network.lock();
        let room = state.limits.room;
        let Some(connection) = state.connection(self.handle, self.socket) else { return 0 };
        if connection.end.is_some() || connection.peer_finished {
            return 0;
        }
        let len = if connection.abandoned { bytes.len() } else { bytes.len().min(room - connection.to_service.len()) };
        if !connection.abandoned {
            connection.to_service.extend(&bytes[..len]);
        }
        self.network.0.changed.notify_all();
        len
    }

    /// Takes what the service has sent.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut state = self.network.lock();
        let bytes = match state.connection(self.handle, self.socket) {
            Some(connection) => connection.to_peer.drain(..).collect(),
            None => core::mem::take(&mut self.last),
        };
        self.network.0.changed.notify_all();
        bytes
    }

    /// Finishes sending (FIN).
    pub fn finish(&mut self) {
        if let Some(connection) = self.network.lock().connection(self.handle, self.socket) {
            connection.peer_finished = true;
        }
        self.network.0.changed.notify_all();
    }

    /// Resets the connection.
    pub fn reset(&mut self) {
        if let Some(connection) = self.network.lock().connection(self.handle, self.socket) {
            connection.end.get_or_insert(End::Reset);
        }
        self.network.0.changed.notify_all();
    }

    /// Whether the service has finished sending, all of which has been received.
    pub fn is_finished(&self) -> bool {
        self.network
            .lock()
            .connection(self.handle, self.socket)
            .is_some_and(|connection| connection.service_finished && connection.to_peer.is_empty())
    }

    /// Whether the connection has been reset: by either side, or because the stack crashed or the service is gone.
    pub fn is_reset(&self) -> bool {
        match self.network.lock().connection(self.handle, self.socket) {
            Some(connection) => matches!(connection.end, Some(End::Reset | End::Overrun)),
            None => true,
        }
    }
}

impl State {
    fn add(&mut self, handle: u64, kind: Kind) -> Result<SocketId, SocketError> {
        let limit = self.limits.sockets;
        let handle = self.handles.get_mut(&handle).ok_or(SocketError::Call(CallError::Gone))?;
        let index = handle.sockets.iter().position(Option::is_none).unwrap_or(handle.sockets.len());
        if index >= limit {
            return Err(SocketError::Full);
        }
        self.serial += 1;
        let socket = Some(Socket { serial: self.serial, kind });
        match handle.sockets.get_mut(index) {
            Some(place) => *place = socket,
            None => handle.sockets.push(socket),
        }
        Ok(SocketId { index: index as u32, serial: self.serial })
    }

    fn connection(&mut self, handle: u64, socket: SocketId) -> Option<&mut Connection> {
        self.handles.get_mut(&handle)?.connection(socket)
    }
}

impl Handle {
    fn find(&self, is: impl Fn(&Kind) -> bool) -> Option<SocketId> {
        let place = |(index, socket): (usize, &Option<Socket>)| {
            let socket = socket.as_ref().filter(|socket| is(&socket.kind))?;
            Some(SocketId { index: index as u32, serial: socket.serial })
        };
        self.sockets.iter().enumerate().find_map(place)
    }

    fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.index as usize)?.as_mut().filter(|socket| socket.serial == id.serial)
    }

    fn connection(&mut self, id: SocketId) -> Option<&mut Connection> {
        match &mut self.get(id)?.kind {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    fn serve(
        &mut self,
        round: &Round,
        request: &Request,
        names: &HashMap<String, IpAddr>,
        sent: &mut Vec<(u16, SocketAddr, Vec<u8>)>,
    ) {
        match *request {
            Request::Bytes { socket, bytes } => {
                let Some(connection) = self.connection(socket).filter(|c| !c.service_finished && !c.abandoned) else {
                    return;
                };
                if bytes.len() > connection.believed {
                    connection.end = Some(End::Overrun);
                } else if connection.end.is_none() {
                    connection.believed -= bytes.len();
                    connection.to_peer.extend(round.outgoing(bytes));
                }
            }
            Request::Datagram { socket, to, bytes } => {
                if let Some(Socket { kind: Kind::Bound(local), .. }) = self.get(socket) {
                    sent.push((local.port, to, round.outgoing(bytes).into()));
                }
            }
            Request::Finish { socket } => {
                if let Some(connection) = self.connection(socket) {
                    connection.service_finished = true;
                }
            }
            Request::Close { socket } | Request::Reset { socket } => {
                let reset = matches!(request, Request::Reset { .. });
                match self.get(socket).map(|socket| &mut socket.kind) {
                    Some(Kind::Connection(connection)) => {
                        (connection.service_finished, connection.abandoned) = (true, true);
                        if reset {
                            connection.end.get_or_insert(End::Reset);
                        }
                    }
                    Some(_) => self.sockets[socket.index as usize] = None,
                    None => {}
                }
            }
            Request::Pause { socket } | Request::Resume { socket } => {
                if let Some(connection) = self.connection(socket) {
                    connection.paused = matches!(request, Request::Pause { .. });
                }
            }
            Request::Resolve { question, name, ipv6 } => {
                let name = String::from_utf8_lossy(round.outgoing(name)).into_owned();
                let address = names.get(&name).copied().filter(|address| address.is_ipv6() == ipv6);
                self.events.push_back(Due::Event(Event::Resolved { question, address }));
            }
        }
    }

    /// Fills a round with what has happened.
    fn report(&mut self, round: &mut Round, limits: Limits) {
        while let Some(due) = self.events.pop_front() {
            let put = match &due {
                Due::Event(event) => round.push(*event),
                Due::Datagram { socket, from, bytes } => {
                    let copy = |place: &mut [u8]| {
                        place[..bytes.len()].copy_from_slice(bytes);
                        bytes.len()
                    };
                    let event = |bytes| Event::Datagram { socket: *socket, from: *from, bytes };
                    round.push_bytes(bytes.len(), copy, event)
                }
            };
            if put.is_err() {
                self.events.push_front(due);
                return;
            }
        }
        for index in 0..self.sockets.len() {
            let Some(Socket { serial, kind: Kind::Connection(connection) }) = &mut self.sockets[index] else {
                continue;
            };
            let id = SocketId { index: index as u32, serial: *serial };
            if connection.abandoned {
                continue;
            }
            match connection.report(id, round, limits) {
                // A connection that is over stays for its peer to look at, but is nobody's any more.
                Ok(over) => connection.abandoned = over,
                Err(_) => return,
            }
        }
    }
}

impl Connection {
    /// Whether the connection is over, and the service knows it.
    fn report(
        &mut self,
        socket: SocketId,
        round: &mut Round,
        limits: Limits,
    ) -> Result<bool, crate::socket::RoundFull> {
        while !self.to_service.is_empty() && !self.paused && self.end.is_none() {
            let take = |place: &mut [u8]| {
                let len = self.to_service.len().min(place.len()).min(limits.segment);
                place.iter_mut().zip(self.to_service.drain(..len)).for_each(|(place, byte)| *place = byte);
                len
            };
            round.push_bytes(1, take, |bytes| Event::Received { socket, bytes })?;
        }
        let room = limits.room - self.to_peer.len();
        if self.end.is_none() && self.believed < limits.room / 2 && room > self.believed {
            round.push(Event::Writable { socket, room: room as u32 })?;
            self.believed = room;
        }
        if self.peer_finished && !self.told_ended && self.to_service.is_empty() && self.end.is_none() {
            round.push(Event::Ended { socket })?;
            self.told_ended = true;
        }
        if self.told_ended && self.service_finished && self.to_peer.is_empty() {
            self.end.get_or_insert(End::Finished);
        }
        if let Some(end) = self.end {
            round.push(Event::Closed { socket, end })?;
            return Ok(true);
        }
        Ok(false)
    }
}

impl NetStack for Network {
    fn info(&self) -> Result<StackInfo, SocketError> {
        let limits = self.lock().limits;
        let ipv4 = Some(Ipv4Addr::new(10, 0, 0, 1));
        Ok(StackInfo { instances: limits.instances, sockets: limits.sockets as u32, ipv4, ipv6: None })
    }

    fn open(&self, index: u16) -> Result<Cap<dyn Sockets>, SocketError> {
        let mut state = self.lock();
        if index >= state.limits.instances {
            return Err(SocketError::NoSuchInstance);
        }
        state.opened += 1;
        let number = state.opened;
        let handle = Handle { instance: index, woken: false, sockets: Vec::new(), events: VecDeque::new() };
        state.handles.insert(number, handle);
        Ok(Cap::new(Box::new(MemorySockets { network: self.clone(), number }) as Box<dyn Sockets>))
    }

    fn wake(&self, handle: SocketsId) -> Result<(), SocketError> {
        if let Some(handle) = self.lock().handles.get_mut(&handle.0) {
            handle.woken = true;
        }
        self.0.changed.notify_all();
        Ok(())
    }
}

struct MemorySockets {
    network: Network,
    number: u64,
}

const GONE: SocketError = SocketError::Call(CallError::Gone);
/// As long as a real stack waits at most.
const LONGEST_WAIT: u64 = 20_000_000;

impl MemorySockets {
    fn take_place(&self, local: Local, kind: Kind) -> Result<SocketId, SocketError> {
        let mut state = self.network.lock();
        let instance = state.handles.get(&self.number).ok_or(GONE)?.instance;
        let same = |other: &Kind| match (&kind, other) {
            (Kind::Listens(_), Kind::Listens(taken)) | (Kind::Bound(_), Kind::Bound(taken)) => taken.port == local.port,
            _ => false,
        };
        if state.handles.values().any(|handle| handle.instance == instance && handle.find(same).is_some()) {
            return Err(SocketError::InUse);
        }
        state.add(self.number, kind)
    }
}

impl Sockets for MemorySockets {
    fn id(&mut self) -> Result<SocketsId, SocketError> {
        Ok(SocketsId(self.number))
    }

    fn listen(&mut self, local: Local, _backlog: u32) -> Result<SocketId, SocketError> {
        self.take_place(local, Kind::Listens(local))
    }

    fn bind(&mut self, local: Local) -> Result<SocketId, SocketError> {
        self.take_place(local, Kind::Bound(local))
    }

    fn connect(&mut self, to: SocketAddr) -> Result<SocketId, SocketError> {
        let mut state = self.network.lock();
        let socket = state.add(self.number, Kind::Connection(Box::default()))?;
        state.asked.push_back((self.number, socket, to));
        Ok(socket)
    }

    fn exchange(&mut self, mut round: RRef<Round>, deadline: u64) -> Result<RRef<Round>, SocketError> {
        let deadline = deadline.min(super::now() + LONGEST_WAIT);
        let mut state = self.network.lock();
        let mut sent = Vec::new();
        let State { handles, names, .. } = &mut *state;
        let handle = handles.get_mut(&self.number).ok_or(GONE)?;
        round.requests().iter().for_each(|request| handle.serve(&round, request, names, &mut sent));
        state.datagrams.append(&mut sent);
        round.begin();
        loop {
            let limits = state.limits;
            let handle = state.handles.get_mut(&self.number).ok_or(GONE)?;
            handle.report(&mut round, limits);
            let left = deadline.saturating_sub(super::now());
            if !round.events().is_empty() || core::mem::take(&mut handle.woken) || left == 0 {
                return Ok(round);
            }
            let waited = self.network.0.changed.wait_timeout(state, Duration::from_nanos(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for MemorySockets {
    fn drop(&mut self) {
        self.network.lock().handles.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    fn opened(limits: Limits) -> (Network, Cap<dyn Sockets>, RRef<Round>) {
        host::connect();
        let network = Network::new(limits);
        let sockets = network.stack().open(0).unwrap();
        (network, sockets, Round::allocate().unwrap())
    }

    #[test]
    fn what_a_peer_sends_comes_in_pieces_then_its_end() {
        let (network, mut sockets, round) = opened(Limits { segment: 4, ..Limits::default() });
        let listener = sockets.listen(Local::port(7), 1).unwrap();
        assert_eq!(sockets.listen(Local::port(7), 1), Err(SocketError::InUse));
        assert!(network.connect(0, 8).is_none(), "nobody listens there");
        let mut peer = network.connect(0, 7).unwrap();
        assert_eq!(peer.send(b"123456"), 6);
        peer.finish();
        let mut round = sockets.exchange(round, 0).unwrap();
        let Event::Accepted { listener: by, socket, .. } = round.events()[0] else { panic!("{:?}", round.events()) };
        assert_eq!(by, listener);
        let pieces: Vec<&[u8]> = round.events()[1..3]
            .iter()
            .map(|event| match *event {
                Event::Received { bytes, .. } => round.bytes(bytes),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces, [&b"1234"[..], b"56"]);
        assert_eq!(round.events()[3], Event::Ended { socket });
        round.close(socket).unwrap();
        let round = sockets.exchange(round, 0).unwrap();
        assert!(round.events().is_empty() && peer.is_finished() && !peer.is_reset());
    }

    #[test]
    fn room_is_told_again_when_half_of_it_is_used_and_overrunning_it_is_found_out() {
        let (network, mut sockets, round) = opened(Limits { room: 100, ..Limits::default() });
        sockets.listen(Local::port(7), 1).unwrap();
        let mut peer = network.connect(0, 7).unwrap();
        let mut round = sockets.exchange(round, 0).unwrap();
        let Event::Accepted { socket, room: 100, .. } = round.events()[0] else { panic!("{:?}", round.events()) };
        assert_eq!(round.send(socket, &[1; 80]), 80);
        let round = sockets.exchange(round, 0).unwrap();
        assert!(round.events().is_empty(), "the peer has taken nothing");
        assert_eq!(peer.receive(), [1; 80]);
        let mut round = sockets.exchange(round, 0).unwrap();
        assert_eq!(round.events(), [Event::Writable { socket, room: 100 }]);
        round.send(socket, &[2; 101]);
        let round = sockets.exchange(round, 0).unwrap();
        assert_eq!(round.events(), [Event::Closed { socket, end: End::Overrun }]);
        assert!(peer.is_reset());
    }

    #[test]
    fn a_paused_connection_fills_up_at_its_peer() {
        let (network, mut sockets, round) = opened(Limits { room: 100, ..Limits::default() });
        sockets.listen(Local::port(7), 1).unwrap();
        let mut peer = network.connect(0, 7).unwrap();
        let mut round = sockets.exchange(round, 0).unwrap();
        let Event::Accepted { socket, .. } = round.events()[0] else { panic!("{:?}", round.events()) };
        round.pause(socket).unwrap();
        let mut round = sockets.exchange(round, 0).unwrap();
        assert_eq!((peer.send(&[3; 150]), peer.send(&[3; 50])), (100, 0));
        assert!(round.events().is_empty());
        round.resume(socket).unwrap();
        let round = sockets.exchange(round, 0).unwrap();
        assert!(matches!(round.events(), [Event::Received { bytes, .. }] if bytes.len() == 100));
    }

    #[test]
    fn connections_go_out_and_datagrams_both_ways() {
        let (network, mut sockets, mut round) = opened(Limits::default());
        let there: SocketAddr = "10.9.9.9:99".parse().unwrap();
        let socket = sockets.connect(there).unwrap();
        let (to, _peer) = network.accept().unwrap();
        let bound = sockets.bind(Local::port(53)).unwrap();
        assert_eq!(to, there);
        assert!(network.datagram(0, 53, there, b"question"));
        round.send_to(bound, there, b"answer").unwrap();
        let round = sockets.exchange(round, 0).unwrap();
        assert!(round.events().iter().any(|event| matches!(event, Event::Connected { socket: s, .. } if *s == socket)));
        let datagram = round.events().iter().find_map(|event| match *event {
            Event::Datagram { socket, from, bytes } => Some((socket, from, round.bytes(bytes))),
            _ => None,
        });
        assert_eq!(datagram, Some((bound, there, &b"question"[..])));
        assert_eq!(network.datagrams(), [(53, there, b"answer".to_vec())]);
    }

    #[test]
    fn a_crash_of_the_stack_resets_all_and_handles_err_for_ever() {
        let (network, mut sockets, round) = opened(Limits::default());
        sockets.listen(Local::port(7), 1).unwrap();
        let peer = network.connect(0, 7).unwrap();
        network.crash();
        assert!(peer.is_reset());
        assert!(matches!(sockets.exchange(round, 0), Err(SocketError::Call(CallError::Gone))));
        assert!(matches!(sockets.listen(Local::port(7), 1), Err(SocketError::Call(CallError::Gone))));
        let mut sockets = network.stack().open(0).unwrap();
        sockets.listen(Local::port(7), 1).unwrap();
        assert!(network.connect(0, 7).is_some());
    }

    #[test]
    fn a_wait_ends_by_what_happens_by_a_wake_and_by_itself() {
        let (network, mut sockets, round) = opened(Limits::default());
        let id = sockets.id().unwrap();
        let before = host::now();
        let round = sockets.exchange(round, u64::MAX).unwrap();
        assert!(host::now() - before >= LONGEST_WAIT);
        network.stack().wake(id).unwrap();
        assert!(sockets.exchange(round, u64::MAX).unwrap().events().is_empty());
    }

    #[test]
    fn a_full_round_takes_no_more() {
        host::connect();
        let mut round = Round::allocate().unwrap();
        let socket = |serial| SocketId { index: 0, serial };
        assert_eq!(round.send(socket(1), &[1; Round::SENDS - 10]), Round::SENDS - 10);
        assert_eq!(round.send(socket(1), &[2; 20]), 10);
        assert_eq!((round.requests().len(), round.place()), (1, 0));
        round.begin();
        for i in 0..Round::REQUESTS as u32 {
            assert_eq!(round.send(socket(i), b"x"), 1);
        }
        assert_eq!(round.send(socket(999), b"x"), 0);
        assert_eq!(round.close(socket(999)), Err(crate::socket::RoundFull));
        assert_eq!(round.send(socket(Round::REQUESTS as u32 - 1), b"x"), 1, "it follows the last one");
    }
}
