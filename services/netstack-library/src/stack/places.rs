//! Who is at which place: listeners, bound sockets and connections, each of one service.

use alloc::collections::VecDeque;
use core::net::IpAddr;

use interfaces::socket::{Local, SocketError, SocketId};

use crate::{
    bound::Bound,
    connection::{Connection, Phase},
};

use super::{ClientId, MOST_SPARE, Stack};

pub(super) struct Listener {
    pub(super) local: Local,
    pub(super) backlog: usize,
    /// Connections that the service hasn't been told of.
    pub(super) unaccepted: usize,
    /// Those of them that may give way, the oldest first.
    pub(super) opening: VecDeque<SocketId>,
}

pub(super) enum Kind {
    Listener(Listener),
    Bound(Bound),
    Connection(Connection),
}

pub(super) struct Entry {
    pub(super) serial: u32,
    pub(super) client: ClientId,
    pub(super) kind: Kind,
}

/// What is due for one service.
#[derive(Default)]
pub(super) struct Client {
    /// Places of connections and bound sockets that have something to tell.
    pub(super) ready: VecDeque<u32>,
    /// Answers to its questions for addresses.
    pub(super) resolved: VecDeque<(u32, Option<IpAddr>)>,
}

impl Stack {
    pub(super) fn add(&mut self, client: ClientId, kind: Kind) -> Result<SocketId, SocketError> {
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
    pub(super) fn forget(&mut self, at: u32) {
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

    pub(super) fn kind(&self, at: u32) -> Option<&Kind> {
        Some(&self.entries.get(at as usize)?.as_ref()?.kind)
    }

    pub(super) fn at(&self, id: SocketId) -> Option<&Kind> {
        self.entries.get(id.index as usize)?.as_ref().filter(|entry| entry.serial == id.serial).map(|entry| &entry.kind)
    }

    pub(super) fn at_mut(&mut self, id: SocketId) -> Option<&mut Kind> {
        let entry = self.entries.get_mut(id.index as usize)?.as_mut().filter(|entry| entry.serial == id.serial)?;
        Some(&mut entry.kind)
    }

    pub(super) fn connection(&self, at: u32) -> Option<&Connection> {
        match self.kind(at)? {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn connection_mut(&mut self, at: u32) -> Option<&mut Connection> {
        match &mut self.entries.get_mut(at as usize)?.as_mut()?.kind {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn listener(&mut self, at: u32) -> Option<&mut Listener> {
        match &mut self.entries.get_mut(at as usize)?.as_mut()?.kind {
            Kind::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    pub(super) fn is_bound(&self, at: u32) -> bool {
        matches!(self.kind(at), Some(Kind::Bound(_)))
    }

    pub(super) fn client(&mut self, client: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(client.0 as usize)?.as_mut()
    }
}
