//! Gives back what it is sent, by TCP and by UDP (RFC 862): the least service above a network stack, for tests of the stack, and as the shape of a service.
//!
//! A thread for each instance of the stack has one connection table and one round. If the stack crashes it opens it anew and listens again. A peer that doesn't take its
//! bytes back is paused: memory for each connection stays within what one `Received` brings. Names that its manifest lists it looks up, by both families, each time that it
//! opens the stack, and says in the log what their addresses are.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{boxed::Box, collections::VecDeque, format, string::String, sync::Arc, vec::Vec};

use interfaces::{
    CallError, Cap, Port, RRef,
    config::Configuration,
    control::{Control, ControlError, Counters, Text},
    socket::{Event, Local, NetStack, Round, SocketError, SocketId, Sockets},
};
use runtime::{
    env::{Env, StartError},
    tally::Tally,
    thread, time,
};
use serde::{Deserialize, Serialize};

#[derive(runtime::Imports)]
pub struct Imports {
    pub stack: Port<dyn NetStack>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Of both protocols.
    pub port: u16,
    pub backlog: u32,
    /// To be looked up; each is asked for until it has an address of each family.
    pub names: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config { port: 7, backlog: 256, names: Vec::new() }
    }
}

impl Configuration for Config {}

/// While the stack is away: how often it is looked for.
const LOOK_AGAIN: u64 = 1_000_000;
/// After a name that had no address: the stack may not know yet whom to ask.
const ASK_AGAIN: u64 = 500_000_000;

#[derive(Default)]
struct Statistics {
    accepted: Tally,
    bytes: Tally,
    datagrams: Tally,
    finished: Tally,
    broken: Tally,
    /// How often the stack was opened, after the first time.
    reopened: Tally,
}

pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let threads: Vec<Arc<Statistics>> = env.cpus().iter().map(|_| Arc::default()).collect();
    for (index, (&cpu, statistics)) in env.cpus().iter().zip(&threads).enumerate() {
        let echo = Echo {
            index: index as u16,
            port: imports.stack,
            config: config.clone(),
            statistics: statistics.clone(),
            connections: Vec::new(),
            unknown: Vec::new(),
            ask_at: runtime::sync::NEVER,
        };
        env.spawn(&format!("echo{index}"), cpu, move || echo.run())?;
    }
    Ok(Exports { control: Box::new(Console(threads)) })
}

/// The domain is ending.
struct Ended;

/// One thread's work.
struct Echo {
    index: u16,
    port: Port<dyn NetStack>,
    config: Config,
    statistics: Arc<Statistics>,
    /// By the index of their sockets.
    connections: Vec<Option<Connection>>,
    /// Questions that are to be asked, by their numbers: twice the name's place in the manifest, and 1 for IPv6.
    unknown: Vec<u32>,
    ask_at: u64,
}

struct Connection {
    socket: SocketId,
    /// What the stack has room for.
    room: usize,
    /// What it had no room for yet; then the connection is paused.
    pending: VecDeque<u8>,
    paused: bool,
    /// The peer has finished: so do we, when all is given back.
    ended: bool,
}

impl Echo {
    fn run(mut self) {
        let mut first = true;
        while let Ok(sockets) = self.open() {
            if !first {
                self.statistics.reopened.add(1);
            }
            first = false;
            self.connections.clear();
            match self.serve(sockets) {
                SocketError::Call(CallError::Cancelled) => return,
                // Whatever it was: the stack is opened anew.
                _ => continue,
            }
        }
    }

    fn open(&self) -> Result<Cap<dyn Sockets>, Ended> {
        loop {
            match self.port.open(self.index) {
                Ok(sockets) => return Ok(sockets),
                Err(SocketError::Call(CallError::Cancelled)) => return Err(Ended),
                Err(_) => thread::sleep_until(time::now() + LOOK_AGAIN).map_err(|_| Ended)?,
            }
        }
    }

    /// Serves until the stack fails.
    fn serve(&mut self, mut sockets: Cap<dyn Sockets>) -> SocketError {
        let listened = sockets.listen(Local::port(self.config.port), self.config.backlog);
        let bound = sockets.bind(Local::port(self.config.port));
        if let Err(error) = listened.and(bound) {
            return error;
        }
        let Ok(mut round) = Round::allocate() else { return SocketError::Full };
        self.unknown = (0..2 * self.config.names.len() as u32).collect();
        self.ask_at = if self.unknown.is_empty() { runtime::sync::NEVER } else { time::now() };
        loop {
            self.ask(&mut round);
            round = match sockets.exchange(round, self.ask_at) {
                Ok(round) => round,
                Err(error) => return error,
            };
            self.answer(&mut round);
        }
    }

    /// Asks what is to be asked by now.
    fn ask(&mut self, round: &mut RRef<Round>) {
        if self.ask_at > time::now() {
            return;
        }
        // What finds no place is asked in the next round.
        self.unknown.retain(|&question| {
            let name = &self.config.names[question as usize / 2];
            round.resolve(question, name, question % 2 == 1).is_err()
        });
        self.ask_at = if self.unknown.is_empty() { runtime::sync::NEVER } else { time::now() };
    }

