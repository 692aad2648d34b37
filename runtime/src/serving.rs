//! Serving clients over sockets: the loop that a service's thread runs, with the service's protocol as a state machine that takes bytes and gives bytes.
//!
//! What it promises, whatever clients do: memory is bounded (a connection's answers wait up to [`ENOUGH`] and one item more, all together up to
//! [`Limits::waiting`]; what isn't read yet stays in the stack), who takes too long over a request, over taking an answer, or in saying nothing is dropped, and when the
//! stack crashes the service listens again as soon as it is back. One call to the stack takes all answers of a turn and brings all that has arrived.

use alloc::{vec, vec::Vec};
use core::net::SocketAddr;

use interfaces::{
    CallError, Cancelled, Cap, Port, RRef,
    config::Duration,
    socket::{Event, Local, NetStack, Round, SocketError, SocketId, Sockets},
};

use crate::{tally::Tally, time};

/// Bytes of answers with which a connection has enough to send for now.
pub const ENOUGH: usize = 16 * 1024;
/// How often connections are looked at for whose time is up.
const LOOK: u64 = 250_000_000;
/// Between attempts to open a stack that isn't there.
const RETRY: u64 = 2_000_000;

/// What a connection needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// More from the client.
    Input,
    /// That some of what is waiting is sent.
    Output,
    /// Nothing more: it is to be closed once all is sent.
    Close,
}

/// One client's connection, as the service's protocol has it.
pub trait Connection {
    /// How many more bytes it takes now.
    fn room(&self) -> usize;

    /// Takes what has come: no more than there is room for.
    fn receive(&mut self, bytes: &[u8]);

    /// Whether a request has begun and isn't all there.
    fn amid_request(&self) -> bool;
}

/// What is served: the same for all connections of a thread.
pub trait Service {
    type Connection: Connection;

    fn accept(&mut self, peer: SocketAddr) -> Self::Connection;

    /// Answers what has arrived, and appends to `out` until that holds `enough`.
    fn work(&mut self, connection: &mut Self::Connection, out: &mut Vec<u8>, enough: usize) -> Wants;

    /// The client took too long over a request: the last words to it.
    fn time_out(&mut self, _connection: &mut Self::Connection, _out: &mut Vec<u8>) {}

    /// Answers a datagram by calling `send`, in any number.
    fn datagram(&mut self, _bytes: &[u8], _send: &mut dyn FnMut(&[u8])) {}

    /// Before the answers of a turn leave: what they promise must hold from here on.
    fn settle(&mut self) -> Result<(), Cancelled> {
        Ok(())
    }

    /// Every quarter of a second.
    fn look(&mut self) {}
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of a thread at most.
    pub connections: usize,
    /// Connections not yet established at most.
    pub backlog: u32,
    /// Bytes of answers that wait to be sent, of all connections together.
    pub waiting: usize,
    /// For a request, from its first byte to its last.
    pub request: Duration,
    /// For taking an answer, as long as nothing of it is taken.
    pub answer: Duration,
    /// Between requests.
    pub idle: Duration,
}

/// What is counted, of one thread.
#[derive(Debug, Default)]
pub struct Tallies {
    pub accepted: Tally,
    pub open: Tally,
    /// More than there may be.
    pub refused: Tally,
    pub timed_out: Tally,
    /// Ended by the peer or the stack while something was under way.
    pub broken: Tally,
    pub bytes_received: Tally,
    pub bytes_sent: Tally,
    pub datagrams: Tally,
    /// How often the stack went away, and how many connections with it.
    pub stack_lost: Tally,
    pub connections_lost: Tally,
}

struct Entry<C> {
    socket: SocketId,
    connection: C,
    out: Vec<u8>,
    /// How much of `out` has been sent.
    sent: usize,
    /// Bytes that the stack takes.
    room: usize,
    /// What has come and the connection has no room for.
    unread: Vec<u8>,
    paused: bool,
    /// The peer has finished sending.
    ended: bool,
    closing: bool,
    /// To be worked on in the next turn.
    pending: bool,
    /// When the request under way began; when something was last sent or received.
    began: Option<u64>,
    moved: u64,
}

impl<C> Entry<C> {
    fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }
}

/// A thread's clients.
pub struct Server<'a, S: Service> {
    service: S,
    limits: Limits,
    tallies: &'a Tallies,
    listener: Option<SocketId>,
    bound: Option<SocketId>,
    /// By the socket's index.
    entries: Vec<Option<Entry<S::Connection>>>,
    open: usize,
    /// Bytes of answers that wait, of all.
    waiting: usize,
    pending: Vec<u32>,
    looked: u64,
}

impl<'a, S: Service> Server<'a, S> {
    pub fn new(service: S, limits: Limits, tallies: &'a Tallies) -> Self {
        let (entries, pending) = (Vec::new(), Vec::new());
        Server {
            service,
            limits,
            tallies,
            listener: None,
            bound: None,
            entries,
            open: 0,
            waiting: 0,
            pending,
            looked: 0,
        }
    }

