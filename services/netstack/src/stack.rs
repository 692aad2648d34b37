//! The core of an instance: frames in, frames out, and what services want and are told in between. It knows neither card nor threads (`instance` does), so it may
//! as well be a library of whoever has frames.
//!
//! smoltcp does TCP, ARP, NDP and ICMP. Its own `SocketSet` asks every socket whether a segment is for it, and whether it has something to send; here each connection
//! is a set of its own, found by its flow (`flows`), polled when a segment came for it, its service sent something or its timer is due, and left alone otherwise: ten
//! thousand idle connections cost nothing but memory.
//!
//! *Floods.* A listener has so many connections that are being opened as its service said (`backlog`); one more displaces the oldest that hasn't answered. A closed
//! connection's socket is used again, and memory for a new one is asked for, not taken for granted.

use alloc::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::{cmp::Reverse, net::IpAddr};

use interfaces::{
    net::MacAddress,
    packet::PacketFlags,
    socket::{Event, Local, Request, Round, RoundFull, SocketError, SocketId},
};
use smoltcp::{
    iface::{Interface, PollResult, SocketSet},
    socket::tcp::State,
    time::{Duration, Instant},
    wire::{EthernetAddress, HardwareAddress, IpAddress, IpEndpoint, IpListenEndpoint},
};

use crate::{
    addresses::Addresses,
    bound::Bound,
    config::{Address4, Address6, Config},
    connection::{Connection, Phase, Single},
    flow::{Flow, Frame, is_host},
    flows::Flows,
    learner::Learner,
    outbox::{Outbox, Wire},
    resolver::{Asked, Resolver},
    statistics::Statistics,
};

/// Sockets of closed connections that are kept for new ones.
const MOST_SPARE: usize = 64;
/// How often connections that wait for a neighbour are looked at when neighbours are heard.
const LOOK_AT_STALLED: u64 = 1_000_000;
/// For so long after its start a stack keeps segments of connections that it doesn't know: peers of the generation before are to hear of their end at once, and not when
/// they try again.
const STRAYS_KEPT: u64 = 2_000_000_000;
const MOST_STRAYS: usize = 256;
/// Local ports of connections that services ask for (RFC 6335 §6).
pub const FIRST_EPHEMERAL: u16 = 49_152;

/// A service's handle, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(pub u32);

struct Listener {
    local: Local,
    backlog: usize,
    /// Connections that the service hasn't been told of.
    unaccepted: usize,
    /// Those of them that may give way, the oldest first.
    opening: VecDeque<SocketId>,
}

enum Kind {
    Listener(Listener),
    Bound(Bound),
    Connection(Connection),
}

struct Entry {
    serial: u32,
    client: ClientId,
    kind: Kind,
}

/// What is due for one service.
#[derive(Default)]
struct Client {
    /// Places of connections and bound sockets that have something to tell.
    ready: VecDeque<u32>,
    /// Answers to its questions for addresses.
    resolved: VecDeque<(u32, Option<IpAddr>)>,
}

pub struct Stack {
    config: Arc<Config>,
    mac: MacAddress,
    interface: Interface,
    resolver: Resolver,
    /// In the instance that learns the box's addresses, if they are to be learned.
    learner: Option<Learner>,
    learned: Option<Addresses>,
    pub outbox: Outbox,
    nobody: SocketSet<'static>,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    flows: Flows,
    /// Places of listeners and of bound sockets: few.
    listeners: Vec<u32>,
    bound: Vec<u32>,
    spare: Vec<Single>,
    dirty: VecDeque<u32>,
    timers: BinaryHeap<Reverse<(u64, u32, u32)>>,
    clients: Vec<Option<Client>>,
    /// A neighbour has been heard of, and some connection may have waited for it.
    neighbour_heard: bool,
    stalled_looked_at: u64,
    /// Segments of connections that aren't known, received soon after the start: what they are answered may have to wait for a neighbour.
    strays: VecDeque<Vec<u8>>,
    born: u64,
    serial: u32,
    next_port: u16,
    now: u64,
    pub statistics: Arc<Statistics>,
}

