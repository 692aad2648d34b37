//! Frames that have come, and whose they are.

use core::net::IpAddr;

use interfaces::{
    packet::PacketFlags,
    socket::{Local, SocketId},
};
use smoltcp::{
    socket::tcp::State,
    wire::{IpAddress, IpListenEndpoint},
};

use crate::{
    config::{Address4, Address6},
    connection::{Connection, Phase, Single},
    flow::{Flow, Frame, is_host},
    learner::Learner,
    outbox::Wire,
    segmentation,
};

use super::{
    Concerns, FIRST_EPHEMERAL, Stack, instant, millis,
    places::{Entry, Kind},
};

/// For so long after its start a stack keeps segments of connections that it doesn't know: peers of the generation before are to hear of their end at once, and not when
/// they try again.
const STRAYS_KEPT: u64 = 2_000_000_000;
const MOST_STRAYS: usize = 256;

impl Stack {
    /// A frame has been received. It is nobody's yet if that is what comes back: then it is to be handed to who asked, or here by `input_stray`.
    pub fn input(&mut self, frame: &[u8], flags: PacketFlags, now: u64) -> Concerns {
        self.now = now;
        self.statistics.received.add(1);
        match Frame::of(frame, flags) {
            Frame::Tcp { flow, syn, opens, data } => match self.connection_for(&flow, opens) {
                Some(at) if syn => self.input_syn(at, frame),
                Some(at) => self.input_for(at, frame, data),
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

    pub(super) fn process_nobodys(&mut self, frame: &[u8]) {
        let mut wire = Wire::new(Some(frame), &mut self.outbox);
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

    /// Gives a SYN to its connection, which sends trains from now on if that admits them.
    fn input_syn(&mut self, at: u32, frame: &[u8]) {
        let mut syn = frame.to_vec();
        let mss = segmentation::admit_trains(&mut syn, self.outbox.max_frame);
        if let (Some(mss), Some(connection)) = (mss, self.connection_mut(at)) {
            connection.mss = mss;
        }
        self.input_for(at, &syn, 0);
    }

    /// Gives a frame to its connection.
    fn input_for(&mut self, at: u32, frame: &[u8], data: usize) {
        let Some(Entry { kind: Kind::Connection(connection), .. }) =
            self.entries.get_mut(at as usize).and_then(Option::as_mut)
        else {
            return;
        };
        connection.heard = self.now;
        connection.unacknowledged += data;
        let mut wire = Wire::new(Some(frame), &mut self.outbox);
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
}

fn serves(local: Local, address: IpAddr, port: u16) -> bool {
    local.port == port && local.address.is_none_or(|own| own == address)
}
