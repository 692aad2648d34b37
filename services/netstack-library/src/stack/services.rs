//! What services want, and what they are told.

use alloc::collections::VecDeque;
use core::net::IpAddr;

use interfaces::socket::{Event, Local, Request, Round, RoundFull, SocketError, SocketId};
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use crate::{
    bound::Bound,
    connection::{Connection, Phase, Single},
    flow::{Flow, is_host},
    resolver::Asked,
};

use super::{
    ClientId, FIRST_EPHEMERAL, Stack, millis,
    places::{Client, Kind, Listener},
};

impl Stack {
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
}

fn overlap(one: Local, other: Local) -> bool {
    one.port == other.port && (one.address.is_none() || other.address.is_none() || one.address == other.address)
}