/// Who else has to hear of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    Nobody,
    /// All instances: a neighbour's message.
    All,
    /// The instance that asked for that connection, if one did: a segment that the card gave to the wrong queue. Nobody has seen it yet.
    Asker(Flow),
    /// All instances: an answer to a question for an address, which only who asked understands.
    Resolvers,
    /// The instance that learns the box's addresses. Nobody has seen it yet.
    Learner,
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}

impl Stack {
    /// `secret`: something that strangers don't know and that is different at each start.
    pub fn new(config: Arc<Config>, mac: MacAddress, max_frame: u16, secret: u64, now: u64) -> Stack {
        let mut outbox = Outbox::new(usize::from(max_frame).min(1_514));
        let mut wire = Wire { frame: None, outbox: &mut outbox };
        let mut settings = smoltcp::iface::Config::new(HardwareAddress::Ethernet(EthernetAddress::from_bytes(&mac.0)));
        settings.random_seed = secret;
        let mut interface = Interface::new(settings, &mut wire, instant(now));
        let addresses = Addresses::of(&config);
        addresses.give(&mut interface, mac, config.address6.is_some());
        let mut resolver = Resolver::new();
        resolver.set_servers(&addresses.dns);
        let most = config.connections as usize;
        Stack {
            mac,
            interface,
            resolver,
            learner: None,
            learned: None,
            outbox,
            nobody: SocketSet::new(Vec::new()),
            entries: Vec::with_capacity(most),
            free: Vec::with_capacity(most),
            flows: Flows::new(most, secret),
            listeners: Vec::new(),
            bound: Vec::new(),
            spare: Vec::with_capacity(MOST_SPARE),
            dirty: VecDeque::with_capacity(most),
            timers: BinaryHeap::with_capacity(2 * most),
            clients: Vec::new(),
            neighbour_heard: false,
            stalled_looked_at: 0,
            strays: VecDeque::new(),
            born: now,
            serial: secret as u32,
            next_port: FIRST_EPHEMERAL + (secret >> 32) as u16 % (u16::MAX - FIRST_EPHEMERAL),
            now,
            statistics: Arc::new(Statistics::default()),
            config,
        }
    }

    // --- Addresses ---

    /// From now on this instance learns the box's addresses, for itself and the others.
    pub fn learn(&mut self, now: u64) {
        self.learner = Learner::new(&self.config, self.mac, now);
    }

    /// Addresses that have been learned since this was last asked, and that the others are to be given.
    pub fn learned(&mut self) -> Option<Addresses> {
        self.learned.take()
    }

    /// The box has other addresses. Connections of one that it has no more are over, and questions under way have no answer.
    pub fn move_to(&mut self, addresses: &Addresses, now: u64) {
        self.now = now;
        for at in 0..self.entries.len() as u32 {
            let local = self.connection(at).map(|connection| connection.flow.local);
            if local.is_some_and(|local| !addresses.has(local, self.mac))
                && let Some(connection) = self.connection_mut(at)
            {
                connection.single.socket_mut().abort();
                // While the address can still be spoken from.
                self.egress(at);
            }
        }
        addresses.give(&mut self.interface, self.mac, self.config.address6.is_some());
        for asked in self.resolver.set_servers(&addresses.dns) {
            self.answer(asked, None);
        }
    }

    fn answer(&mut self, asked: Asked, address: Option<IpAddr>) {
        if let Some(client) = self.client(asked.client) {
            client.resolved.push_back((asked.question, address));
        }
    }

    // --- Frames ---

    /// A frame has been received. It is nobody's yet if that is what comes back: then it is to be handed to who asked, or here by `input_stray`.
    pub fn input(&mut self, frame: &[u8], flags: PacketFlags, now: u64) -> Concerns {
        self.now = now;
        self.statistics.received.add(1);
        match Frame::of(frame, flags) {
            Frame::Tcp { flow, opens } => match self.connection_for(&flow, opens) {
                Some(at) => self.input_for(at, frame),
                None if flow.local_port >= FIRST_EPHEMERAL && !opens => return Concerns::Asker(flow),
                None => self.input_stray(frame),
            },
            Frame::Udp { flow, .. } if self.config.address == Some(Address4::Dhcp) && Learner::is_dhcp(&flow) => {
                let Some(learner) = &mut self.learner else { return Concerns::Learner };
                learner.input_dhcp(&mut self.interface, &mut self.outbox, frame, now);
            }
            Frame::Udp { flow, payload } => {
                if !self.input_datagram(&flow, payload, frame) {
                    return Concerns::Resolvers;
                }
            }
            Frame::Neighbour if self.config.address6 == Some(Address6::Auto) && Learner::is_advertisement(frame) => {
                let Some(learner) = &mut self.learner else { return Concerns::Learner };
                learner.input_advertisement(frame, now);
            }
            Frame::Neighbour => {
                self.input_neighbour(frame, now);
                return Concerns::All;
            }
            Frame::Other => self.process_nobodys(frame),
            Frame::Fragment => self.statistics.fragments.add(1),
            Frame::Damaged => self.statistics.damaged.add(1),
        }
        Concerns::Nobody
    }

