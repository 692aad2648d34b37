//! What connections have to send, and what is due by time.

use core::cmp::Reverse;

use interfaces::socket::SocketId;
use smoltcp::{iface::PollResult, socket::tcp::State};

use crate::{connection::Phase, outbox::Wire};

use super::{
    ClientId, Stack, instant,
    places::{Entry, Kind},
};

/// How often connections that wait for a neighbour are looked at when neighbours are heard.
const LOOK_AT_STALLED: u64 = 1_000_000;

/// An acknowledgement waits so long for data that it may go with (RFC 9293 §3.8.6.3 admits half a second).
const ACKNOWLEDGE_WITHIN: u64 = 10_000_000;

impl Stack {
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
        self.statistics.trains.set(self.outbox.trains);
    }

    /// Sends what one connection or bound socket has to send. False if there was no place for all of it.
    pub(super) fn egress(&mut self, at: u32) -> bool {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::as_mut) else { return true };
        let (set, mss) = match &mut entry.kind {
            Kind::Connection(connection) => (&mut connection.single.set, connection.mss),
            Kind::Bound(bound) => (&mut bound.set, 0),
            Kind::Listener(_) => return true,
        };
        let mut sent = false;
        loop {
            let mut wire = Wire { frame: None, mss, outbox: &mut self.outbox };
            match self.interface.poll_egress(instant(self.now), &mut wire, set) {
                PollResult::SocketStateChanged => sent = true,
                PollResult::None if self.outbox.exhausted => return false,
                PollResult::None => break,
            }
        }
        match &mut entry.kind {
            Kind::Connection(connection) => {
                (connection.dirty, connection.stalled) = (false, !sent);
                connection.unacknowledged = 0;
            }
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
    pub(super) fn settle(&mut self, at: u32) {
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
        if due <= self.now && connection.only_acknowledges() {
            due = self.now + ACKNOWLEDGE_WITHIN;
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

    pub(super) fn mark(&mut self, at: u32) {
        let dirty = match self.entries.get_mut(at as usize).and_then(Option::as_mut) {
            Some(Entry { kind: Kind::Connection(connection), .. }) => &mut connection.dirty,
            Some(Entry { kind: Kind::Bound(bound), .. }) => &mut bound.dirty,
            _ => return,
        };
        if !core::mem::replace(dirty, true) {
            self.dirty.push_back(at);
        }
    }

    pub(super) fn tell(&mut self, client: ClientId, at: u32) {
        if let Some(client) = self.client(client) {
            client.ready.push_back(at);
        }
    }
}
