//! What the captures saw: which backend got which connection, when probes arrived, how many frames passed where.
//!
//! This is the run's truth. It knows nothing of what the box says.

use crate::capture::Way;
use crate::clock::Moment;
use crate::frame::{ACK, Frame, Ip, Kind, SYN, Transport};
use crate::network;
use crate::options::Protocol;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Where a capture sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The router's port on the segment.
    Router,
    /// The box's port, at the NIC model's end: what goes to the box.
    ToBox,
    /// The box's port, at the segment's end: what comes from the box. (What the model sends passes by its own end's captures.)
    FromBox,
    /// A backend's port, by its number in the options.
    Backend(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    client: Ipv4Addr,
    client_port: u16,
    service: Service,
}

/// What a VIP offers at one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service {
    pub address: Ipv4Addr,
    pub port: u16,
    pub protocol: Protocol,
}

impl Display for Service {
    fn fmt(&self, to: &mut Formatter) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(to, "{}:{}/{protocol}", self.address, self.port)
    }
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    /// When its first SYN came.
    at: Moment,
    backend: usize,
    sequence: u32,
    moved: bool,
}

/// A probe that reached a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub at: Moment,
    pub number: u64,
}

/// A time in which a backend was cut off, and what the box made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    pub backend: usize,
    pub from: Moment,
    pub to: Option<Moment>,
    /// VIP frames that the box sent its way while it was cut off, and the last of them. They reached nobody, but for a few at the very begin.
    pub sent: u64,
    pub last_sent: Option<Moment>,
    /// The first that it sent when the backend was back.
    pub first_after: Option<Moment>,
}

impl Outage {
    /// How long after its end an outage is still answerable for a connection that it cost: a client may notice late.
    const AFTERMATH: Duration = Duration::from_secs(40);

    /// Whether what happened to a connection of `backend` at this moment is this outage's doing.
    pub fn excuses(&self, backend: usize, at: Moment) -> bool {
        self.backend == backend && at >= self.from && self.to.is_none_or(|to| at <= to + Self::AFTERMATH)
    }
}

/// A connection of which a segment reached another backend than the one that got its SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub at: Moment,
    pub from: usize,
    pub to: usize,
}

/// Frames through the box's port, one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// IP frames from a client to a VIP.
    pub vip: u64,
    /// Everything else: ARP, answers by the box itself, strays.
    pub control: u64,
}

impl Port {
    fn count(&mut self, vip: bool) {
        *(if vip { &mut self.vip } else { &mut self.control }) += 1;
    }
}

/// What one backend's port saw come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// VIP frames that the box sent.
    pub from_box: u64,
    /// VIP frames that somebody else sent: there must be none.
    pub from_elsewhere: u64,
    /// Distinct TCP connections, by their SYN.
    pub connections: u64,
    pub probes: u64,
    /// When the last frame and the last new connection came.
    pub last_frame: Option<Moment>,
    pub last_connection: Option<Moment>,
}

pub struct Witness {
    vips: HashSet<Ipv4Addr>,
    box_mac: [u8; 6],
    /// Those that began from one port of the client's, in order: a port may be used again.
    connections: HashMap<Flow, Vec<Connection>>,
    /// UDP flows that have been seen.
    datagram_flows: HashSet<Flow>,
    /// Distinct flows (for TCP: connections) of each service, by backend.
    pub shares: HashMap<Service, Vec<u64>>,
    pub moves: Vec<Move>,
    /// The stream by whose gaps crashes are measured; without one, every probe counts as one of it.
    pub stream: Option<Service>,
    /// Of that stream, in order of arrival, over all backends.
    pub arrivals: Vec<Arrival>,
    /// Numbers of the probes that arrived through other VIPs.
    pub others: HashMap<Service, Vec<u64>>,
    pub outages: Vec<Outage>,
    pub router_vip: u64,
    pub nic_in: Port,
    pub nic_out: Port,
    pub backends: Vec<Seen>,
    pub first_vip_frame: Option<Moment>,
}