    /// A segment of no connection: its sender hears so by RST.
    pub fn input_stray(&mut self, frame: &[u8]) {
        self.statistics.strange.add(1);
        if self.now.saturating_sub(self.born) < STRAYS_KEPT && self.strays.len() < MOST_STRAYS {
            self.strays.push_back(frame.into());
        }
        self.process_nobodys(frame);
    }

    /// A neighbour's message, perhaps a copy of what another instance has received.
    pub fn input_neighbour(&mut self, frame: &[u8], now: u64) {
        self.now = now;
        self.process_nobodys(frame);
        self.neighbour_heard = true;
    }

    fn process_nobodys(&mut self, frame: &[u8]) {
        let mut wire = Wire { frame: Some(frame), outbox: &mut self.outbox };
        self.interface.poll_ingress_single(instant(self.now), &mut wire, &mut self.nobody);
    }

    /// The connection that a segment is for; made, if it opens one that is listened for.
    fn connection_for(&mut self, flow: &Flow, opens: bool) -> Option<u32> {
        if let Some(at) = self.flows.get(flow) {
            let over =
                opens && self.connection(at).is_some_and(|c| matches!(c.state(), State::TimeWait | State::Closed));
            if !over {
                return Some(at);
            }
            // RFC 9293 §3.6.1: a connection that is only remembered gives way to a new one of the same ends.
            if matches!(self.connection(at)?.phase, Phase::Closing { .. }) {
                self.forget(at);
            } else {
                return Some(at);
            }
        }
        if !opens || !is_host(flow.remote) || !self.interface.has_ip_addr(IpAddress::from(flow.local)) {
            return None;
        }
        let listener = self.listeners.iter().copied().find(|&at| match self.kind(at) {
            Some(Kind::Listener(listener)) => serves(listener.local, flow.local, flow.local_port),
            _ => false,
        })?;
        self.open(listener, *flow)
    }

    /// Makes a connection for a listener's new peer.
    fn open(&mut self, listener: u32, flow: Flow) -> Option<u32> {
        let entry = self.entries.get_mut(listener as usize)?.as_mut()?;
        let (client, id) = (entry.client, SocketId { index: listener, serial: entry.serial });
        let Kind::Listener(state) = &mut entry.kind else { return None };
        if state.unaccepted >= state.backlog {
            self.displace(listener);
        }
        let Some(mut single) = self.spare.pop().or_else(|| Single::new(&self.config)) else {
            self.statistics.refused.add(1);
            return None;
        };
        let socket = single.socket_mut();
        socket.set_timeout(Some(millis(self.config.times.opening)));
        socket.set_keep_alive(None);
        let local = IpListenEndpoint { addr: Some(flow.local.into()), port: flow.local_port };
        if socket.listen(local).is_err() {
            return None;
        }
        let connection = Connection::new(single, flow, Phase::Opening(id), self.now);
        let Ok(new) = self.add(client, Kind::Connection(connection)) else {
            self.statistics.refused.add(1);
            return None;
        };
        self.flows.insert(flow, new.index);
        self.statistics.live.add(1);
        if let Some(state) = self.listener(listener) {
            state.unaccepted += 1;
            state.opening.push_back(new);
        }
        Some(new.index)
    }

