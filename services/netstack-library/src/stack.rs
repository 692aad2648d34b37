//! The core of an instance: frames in, frames out, and what services want and are told in between. It knows neither card nor threads (`instance` does), so it may
//! as well be a library of whoever has frames.
//!
//! smoltcp does TCP, ARP, NDP and ICMP. Its own `SocketSet` asks every socket whether a segment is for it, and whether it has something to send; here each connection
//! is a set of its own, found by its flow (`flows`), polled when a segment came for it, its service sent something or its timer is due, and left alone otherwise: ten
//! thousand idle connections cost nothing but memory.
//!
//! *Floods.* A listener has so many connections that are being opened as its service said (`backlog`); one more displaces the oldest that hasn't answered. A closed
//! connection's socket is used again, and memory for a new one is asked for, not taken for granted.

mod due;
mod frames;
mod places;
mod services;

use alloc::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::{cmp::Reverse, net::IpAddr};

use interfaces::net::{MacAddress, NetInfo};
use runtime::random;
use smoltcp::{
    iface::{Interface, SocketSet},
    time::{Duration, Instant},
    wire::{EthernetAddress, HardwareAddress},
};

use crate::{
    addresses::Addresses,
    config::Config,
    connection::Single,
    flow::Flow,
    flows::Flows,
    learner::Learner,
    outbox::{Outbox, Wire},
    resolver::{Asked, Resolver},
    statistics::Statistics,
};

use places::{Client, Entry};

/// Sockets of closed connections that are kept for new ones.
const MOST_SPARE: usize = 64;
/// Local ports of connections that services ask for (RFC 6335 §6).
pub const FIRST_EPHEMERAL: u16 = 49_152;

/// A service's handle, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(pub u32);

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
    pub fn new(config: Arc<Config>, card: &NetInfo, now: u64) -> Stack {
        let mac = card.mac;
        let mut outbox = Outbox::new(usize::from(card.max_frame), card.fills_checksums);
        let mut wire = Wire::new(None, &mut outbox);
        let mut settings = smoltcp::iface::Config::new(HardwareAddress::Ethernet(EthernetAddress::from_bytes(&mac.0)));
        // smoltcp's numbers are those of a PCG, from some of which the seed can be found: nothing else may depend on it.
        settings.random_seed = random::number();
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
            flows: Flows::new(most, random::number()),
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
            serial: random::number() as u32,
            next_port: FIRST_EPHEMERAL + random::number() as u16 % (u16::MAX - FIRST_EPHEMERAL),
            now,
            statistics: Arc::new(Statistics::default()),
            config,
        }
    }

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
}

fn millis(span: interfaces::config::Duration) -> Duration {
    Duration::from_millis(span.nanos() / 1_000_000)
}