impl Witness {
    pub fn new(vips: impl IntoIterator<Item = Ipv4Addr>, box_mac: [u8; 6], backends: usize) -> Self {
        Self {
            vips: vips.into_iter().collect(),
            box_mac,
            connections: HashMap::new(),
            datagram_flows: HashSet::new(),
            shares: HashMap::new(),
            moves: Vec::new(),
            stream: None,
            arrivals: Vec::new(),
            others: HashMap::new(),
            outages: Vec::new(),
            router_vip: 0,
            nic_in: Port::default(),
            nic_out: Port::default(),
            backends: vec![Seen::default(); backends],
            first_vip_frame: None,
        }
    }

    /// Takes one frame in. Frames must come in the order of their moments: a connection is known by its first SYN.
    pub fn see(&mut self, place: Place, at: Moment, way: Way, frame: &Frame) {
        let vip = match frame.kind {
            Kind::Ip(ip) if self.vips.contains(&ip.destination) => Some(ip),
            _ => None,
        };
        match (place, way, vip) {
            (Place::Router, Way::Out, Some(_)) => self.router_vip += 1,
            (Place::Router, ..) => {}
            (Place::ToBox, Way::In, vip) => self.nic_in.count(vip.is_some()),
            (Place::FromBox, Way::In, vip) => {
                self.nic_out.count(vip.is_some());
                if vip.is_some() {
                    self.note_outages(at, frame);
                }
            }
            (Place::ToBox | Place::FromBox, Way::Out, _) => {}
            (Place::Backend(number), Way::In, Some(ip)) => self.at_backend(number, at, frame, ip),
            (Place::Backend(_), ..) => {}
        }
    }

    fn note_outages(&mut self, at: Moment, frame: &Frame) {
        let here = |outage: &Outage| frame.destination == network::mac_of_backend(outage.backend);
        for outage in self.outages.iter_mut().filter(|outage| at >= outage.from && here(outage)) {
            match outage.to {
                Some(to) if at >= to => drop(outage.first_after.get_or_insert(at)),
                _ => (outage.sent, outage.last_sent) = (outage.sent + 1, Some(at)),
            }
        }
    }

    /// Notes that a backend is cut off from this moment on, or is back. The captures lag behind, so this is known before the frames are seen.
    pub fn cut_off(&mut self, backend: usize, at: Moment) {
        self.outages.push(Outage { backend, from: at, to: None, sent: 0, last_sent: None, first_after: None });
    }

    pub fn is_back(&mut self, backend: usize, at: Moment) {
        let last = self.outages.iter_mut().rev().find(|outage| outage.backend == backend);
        if let Some(outage) = last {
            outage.to.get_or_insert(at);
        }
    }

    /// The backend that got the SYN of the connection that had been made by this moment from this port of the client's.
    pub fn backend_of(&self, client: Ipv4Addr, client_port: u16, service: Service, made: Moment) -> Option<usize> {
        let connections = self.connections.get(&Flow { client, client_port, service })?;
        // The moments of captured frames are right within microseconds only.
        let before = connections.iter().rfind(|connection| connection.at <= made);
        before.or(connections.first()).map(|connection| connection.backend)
    }

    fn at_backend(&mut self, number: usize, at: Moment, frame: &Frame, ip: Ip) {
        // A bridge floods what it hasn't learned: not for this host, whoever sent it.
        if frame.destination != network::mac_of_backend(number) {
            return;
        }
        if frame.source != self.box_mac {
            self.backends[number].from_elsewhere += 1;
            return;
        }
        self.first_vip_frame.get_or_insert(at);
        self.backends[number].from_box += 1;
        self.backends[number].last_frame = Some(at);
        let flow = |client_port, port, protocol| Flow {
            client: ip.source,
            client_port,
            service: Service { address: ip.destination, port, protocol },
        };
        match ip.transport {
            Transport::Tcp { source, destination, sequence, flags } => {
                self.segment(number, at, flow(source, destination, Protocol::Tcp), sequence, flags);
            }
            Transport::Udp { source, destination, probe } => {
                let flow = flow(source, destination, Protocol::Udp);
                if self.datagram_flows.insert(flow) {
                    self.share(flow.service)[number] += 1;
                }
                if let Some(probe) = probe {
                    self.backends[number].probes += 1;
                    if self.stream.is_none_or(|stream| stream == flow.service) {
                        self.arrivals.push(Arrival { at, number: probe });
                    } else {
                        self.others.entry(flow.service).or_default().push(probe);
                    }
                }
            }
            Transport::Other => {}
        }
    }