    /// Makes room among a listener's connections that are being opened: the oldest of them goes, unless all have been opened and wait for their service.
    fn displace(&mut self, listener: u32) {
        while let Some(oldest) = self.listener(listener).and_then(|state| state.opening.pop_front()) {
            let opening = self.at(oldest).is_some_and(|kind| match kind {
                Kind::Connection(c) => matches!(c.phase, Phase::Opening(_)) && c.state() == State::SynReceived,
                _ => false,
            });
            if opening {
                self.statistics.displaced.add(1);
                self.forget(oldest.index);
                return;
            }
        }
    }

    /// Gives a frame to its connection.
    fn input_for(&mut self, at: u32, frame: &[u8]) {
        let Some(Entry { kind: Kind::Connection(connection), .. }) =
            self.entries.get_mut(at as usize).and_then(Option::as_mut)
        else {
            return;
        };
        connection.heard = self.now;
        let mut wire = Wire { frame: Some(frame), outbox: &mut self.outbox };
        self.interface.poll_ingress_single(instant(self.now), &mut wire, &mut connection.single.set);
        self.settle(at);
    }

    /// An answer to a question for an address, perhaps a copy of what another instance has received.
    pub fn input_answer(&mut self, frame: &[u8], now: u64) {
        self.now = now;
        self.resolver.input(&mut self.interface, &mut self.outbox, frame, now);
    }

    /// False if it may be an answer that another instance waits for, too.
    fn input_datagram(&mut self, flow: &Flow, payload: &[u8], frame: &[u8]) -> bool {
        let own = self.interface.has_ip_addr(IpAddress::from(flow.local));
        let to = self.bound.iter().copied().find(|&at| match self.kind(at) {
            Some(Kind::Bound(bound)) => own && serves(bound.local, flow.local, flow.local_port),
            _ => false,
        });
        let Some(at) = to else {
            if own && self.resolver.is_from_server(flow.remote, flow.remote_port) {
                self.input_answer(frame, self.now);
                return false;
            }
            self.statistics.unbound.add(1);
            self.process_nobodys(frame);
            return true;
        };
        if let Some(Entry { client, kind: Kind::Bound(bound), .. }) =
            self.entries.get_mut(at as usize).and_then(Option::as_mut)
        {
            let taken = bound.receive(flow, payload);
            self.statistics.datagrams.add(1);
            self.statistics.dropped.add(u64::from(!taken));
            let client = *client;
            if !core::mem::replace(&mut bound.ready, true) {
                self.tell(client, at);
            }
        }
        true
    }

    // --- What is due ---

    /// Sends what connections have to send, and does what is due by time.
    pub fn output(&mut self, now: u64) {
        self.now = now;
        self.outbox.exhausted = false;
        if self.neighbour_heard && now.saturating_sub(self.stalled_looked_at) >= LOOK_AT_STALLED {
            (self.neighbour_heard, self.stalled_looked_at) = (false, now);
            self.resolver.wake(now);
            if let Some(learner) = &mut self.learner {
                learner.due = now;
            }
            // A second RST for the same segment does no harm.
            for frame in core::mem::take(&mut self.strays) {
                self.process_nobodys(&frame);
            }
            for at in 0..self.entries.len() as u32 {
                if self.connection(at).is_some_and(|connection| connection.stalled) || self.is_bound(at) {
                    self.mark(at);
                }
            }
        }
        while let Some(&Reverse((due, at, serial))) = self.timers.peek()
            && due <= now
        {
            self.timers.pop();
            let id = SocketId { index: at, serial };
            if let Some(Kind::Connection(connection)) = self.at_mut(id)
                && connection.timer == due
            {
                connection.timer = u64::MAX;
                self.mark(at);
            }
        }
        if let Some(addresses) =
            self.learner.as_mut().and_then(|learner| learner.output(&mut self.interface, &mut self.outbox, now))
        {
            self.move_to(&addresses, now);
            self.learned = Some(addresses);
        }
        for (asked, address) in self.resolver.output(&mut self.interface, &mut self.outbox, now) {
            self.answer(asked, address);
        }
        for _ in 0..self.dirty.len() {
            let Some(at) = self.dirty.pop_front() else { break };
            if !self.egress(at) {
                self.dirty.push_front(at);
                break;
            }
        }
        self.statistics.sent.set(self.outbox.written);
    }