    /// Serves for ever on instance `index` of the stack, whatever becomes of that. Returns when the domain is being stopped.
    pub fn run(&mut self, stack: Port<dyn NetStack>, index: u16, tcp: Local, udp: Option<Local>) {
        let mut said = None;
        loop {
            let ended = self.serve(stack, index, tcp, udp);
            if self.listener.is_some() {
                said = None;
                self.forget_all();
            }
            match ended {
                SocketError::Call(CallError::Cancelled) => return,
                SocketError::Call(CallError::Restarting | CallError::Crashed | CallError::Gone) => {}
                // Once, however often it is tried: a port, say, that is still somebody else's.
                error => {
                    if said.replace(error) != Some(error) {
                        log::warn!("the stack says {error:?}; trying again");
                    }
                }
            }
            if crate::thread::sleep_until(time::now().saturating_add(RETRY)).is_err() {
                return;
            }
        }
    }

    /// Serves until the stack doesn't.
    pub fn serve(&mut self, stack: Port<dyn NetStack>, index: u16, tcp: Local, udp: Option<Local>) -> SocketError {
        let opened = || -> Result<_, SocketError> {
            let mut sockets = stack.open(index)?;
            let listener = sockets.listen(tcp, self.limits.backlog)?;
            let bound = udp.map(|local| sockets.bind(local)).transpose()?;
            Ok((sockets, listener, bound))
        };
        let mut sockets = match opened() {
            Ok((sockets, listener, bound)) => {
                (self.listener, self.bound) = (Some(listener), bound);
                sockets
            }
            Err(error) => return error,
        };
        let mut round = match Round::allocate() {
            Ok(round) => round,
            Err(_) => return SocketError::Full,
        };
        loop {
            match self.turn(&mut sockets, round) {
                Ok(back) => round = back,
                Err(error) => return error,
            }
        }
    }

    /// One exchange with the stack, and the work on what it brings.
    pub fn turn(&mut self, sockets: &mut Cap<dyn Sockets>, mut round: RRef<Round>) -> Result<RRef<Round>, SocketError> {
        let now = time::now();
        if now >= self.looked.saturating_add(LOOK) {
            self.looked = now;
            self.look(now, &mut round);
        }
        self.service.settle().map_err(|Cancelled| SocketError::Call(CallError::Cancelled))?;
        // Who has something left to do doesn't wait for more.
        let deadline = if self.pending.is_empty() { now.saturating_add(LOOK) } else { 0 };
        let mut round = sockets.exchange(round, deadline)?;
        let now = time::now();
        let mut touched = core::mem::take(&mut self.pending);
        for at in 0..round.events().len() {
            let event = round.events()[at];
            if let Some(index) = self.event(event, &round, now) {
                touched.push(index);
            }
        }
        self.datagrams(&mut round);
        for index in touched {
            self.drive(index, &mut round, now);
        }
        Ok(round)
    }

    fn entry(&mut self, socket: SocketId) -> Option<&mut Entry<S::Connection>> {
        let entry = self.entries.get_mut(socket.index as usize)?.as_mut()?;
        (entry.socket == socket).then_some(entry)
    }

    /// Notes what has happened. Returns the entry that has work now.
    fn event(&mut self, event: Event, round: &Round, now: u64) -> Option<u32> {
        match event {
            Event::Accepted { listener, socket, peer, room } if Some(listener) == self.listener => {
                self.tallies.accepted.add(1);
                let index = socket.index as usize;
                if self.entries.len() <= index {
                    self.entries.resize_with(index + 1, || None);
                }
                // More than there may be are closed without a word.
                let closing = self.open >= self.limits.connections;
                let entry = Entry {
                    socket,
                    connection: self.service.accept(peer),
                    out: Vec::new(),
                    sent: 0,
                    room: room as usize,
                    unread: Vec::new(),
                    paused: false,
                    ended: false,
                    closing,
                    pending: false,
                    began: None,
                    moved: now,
                };
                if closing {
                    self.tallies.refused.add(1);
                }
                self.forget(socket.index);
                self.entries[index] = Some(entry);
                self.open += 1;
                self.tallies.open.set(self.open as u64);
                closing.then_some(socket.index)
            }
            Event::Received { socket, bytes } => {
                let bytes = round.bytes(bytes);
                self.tallies.bytes_received.add(bytes.len() as u64);
                let entry = self.entry(socket)?;
                entry.moved = now;
                let fits = if entry.unread.is_empty() { entry.connection.room().min(bytes.len()) } else { 0 };
                let (fitting, rest) = bytes.split_at(fits);
                if fits > 0 {
                    entry.connection.receive(fitting);
                }
                entry.unread.extend_from_slice(rest);
                Some(socket.index)
            }
            Event::Writable { socket, room } => {
                let entry = self.entry(socket)?;
                (entry.room, entry.moved) = (room as usize, now);
                Some(socket.index)
            }
            Event::Ended { socket } => {
                self.entry(socket)?.ended = true;
                Some(socket.index)
            }
            Event::Closed { socket, .. } => {
                let entry = self.entry(socket)?;
                if entry.waiting() > 0 || entry.connection.amid_request() {
                    self.tallies.broken.add(1);
                }
                self.forget(socket.index);
                None
            }
            _ => None,
        }
    }