    /// Answers what has happened.
    fn answer(&mut self, round: &mut RRef<Round>) {
        for at in 0..round.events().len() {
            match round.events()[at] {
                Event::Accepted { socket, room, .. } => {
                    self.statistics.accepted.add(1);
                    let connection = Connection {
                        socket,
                        room: room as usize,
                        pending: VecDeque::new(),
                        paused: false,
                        ended: false,
                    };
                    let place = socket.index as usize;
                    if place >= self.connections.len() {
                        self.connections.resize_with(place + 1, || None);
                    }
                    self.connections[place] = Some(connection);
                }
                Event::Received { socket, bytes } => {
                    let received: Vec<u8> = round.bytes(bytes).into();
                    self.statistics.bytes.add(received.len() as u64);
                    if let Some(connection) = self.find(socket) {
                        connection.pending.extend(received);
                        give_back(connection, round);
                    }
                }
                Event::Writable { socket, room } => {
                    if let Some(connection) = self.find(socket) {
                        connection.room = room as usize;
                        give_back(connection, round);
                    }
                }
                Event::Ended { socket } => {
                    if let Some(connection) = self.find(socket) {
                        connection.ended = true;
                        give_back(connection, round);
                    }
                }
                Event::Closed { socket, .. } => {
                    if self.find(socket).is_some() {
                        self.connections[socket.index as usize] = None;
                        self.statistics.broken.add(1);
                    }
                }
                Event::Datagram { socket, from, bytes } => {
                    let datagram: Vec<u8> = round.bytes(bytes).into();
                    self.statistics.datagrams.add(1);
                    // Without a place it is lost, as datagrams are.
                    let _ = round.send_to(socket, from, &datagram);
                }
                Event::Resolved { question, address: Some(address) } => {
                    if let Some(name) = self.config.names.get(question as usize / 2) {
                        log::info!("thread {}: {name} is {address}", self.index);
                    }
                }
                Event::Resolved { question, address: None } => {
                    self.unknown.push(question);
                    self.ask_at = time::now() + ASK_AGAIN;
                }
                Event::Connected { .. } => {}
            }
        }
        // What had been finished with; and what a full round kept from being given back.
        for place in 0..self.connections.len() {
            if let Some(connection) = &mut self.connections[place] {
                if !connection.pending.is_empty() || connection.paused {
                    give_back(connection, round);
                }
                if connection.ended && connection.pending.is_empty() && round.close(connection.socket).is_ok() {
                    self.statistics.finished.add(1);
                    self.connections[place] = None;
                }
            }
        }
    }

    fn find(&mut self, socket: SocketId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(socket.index as usize)?.as_mut();
        connection.filter(|connection| connection.socket == socket)
    }
}

/// Gives back as much as there is room for, in the connection and in the round.
fn give_back(connection: &mut Connection, round: &mut RRef<Round>) {
    let (front, back) = connection.pending.as_slices();
    let mut sent = 0;
    for part in [front, back] {
        let part = &part[..part.len().min(connection.room - sent)];
        let taken = round.send(connection.socket, part);
        sent += taken;
        if taken < part.len() {
            break;
        }
    }
    connection.pending.drain(..sent);
    connection.room -= sent;
    let behind = !connection.pending.is_empty();
    if behind != connection.paused {
        // A request that finds no place is made again when the round comes back: nothing depends on when.
        let asked = if behind { round.pause(connection.socket) } else { round.resume(connection.socket) };
        connection.paused = if asked.is_ok() { behind } else { !behind };
    }
}

struct Console(Vec<Arc<Statistics>>);

impl Control for Console {
    fn counters(&self, _first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let sum = |of: fn(&Statistics) -> &Tally| self.0.iter().map(|thread| of(thread).get()).sum();
        page.push("accepted", sum(|s| &s.accepted));
        page.push("bytes", sum(|s| &s.bytes));
        page.push("datagrams", sum(|s| &s.datagrams));
        page.push("finished", sum(|s| &s.finished));
        page.push("broken", sum(|s| &s.broken));
        page.push("reopened", sum(|s| &s.reopened));
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use interfaces::host::{
        self,
        sockets::{Limits, Network},
    };

    fn started(limits: Limits) -> Network {
        host::connect();
        let network = Network::new(limits);
        let imports = Imports { stack: Port::new(Box::leak(network.stack())) };
        start(Env::new("echo", 1, &[0]), imports, Config::default()).unwrap();
        network
    }

    fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = time::now() + 10_000_000_000;
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            assert!(time::now() < deadline, "it never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    extern crate std;

    /// More than fits into the connection, to a peer that is slow to take it back; then its end.
    #[test]
    fn all_comes_back_in_order_then_the_end() {
        let network = started(Limits { room: 5_000, ..Limits::default() });
        let mut peer = wait_for(|| network.connect(0, 7));
        let all: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let (mut sent, mut back) = (0, Vec::new());
        wait_for(|| {
            sent += peer.send(&all[sent..]);
            back.extend(peer.receive());
            (back.len() == all.len()).then_some(())
        });
        assert!(back == all);
        peer.finish();
        wait_for(|| peer.is_finished().then_some(()));
        assert!(!peer.is_reset());
    }

    #[test]
    fn after_a_crash_of_the_stack_it_listens_again() {
        let network = started(Limits::default());
        let first = wait_for(|| network.connect(0, 7));
        network.crash();
        assert!(first.is_reset());
        let mut second = wait_for(|| network.connect(0, 7));
        second.send(b"again");
        assert_eq!(wait_for(|| Some(second.receive()).filter(|back| !back.is_empty())), b"again");
    }

    #[test]
    fn datagrams_come_back() {
        let network = started(Limits::default());
        let from = "10.0.0.9:999".parse().unwrap();
        wait_for(|| network.datagram(0, 7, from, b"hello").then_some(()));
        assert_eq!(wait_for(|| network.datagrams().pop()), (7, from, b"hello".to_vec()));
    }
}