    /// Sends what one connection or bound socket has to send. False if there was no place for all of it.
    fn egress(&mut self, at: u32) -> bool {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::as_mut) else { return true };
        let set = match &mut entry.kind {
            Kind::Connection(connection) => &mut connection.single.set,
            Kind::Bound(bound) => &mut bound.set,
            Kind::Listener(_) => return true,
        };
        let mut sent = false;
        loop {
            let mut wire = Wire { frame: None, outbox: &mut self.outbox };
            match self.interface.poll_egress(instant(self.now), &mut wire, set) {
                PollResult::SocketStateChanged => sent = true,
                PollResult::None if self.outbox.exhausted => return false,
                PollResult::None => break,
            }
        }
        match &mut entry.kind {
            Kind::Connection(connection) => (connection.dirty, connection.stalled) = (false, !sent),
            Kind::Bound(bound) => bound.dirty = false,
            Kind::Listener(_) => {}
        }
        self.settle(at);
        true
    }

    /// When `output` is to be called again, if nothing happens before.
    pub fn deadline(&self) -> u64 {
        if !self.dirty.is_empty() {
            return self.now;
        }
        if self.neighbour_heard {
            return self.stalled_looked_at + LOOK_AT_STALLED;
        }
        let timer = self.timers.peek().map_or(u64::MAX, |Reverse((due, ..))| *due);
        timer.min(self.resolver.due).min(self.learner.as_ref().map_or(u64::MAX, |learner| learner.due))
    }

    /// After anything has happened to a connection: whom to tell, when to look again, and whether it is over.
    fn settle(&mut self, at: u32) {
        let Some(Entry { serial, client, kind: Kind::Connection(connection) }) =
            self.entries.get_mut(at as usize).and_then(Option::as_mut)
        else {
            return;
        };
        let (serial, client) = (*serial, *client);
        match connection.phase {
            Phase::Closing { until } => {
                if self.now >= until && connection.state() != State::TimeWait {
                    connection.single.socket_mut().abort();
                    if !connection.dirty {
                        connection.dirty = true;
                        self.dirty.push_back(at);
                        return;
                    }
                }
                if connection.discard() && !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push_back(at);
                }
                if connection.state() == State::Closed && !connection.dirty {
                    return self.forget(at);
                }
            }
            Phase::Opening(_) if connection.state() == State::Closed => return self.forget(at),
            _ => {
                if !core::mem::replace(&mut connection.ready, true) {
                    self.tell(client, at);
                }
            }
        }
        let Some(Entry { kind: Kind::Connection(connection), .. }) =
            self.entries.get_mut(at as usize).and_then(Option::as_mut)
        else {
            return;
        };
        let due = self.interface.poll_at(instant(self.now), &connection.single.set);
        let mut due = due.map_or(u64::MAX, |at| at.total_micros() as u64 * 1_000);
        if let Phase::Closing { until } = connection.phase {
            due = due.min(until);
        }
        if due <= self.now {
            if !core::mem::replace(&mut connection.dirty, true) {
                self.dirty.push_back(at);
            }
        } else if due < connection.timer {
            connection.timer = due;
            self.timers.push(Reverse((due, at, serial)));
        }
    }

    fn mark(&mut self, at: u32) {
        let dirty = match self.entries.get_mut(at as usize).and_then(Option::as_mut) {
            Some(Entry { kind: Kind::Connection(connection), .. }) => &mut connection.dirty,
            Some(Entry { kind: Kind::Bound(bound), .. }) => &mut bound.dirty,
            _ => return,
        };
        if !core::mem::replace(dirty, true) {
            self.dirty.push_back(at);
        }
    }

    fn tell(&mut self, client: ClientId, at: u32) {
        if let Some(client) = self.client(client) {
            client.ready.push_back(at);
        }
    }

    // --- Services ---

    /// A service opens a handle.
    pub fn attach(&mut self) -> ClientId {
        let client = Some(Client::default());
        match self.clients.iter().position(Option::is_none) {
            Some(at) => {
                self.clients[at] = client;
                ClientId(at as u32)
            }
            None => {
                self.clients.push(client);
                ClientId(self.clients.len() as u32 - 1)
            }
        }
    }

    /// A service lets go of its handle, or is dead: its connections are reset.
    pub fn detach(&mut self, client: ClientId, now: u64) {
        self.now = now;
        self.resolver.forget(client);
        for at in 0..self.entries.len() as u32 {
            let Some(entry) = self.entries[at as usize].as_mut().filter(|entry| entry.client == client) else {
                continue;
            };
            match &mut entry.kind {
                Kind::Connection(connection) if !matches!(connection.phase, Phase::Closing { .. }) => {
                    self.statistics.abandoned.add(1);
                    self.abandon(at, true);
                }
                Kind::Connection(_) => {}
                Kind::Listener(_) | Kind::Bound(_) => self.forget(at),
            }
        }
        if let Some(place) = self.clients.get_mut(client.0 as usize) {
            *place = None;
        }
    }

    pub fn listen(&mut self, client: ClientId, local: Local, backlog: u32) -> Result<SocketId, SocketError> {
        self.check(local)?;
        let taken = |stack: &Stack, at: u32| match stack.kind(at) {
            Some(Kind::Listener(listener)) => overlap(listener.local, local),
            _ => false,
        };
        if self.listeners.iter().any(|&at| taken(self, at)) {
            return Err(SocketError::InUse);
        }
        let backlog = (backlog as usize).clamp(1, self.config.connections as usize);
        let listener = Listener { local, backlog, unaccepted: 0, opening: VecDeque::new() };
        let id = self.add(client, Kind::Listener(listener))?;
        self.listeners.push(id.index);
        Ok(id)
    }

    pub fn bind(&mut self, client: ClientId, local: Local) -> Result<SocketId, SocketError> {
        self.check(local)?;
        let taken = |stack: &Stack, at: u32| match stack.kind(at) {
            Some(Kind::Bound(bound)) => overlap(bound.local, local),
            _ => false,
        };
        if self.bound.iter().any(|&at| taken(self, at)) {
            return Err(SocketError::InUse);
        }
        let bound = Bound::new(local).ok_or(SocketError::Full)?;
        let id = self.add(client, Kind::Bound(bound))?;
        self.bound.push(id.index);
        Ok(id)
    }

    /// Asks for a connection. The flow comes with it, so that segments of it that reach another instance find here.
    pub fn connect(
        &mut self,
        client: ClientId,
        to: core::net::SocketAddr,
        now: u64,
    ) -> Result<(SocketId, Flow), SocketError> {
        self.now = now;
        let local: IpAddr = match self.interface.get_source_address(&IpAddress::from(to.ip())) {
            Some(address) if self.interface.has_ip_addr(address) && is_host(to.ip()) => address.into(),
            _ => return Err(SocketError::NoAddress),
        };
        let ports = usize::from(u16::MAX - FIRST_EPHEMERAL);
        let flow = (0..ports).find_map(|_| {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            let flow = Flow { remote: to.ip(), remote_port: to.port(), local, local_port: self.next_port };
            self.flows.get(&flow).is_none().then_some(flow)
        });
        let flow = flow.ok_or(SocketError::Full)?;
        let mut single = self.spare.pop().or_else(|| Single::new(&self.config)).ok_or(SocketError::Full)?;
        let socket = single.socket_mut();
        socket.set_timeout(Some(millis(self.config.times.opening)));
        socket.set_keep_alive(None);
        let here = IpListenEndpoint { addr: Some(local.into()), port: flow.local_port };
        let there = IpEndpoint::new(to.ip().into(), to.port());
        socket.connect(self.interface.context(), there, here).map_err(|_| SocketError::NoAddress)?;
        let id = self.add(client, Kind::Connection(Connection::new(single, flow, Phase::Connecting, now)))?;
        self.flows.insert(flow, id.index);
        self.statistics.live.add(1);
        self.statistics.connected.add(1);
        self.mark(id.index);
        Ok((id, flow))
    }

    fn check(&self, local: Local) -> Result<(), SocketError> {
        match local.address {
            Some(address) if !self.interface.has_ip_addr(IpAddress::from(address)) => Err(SocketError::NoAddress),
            _ => Ok(()),
        }
    }

    /// Does what a service's round wants.
    pub fn serve(&mut self, client: ClientId, round: &Round, now: u64) {
        self.now = now;
        for request in round.requests() {
            if let Request::Resolve { question, name, ipv6 } = *request {
                let asked = Asked { client, question };
                if !self.resolver.ask(&mut self.interface, asked, round.outgoing(name), ipv6, now) {
                    self.answer(asked, None);
                }
                continue;
            }
            let (Request::Bytes { socket, .. }
            | Request::Datagram { socket, .. }
            | Request::Finish { socket }
            | Request::Close { socket }
            | Request::Reset { socket }
            | Request::Pause { socket }
            | Request::Resume { socket }) = *request
            else {
                continue;
            };
            // A socket that is gone, or somebody else's: its end has been told, or is about to be.
            let Some(entry) = self.entries.get_mut(socket.index as usize).and_then(Option::as_mut) else { continue };
            if entry.serial != socket.serial || entry.client != client {
                continue;
            }
            let at = socket.index;
            match (&mut entry.kind, *request) {
                (Kind::Connection(connection), Request::Bytes { bytes, .. }) => {
                    if !connection.send(round.outgoing(bytes)) {
                        self.statistics.overrun.add(1);
                        connection.single.socket_mut().abort();
                    }
                    self.mark(at);
                }
                (Kind::Connection(connection), Request::Finish { .. }) => {
                    connection.finish();
                    self.mark(at);
                }
                (Kind::Connection(connection), Request::Pause { .. }) => connection.paused = true,
                (Kind::Connection(connection), Request::Resume { .. }) => {
                    connection.paused = false;
                    self.settle(at);
                }
                (Kind::Connection(connection), Request::Close { .. } | Request::Reset { .. }) => {
                    let told = matches!(connection.phase, Phase::Closing { .. });
                    if !told {
                        self.abandon(at, matches!(request, Request::Reset { .. }));
                    }
                }
                (Kind::Bound(bound), Request::Datagram { to, bytes, .. }) => {
                    bound.send(to, round.outgoing(bytes));
                    self.mark(at);
                }
                (Kind::Listener(_) | Kind::Bound(_), Request::Close { .. } | Request::Reset { .. }) => self.forget(at),
                _ => {}
            }
        }
    }

    /// Whether a service has something to be told, as far as is known without looking.
    pub fn has_news(&self, client: ClientId) -> bool {
        self.clients
            .get(client.0 as usize)
            .and_then(Option::as_ref)
            .is_some_and(|client| !client.ready.is_empty() || !client.resolved.is_empty())
    }

    /// Fills a service's round with what has happened.
    pub fn report(&mut self, client: ClientId, round: &mut Round, now: u64) {
        self.now = now;
        while let Some((question, address)) = self.client(client).and_then(|client| client.resolved.front().copied()) {
            if round.push(Event::Resolved { question, address }).is_err() {
                return;
            }
            if let Some(client) = self.client(client) {
                client.resolved.pop_front();
            }
        }
        let due = self.client(client).map_or(0, |client| client.ready.len());
        for _ in 0..due {
            let Some(at) = self.client(client).and_then(|client| client.ready.pop_front()) else { break };
            if self.report_one(client, at, round).is_err() {
                if let Some(client) = self.client(client) {
                    client.ready.push_front(at);
                }
                return;
            }
        }
    }

    fn report_one(&mut self, client: ClientId, at: u32, round: &mut Round) -> Result<(), RoundFull> {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::as_mut) else { return Ok(()) };
        // A place that has been given to somebody else since.
        if entry.client != client {
            return Ok(());
        }
        let id = SocketId { index: at, serial: entry.serial };
        match &mut entry.kind {
            Kind::Listener(_) => Ok(()),
            Kind::Bound(bound) => {
                bound.report(id, round)?;
                bound.ready = false;
                Ok(())
            }
            Kind::Connection(connection) => {
                let before = connection.phase;
                let window = connection.report(id, round, &self.config, self.now);
                if window.is_ok() {
                    connection.ready = false;
                }
                let (after, over) = (connection.phase, connection.overrun);
                if let Phase::Opening(listener) = before
                    && after != before
                {
                    self.statistics.accepted.add(1);
                    if let Some(Kind::Listener(listener)) = self.at_mut(listener) {
                        listener.unaccepted = listener.unaccepted.saturating_sub(1);
                        let most = 2 * listener.backlog;
                        if listener.opening.len() > most {
                            listener.opening.drain(..listener.opening.len() - most);
                        }
                    }
                }
                if window? || over || matches!(after, Phase::Closing { .. }) {
                    self.mark(at);
                }
                Ok(())
            }
        }
    }

    /// The service is done with a connection; it ends by FIN, or at once by RST.
    fn abandon(&mut self, at: u32, reset: bool) {
        let until = self.now + self.config.times.closing.nanos();
        let Some(connection) = self.connection_mut(at) else { return };
        let listener = match connection.phase {
            Phase::Opening(listener) => Some(listener),
            _ => None,
        };
        connection.phase = Phase::Closing { until };
        let socket = connection.single.socket_mut();
        if reset {
            socket.abort()
        } else {
            socket.close()
        }
        connection.discard();
        if let Some(listener) = listener
            && let Some(Kind::Listener(listener)) = self.at_mut(listener)
        {
            listener.unaccepted = listener.unaccepted.saturating_sub(1);
        }
        self.mark(at);
    }

    // --- Places ---

    fn add(&mut self, client: ClientId, kind: Kind) -> Result<SocketId, SocketError> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < self.config.connections as usize => {
                self.entries.push(None);
                self.entries.len() as u32 - 1
            }
            None => return Err(SocketError::Full),
        };
        self.serial = self.serial.wrapping_add(1);
        self.entries[index as usize] = Some(Entry { serial: self.serial, client, kind });
        Ok(SocketId { index, serial: self.serial })
    }

    /// Takes an entry out, and all that points at it.
    fn forget(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::take) else { return };
        self.free.push(at);
        match entry.kind {
            Kind::Listener(_) => self.listeners.retain(|&other| other != at),
            Kind::Bound(_) => self.bound.retain(|&other| other != at),
            Kind::Connection(mut connection) => {
                self.flows.remove(&connection.flow);
                self.statistics.live.set(self.statistics.live.get().saturating_sub(1));
                if let Phase::Opening(listener) = connection.phase
                    && let Some(Kind::Listener(listener)) = self.at_mut(listener)
                {
                    listener.unaccepted = listener.unaccepted.saturating_sub(1);
                }
                // (One that waits for a neighbour would go on waiting for it.)
                if self.spare.len() < MOST_SPARE && !connection.stalled {
                    connection.single.socket_mut().abort();
                    self.spare.push(connection.single);
                }
            }
        }
        if self.dirty.len() > self.entries.len() {
            // Places that were used again while they were queued.
            let entries = &self.entries;
            self.dirty.retain(|&at| entries.get(at as usize).is_some_and(Option::is_some));
        }
    }

    fn kind(&self, at: u32) -> Option<&Kind> {
        Some(&self.entries.get(at as usize)?.as_ref()?.kind)
    }

    fn at(&self, id: SocketId) -> Option<&Kind> {
        self.entries.get(id.index as usize)?.as_ref().filter(|entry| entry.serial == id.serial).map(|entry| &entry.kind)
    }

    fn at_mut(&mut self, id: SocketId) -> Option<&mut Kind> {
        let entry = self.entries.get_mut(id.index as usize)?.as_mut().filter(|entry| entry.serial == id.serial)?;
        Some(&mut entry.kind)
    }

    fn connection(&self, at: u32) -> Option<&Connection> {
        match self.kind(at)? {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    fn connection_mut(&mut self, at: u32) -> Option<&mut Connection> {
        match &mut self.entries.get_mut(at as usize)?.as_mut()?.kind {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    fn listener(&mut self, at: u32) -> Option<&mut Listener> {
        match &mut self.entries.get_mut(at as usize)?.as_mut()?.kind {
            Kind::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    fn is_bound(&self, at: u32) -> bool {
        matches!(self.kind(at), Some(Kind::Bound(_)))
    }

    fn client(&mut self, client: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(client.0 as usize)?.as_mut()
    }
}

fn millis(span: interfaces::config::Duration) -> Duration {
    Duration::from_millis(span.nanos() / 1_000_000)
}

fn serves(local: Local, address: IpAddr, port: u16) -> bool {
    local.port == port && local.address.is_none_or(|own| own == address)
}

fn overlap(one: Local, other: Local) -> bool {
    one.port == other.port && (one.address.is_none() || other.address.is_none() || one.address == other.address)
}
