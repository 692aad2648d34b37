//! From names to addresses: smoltcp's resolver, and who wants to know.

use alloc::vec::Vec;
use core::{net::IpAddr, str};

use smoltcp::{
    iface::{Interface, PollResult, SocketHandle, SocketSet},
    socket::dns::{self, GetQueryResultError, QueryHandle},
    time::Instant,
    wire::{DnsQueryType, IpAddress},
};

use crate::{
    outbox::{Outbox, Wire},
    stack::ClientId,
};

/// Questions under way at most.
const MOST_QUESTIONS: usize = 64;
/// Where servers are asked (RFC 1035 §4.2.1).
const PORT: u16 = 53;

/// A question of a service's: the number that it gave it, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub client: ClientId,
    pub question: u32,
}

pub struct Resolver {
    set: SocketSet<'static>,
    handle: SocketHandle,
    servers: Vec<IpAddr>,
    under_way: Vec<(Asked, QueryHandle)>,
    /// When `output` is to be called again.
    pub due: u64,
}

impl Resolver {
    pub fn new() -> Resolver {
        let mut set = SocketSet::new(Vec::new());
        let handle = set.add(dns::Socket::new(&[], Vec::new()));
        Resolver { set, handle, servers: Vec::new(), under_way: Vec::new(), due: u64::MAX }
    }

    /// Other servers are to be asked. Questions under way are lost: those who asked come back.
    pub fn set_servers(&mut self, servers: &[IpAddr]) -> Vec<Asked> {
        self.servers = servers.to_vec();
        let addresses: Vec<IpAddress> = servers.iter().map(|&server| server.into()).collect();
        let socket: &mut dns::Socket = self.set.get_mut(self.handle);
        for (_, handle) in &self.under_way {
            socket.cancel_query(*handle);
        }
        socket.update_servers(&addresses);
        self.due = u64::MAX;
        self.under_way.drain(..).map(|(asked, _)| asked).collect()
    }

    /// Asks for an address of `name`: one of IPv6, or one of IPv4. False if it can't be asked for.
    pub fn ask(&mut self, interface: &mut Interface, asked: Asked, name: &[u8], ipv6: bool, now: u64) -> bool {
        if self.servers.is_empty() || self.under_way.len() >= MOST_QUESTIONS {
            return false;
        }
        let kind = if ipv6 { DnsQueryType::Aaaa } else { DnsQueryType::A };
        let socket: &mut dns::Socket = self.set.get_mut(self.handle);
        let Some(handle) =
            str::from_utf8(name).ok().and_then(|name| socket.start_query(interface.context(), name, kind).ok())
        else {
            return false;
        };
        self.under_way.push((asked, handle));
        self.due = now;
        true
    }

    /// Whether a datagram may be an answer to a question of this box's.
    pub fn is_from_server(&self, from: IpAddr, port: u16) -> bool {
        port == PORT && self.servers.contains(&from)
    }

    pub fn input(&mut self, interface: &mut Interface, outbox: &mut Outbox, frame: &[u8], now: u64) {
        if self.under_way.is_empty() {
            return;
        }
        let mut wire = Wire::new(Some(frame), outbox);
        interface.poll_ingress_single(instant(now), &mut wire, &mut self.set);
        self.due = now;
    }

    /// A neighbour has been heard of, which may be the one that a question waits for.
    pub fn wake(&mut self, now: u64) {
        if !self.under_way.is_empty() {
            self.due = now;
        }
    }

    /// Sends what is to be sent; comes back with what has been found out.
    pub fn output(&mut self, interface: &mut Interface, outbox: &mut Outbox, now: u64) -> Vec<(Asked, Option<IpAddr>)> {
        let mut answers = Vec::new();
        if self.due > now {
            return answers;
        }
        let mut wire = Wire::new(None, outbox);
        while interface.poll_egress(instant(now), &mut wire, &mut self.set) == PollResult::SocketStateChanged {}
        let socket: &mut dns::Socket = self.set.get_mut(self.handle);
        self.under_way.retain(|&(asked, handle)| match socket.get_query_result(handle) {
            Err(GetQueryResultError::Pending) => true,
            Err(GetQueryResultError::Failed) => {
                answers.push((asked, None));
                false
            }
            Ok(addresses) => {
                answers.push((asked, addresses.first().map(|&address| address.into())));
                false
            }
        });
        self.due = match interface.poll_at(instant(now), &self.set) {
            Some(at) if !self.under_way.is_empty() => (at.total_micros() as u64 * 1_000).max(now + 1),
            _ => u64::MAX,
        };
        answers
    }

    /// A service is gone.
    pub fn forget(&mut self, client: ClientId) {
        let socket: &mut dns::Socket = self.set.get_mut(self.handle);
        self.under_way.retain(|(asked, handle)| {
            let stays = asked.client != client;
            if !stays {
                socket.cancel_query(*handle);
            }
            stays
        });
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}