    fn share(&mut self, service: Service) -> &mut Vec<u64> {
        let backends = self.backends.len();
        self.shares.entry(service).or_insert_with(|| vec![0; backends])
    }

    fn segment(&mut self, number: usize, at: Moment, flow: Flow, sequence: u32, flags: u8) {
        let opens = flags & (SYN | ACK) == SYN;
        match self.connections.get_mut(&flow).and_then(|connections| connections.last_mut()) {
            // The same SYN once more belongs to the connection that the first one opened; another number opens another connection on a port
            // used before.
            Some(connection) if !opens || connection.sequence == sequence => {
                let elsewhere = connection.backend != number;
                if elsewhere && !std::mem::replace(&mut connection.moved, true) {
                    self.moves.push(Move { at, from: connection.backend, to: number });
                }
            }
            _ if opens => {
                self.backends[number].connections += 1;
                self.backends[number].last_connection = Some(at);
                self.share(flow.service)[number] += 1;
                let connection = Connection { at, backend: number, sequence, moved: false };
                self.connections.entry(flow).or_default().push(connection);
            }
            // Of a connection whose SYN nobody saw: the box let none through before its SYN, or it is a stray.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const BOX: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn witness() -> Witness {
        Witness::new([VIP], BOX, 2)
    }

    fn tcp(port: u16, sequence: u32, flags: u8) -> Vec<u8> {
        tcp_from(BOX, port, sequence, flags)
    }

    fn tcp_from(source: [u8; 6], port: u16, sequence: u32, flags: u8) -> Vec<u8> {
        let mut frame = network::mac_of_backend(0).to_vec();
        frame.extend(source);
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 77, 2]);
        frame.extend(VIP.octets());
        frame.extend(port.to_be_bytes());
        frame.extend(80u16.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame
    }

    fn arrive(witness: &mut Witness, backend: usize, bytes: &[u8]) {
        arrive_at(witness, Moment(1), backend, bytes);
    }

    fn arrive_at(witness: &mut Witness, at: Moment, backend: usize, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        bytes[..6].copy_from_slice(&network::mac_of_backend(backend));
        witness.see(Place::Backend(backend), at, Way::In, &Frame::parse(&bytes, false));
    }

    #[test]
    fn a_segment_at_another_backend_is_a_move_counted_once_per_connection() {
        let mut w = witness();
        arrive(&mut w, 0, &tcp(1000, 5, SYN));
        arrive(&mut w, 0, &tcp(1000, 6, ACK));
        assert!(w.moves.is_empty());
        arrive(&mut w, 1, &tcp(1000, 6, ACK));
        arrive(&mut w, 1, &tcp(1000, 7, ACK));
        assert_eq!(w.moves, [Move { at: Moment(1), from: 0, to: 1 }]);
        assert_eq!(w.backends[0].connections, 1);
        assert_eq!(w.backends[1].connections, 0);
    }

    #[test]
    fn a_port_used_again_is_another_connection() {
        let mut w = witness();
        arrive(&mut w, 0, &tcp(1000, 5, SYN));
        arrive(&mut w, 1, &tcp(1000, 900, SYN));
        arrive(&mut w, 1, &tcp(1000, 901, ACK));
        assert!(w.moves.is_empty());
        assert_eq!(w.backends[1].connections, 1);
        let web = Service { address: VIP, port: 80, protocol: Protocol::Tcp };
        assert_eq!(w.shares[&web], [1, 1]);
    }