    fn datagrams(&mut self, round: &mut Round) {
        let Some(bound) = self.bound else { return };
        for at in 0..round.events().len() {
            let Event::Datagram { socket, from, bytes } = round.events()[at] else { continue };
            if socket != bound {
                continue;
            }
            self.tallies.datagrams.add(1);
            let request = round.bytes(bytes).to_vec();
            // An answer for which there is no place is lost, as datagrams are.
            self.service.datagram(&request, &mut |answer| _ = round.send_to(socket, from, answer));
        }
    }

    /// Works on a connection until it needs something, and hands over what is to be sent.
    fn drive(&mut self, index: u32, round: &mut Round, now: u64) {
        let Some(entry) = self.entries.get_mut(index as usize).and_then(Option::as_mut) else { return };
        entry.pending = false;
        self.waiting -= entry.waiting();
        let mut later = false;
        loop {
            // Hand over what there is room for.
            while entry.waiting() > 0 && entry.room > 0 {
                let most = entry.waiting().min(entry.room);
                let sent = round.send(entry.socket, &entry.out[entry.sent..entry.sent + most]);
                if sent == 0 {
                    later = true;
                    break;
                }
                entry.sent += sent;
                entry.room -= sent;
                entry.moved = now;
                self.tallies.bytes_sent.add(sent as u64);
            }
            if entry.waiting() == 0 {
                entry.out.clear();
                entry.sent = 0;
                if entry.out.capacity() > 2 * ENOUGH {
                    entry.out.shrink_to(ENOUGH);
                }
            }
            if entry.closing || entry.waiting() >= ENOUGH || later {
                break;
            }
            if self.waiting >= self.limits.waiting && entry.waiting() > 0 {
                // All together have enough: this one goes on when it has sent what it has.
                break;
            }
            let before = entry.out.len();
            match self.service.work(&mut entry.connection, &mut entry.out, entry.sent + ENOUGH) {
                Wants::Close => entry.closing = true,
                Wants::Output => {}
                Wants::Input if !entry.unread.is_empty() => {
                    let taken = entry.connection.room().min(entry.unread.len());
                    if taken == 0 {
                        entry.closing = true;
                    }
                    entry.connection.receive(&entry.unread[..taken]);
                    entry.unread.drain(..taken);
                }
                Wants::Input if entry.ended => entry.closing = true,
                Wants::Input if entry.out.len() == before => break,
                Wants::Input => {}
            }
        }
        entry.began = if entry.connection.amid_request() && !entry.closing { entry.began.or(Some(now)) } else { None };
        self.waiting += entry.waiting();
        if entry.closing && entry.waiting() == 0 {
            match round.close(entry.socket) {
                Ok(()) => return self.forget(index),
                Err(_) => later = true,
            }
        }
        // What can't be taken now stays in the stack.
        let pause = !entry.unread.is_empty();
        if pause != entry.paused {
            let asked = if pause { round.pause(entry.socket) } else { round.resume(entry.socket) };
            match asked {
                Ok(()) => entry.paused = pause,
                Err(_) => later = true,
            }
        }
        if later && !entry.pending {
            entry.pending = true;
            self.pending.push(index);
        }
    }

    /// Drops whose time is up.
    fn look(&mut self, now: u64, round: &mut Round) {
        self.service.look();
        let over = |since: u64, span: Duration| now.saturating_sub(since) > span.nanos();
        for index in 0..self.entries.len() {
            let Some(entry) = &mut self.entries[index] else { continue };
            let stuck = entry.waiting() > 0 && over(entry.moved, self.limits.answer);
            let slow = entry.began.is_some_and(|began| over(began, self.limits.request));
            let idle = entry.began.is_none() && entry.waiting() == 0 && over(entry.moved, self.limits.idle);
            if !(stuck || slow || idle) {
                continue;
            }
            if stuck {
                // It takes nothing: not even a farewell. In a full round it has another quarter of a second.
                if round.reset(entry.socket).is_ok() {
                    self.tallies.timed_out.add(1);
                    self.forget(index as u32);
                }
                continue;
            }
            self.tallies.timed_out.add(1);
            let before = entry.waiting();
            if slow {
                self.service.time_out(&mut entry.connection, &mut entry.out);
            }
            entry.closing = true;
            entry.unread.clear();
            self.waiting = self.waiting - before + entry.waiting();
            self.drive(index as u32, round, now);
        }
    }

    fn forget(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize).and_then(Option::take) {
            self.waiting -= entry.waiting();
            self.open -= 1;
            self.tallies.open.set(self.open as u64);
        }
    }

    /// The stack is gone, and all connections with it.
    fn forget_all(&mut self) {
        self.tallies.stack_lost.add(1);
        self.tallies.connections_lost.add(self.open as u64);
        (self.entries, self.pending) = (vec![], vec![]);
        (self.open, self.waiting, self.listener, self.bound) = (0, 0, None, None);
        self.tallies.open.set(0);
    }

    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }
}