    /// What a connection suffered is not held against the one that had its port after it.
    #[test]
    fn a_connection_is_known_by_its_port_and_when_it_was_made() {
        let mut w = witness();
        arrive_at(&mut w, Moment(10), 0, &tcp(1000, 5, SYN));
        arrive_at(&mut w, Moment(20), 1, &tcp(1000, 900, SYN));
        arrive_at(&mut w, Moment(30), 1, &tcp(1000, 900, SYN));
        let web = Service { address: VIP, port: 80, protocol: Protocol::Tcp };
        let at = |moment| w.backend_of(Ipv4Addr::new(192, 168, 77, 2), 1000, web, Moment(moment));
        assert_eq!([9, 11, 19, 20, 40].map(at), [0, 0, 0, 1, 1].map(Some));
    }

    #[test]
    fn a_repeated_syn_at_another_backend_is_a_move() {
        let mut w = witness();
        arrive(&mut w, 0, &tcp(1000, 5, SYN));
        arrive(&mut w, 0, &tcp(1000, 5, SYN));
        assert!(w.moves.is_empty());
        arrive(&mut w, 1, &tcp(1000, 5, SYN));
        assert_eq!(w.moves.len(), 1);
    }

    #[test]
    fn frames_that_passed_by_the_box_are_told_apart() {
        let mut w = witness();
        arrive(&mut w, 0, &tcp_from([9; 6], 1000, 5, SYN));
        assert_eq!(w.backends[0], Seen { from_elsewhere: 1, ..Seen::default() });
    }

    #[test]
    fn frames_flooded_by_the_bridge_are_nobodys() {
        let mut w = witness();
        let for_other = Frame::parse(&tcp(1000, 5, SYN), false);
        w.see(Place::Backend(1), Moment(1), Way::In, &for_other);
        assert_eq!(w.backends[1], Seen::default());
    }

    /// What is blamed on an outage, and what isn't: only the backend that was cut off, only from then on.
    #[test]
    fn an_outage_is_seen_by_what_the_box_sends_and_excuses_its_own_connections_only() {
        let mut w = witness();
        let mut bytes = tcp(1000, 5, SYN);
        bytes[..6].copy_from_slice(&network::mac_of_backend(1));
        let frame = Frame::parse(&bytes, false);
        let second = 1_000_000_000;
        w.cut_off(1, Moment(2 * second));
        w.is_back(1, Moment(6 * second));
        for at in [1, 3, 4, 9, 10] {
            w.see(Place::FromBox, Moment(at * second), Way::In, &frame);
        }
        let outage = w.outages[0];
        assert_eq!((outage.sent, outage.last_sent), (2, Some(Moment(4 * second))));
        assert_eq!(outage.first_after, Some(Moment(9 * second)));
        assert!(outage.excuses(1, Moment(7 * second)));
        assert!(!outage.excuses(0, Moment(7 * second)) && !outage.excuses(1, Moment(second)));
        assert!(!outage.excuses(1, Moment(60 * second)));
    }

    #[test]
    fn the_box_port_counts_both_ways_by_kind() {
        let mut w = witness();
        let mut arp = vec![0xff; 6];
        arp.extend([2, 0, 0, 0, 0, 7, 0x08, 0x06]);
        let (arp, syn) = (Frame::parse(&arp, false), Frame::parse(&tcp(1, 1, SYN), false));
        w.see(Place::ToBox, Moment(1), Way::In, &arp);
        w.see(Place::ToBox, Moment(1), Way::In, &syn);
        w.see(Place::FromBox, Moment(1), Way::In, &syn);
        w.see(Place::Router, Moment(1), Way::Out, &syn);
        w.see(Place::Router, Moment(1), Way::In, &syn);
        assert_eq!(w.nic_in, Port { vip: 1, control: 1 });
        assert_eq!(w.nic_out, Port { vip: 1, control: 0 });
        assert_eq!(w.router_vip, 1);
    }
}
