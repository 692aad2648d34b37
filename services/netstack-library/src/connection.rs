//! One TCP connection: smoltcp's socket, alone in a set of its own so that it can be handed frames and be asked for some without looking at any other, and what its
//! service has been told of it.

use alloc::vec::Vec;
use core::net::SocketAddr;

use interfaces::socket::{End, Event, Round, RoundFull, SocketId};
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::tcp::{self, CongestionControl, State},
    time::Duration,
};

use crate::{config::Config, flow::Flow};

/// The maximum segment size of who names none (RFC 9293 §3.7.1).
const DEFAULT_MSS: usize = 536;

/// A set with one TCP socket in it.
pub struct Single {
    pub set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Single {
    /// None if there is no memory for its buffers.
    pub fn new(config: &Config) -> Option<Single> {
        let buffer = |size: u64| {
            let mut buffer = Vec::new();
            buffer.try_reserve_exact(size as usize).ok()?;
            buffer.resize(size as usize, 0);
            Some(tcp::SocketBuffer::new(buffer))
        };
        let mut socket = tcp::Socket::new(buffer(config.receive_buffer.0)?, buffer(config.send_buffer.0)?);
        socket.set_nagle_enabled(false);
        // `Connection::only_acknowledges` does that: smoltcp takes a train's length for a segment's, and would wait too long.
        socket.set_ack_delay(None);
        socket.set_congestion_control(CongestionControl::Reno);
        let mut set = SocketSet::new(Vec::new());
        let handle = set.add(socket);
        Some(Single { set, handle })
    }

    pub fn socket(&self) -> &tcp::Socket<'static> {
        self.set.get(self.handle)
    }

    pub fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

/// How far a connection has come, for its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A peer wants to connect to this listener; the service hasn't heard of it.
    Opening(SocketId),
    /// The service wants to connect.
    Connecting,
    Open,
    /// The service is done with it, or has been told of its end. Ended by force at that time.
    Closing {
        until: u64,
    },
}

pub struct Connection {
    pub single: Single,
    pub flow: Flow,
    pub phase: Phase,
    /// The maximum segment size, the peer's or our own, whichever is less: so much of a train goes into a frame. 0 if the peer has named none; then there are no trains (`segmentation`).
    pub mss: usize,
    /// Bytes of the peer's that have come since something was sent.
    pub unacknowledged: usize,
    /// What the service believes that it may send.
    pub believed: usize,
    pub paused: bool,
    pub told_ended: bool,
    /// The service has finished sending.
    pub finished: bool,
    pub overrun: bool,
    /// When a segment of the peer's came last.
    pub heard: u64,
    /// In the queue of those that have something to send.
    pub dirty: bool,
    /// In its service's queue of those that have something to tell.
    pub ready: bool,
    /// Couldn't send what it had: its neighbour isn't known.
    pub stalled: bool,
    /// The earliest timer that is set for it.
    pub timer: u64,
}

impl Connection {
    pub fn new(single: Single, flow: Flow, phase: Phase, now: u64) -> Connection {
        Connection {
            single,
            flow,
            phase,
            mss: 0,
            unacknowledged: 0,
            believed: 0,
            paused: false,
            told_ended: false,
            finished: false,
            overrun: false,
            heard: now,
            dirty: false,
            ready: false,
            stalled: false,
            timer: u64::MAX,
        }
    }

    pub fn state(&self) -> State {
        self.single.socket().state()
    }

    /// Whether what it has to send is an acknowledgement of little, which may wait: of no more than a full segment (RFC 9293 §3.8.6.3: at least of every second).
    pub fn only_acknowledges(&self) -> bool {
        let is_open = self.phase == Phase::Open && self.state() == State::Established;
        is_open
            && self.single.socket().send_queue() == 0
            && (1..=self.mss.max(DEFAULT_MSS)).contains(&self.unacknowledged)
    }

    /// Takes bytes of the service's. False if there are more than it may send.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        if self.finished || self.phase != Phase::Open {
            return true;
        }
        let sent = self.single.socket_mut().send_slice(bytes);
        self.believed = self.believed.saturating_sub(bytes.len());
        // A connection that has ended takes nothing, and its service is about to hear of it.
        self.overrun = sent.is_ok_and(|sent| sent < bytes.len());
        !self.overrun
    }

    /// The service has sent everything that it wants to send.
    pub fn finish(&mut self) {
        self.finished = true;
        self.single.socket_mut().close();
    }

    /// Throws away what the peer has sent; true if there was something.
    pub fn discard(&mut self) -> bool {
        let socket = self.single.socket_mut();
        let len = socket.recv_queue();
        // An error says that there is nothing any more.
        len > 0 && socket.recv(|bytes| (bytes.len(), ())).is_ok()
    }

    fn room(&self) -> usize {
        let socket = self.single.socket();
        socket.send_capacity() - socket.send_queue()
    }

    /// Established: from here on a peer may be silent for longer, but is asked.
    fn open(&mut self, config: &Config) -> usize {
        self.phase = Phase::Open;
        let socket = self.single.socket_mut();
        socket.set_timeout(Some(Duration::from_millis(config.times.silence.nanos() / 1_000_000)));
        socket.set_keep_alive(Some(Duration::from_millis(config.times.keep_alive.nanos() / 1_000_000)));
        self.believed = self.room();
        self.believed
    }

    /// Tells the service what has happened. True if something is to be sent because of it: a larger window.
    pub fn report(&mut self, id: SocketId, round: &mut Round, config: &Config, now: u64) -> Result<bool, RoundFull> {
        // Only a window that had half closed is news to the peer; other acknowledgements have their time.
        let window = self.single.socket().recv_queue() >= self.single.socket().recv_capacity() / 2;
        let mut state = self.state();
        match self.phase {
            Phase::Closing { .. } => return Ok(false),
            Phase::Opening(_) | Phase::Connecting if matches!(state, State::SynReceived | State::SynSent) => {
                return Ok(false);
            }
            Phase::Opening(listener) => {
                let peer = SocketAddr::new(self.flow.remote, self.flow.remote_port);
                let room = self.room() as u32;
                round.push(Event::Accepted { listener, socket: id, peer, room })?;
                self.open(config);
            }
            Phase::Connecting if state != State::Closed => {
                round.push(Event::Connected { socket: id, room: self.room() as u32 })?;
                self.open(config);
            }
            Phase::Connecting | Phase::Open => {}
        }
        while !self.paused && self.single.socket().can_recv() {
            let socket = self.single.socket_mut();
            let read = |place: &mut [u8]| socket.recv_slice(place).unwrap_or(0);
            round.push_bytes(1, read, |bytes| Event::Received { socket: id, bytes })?;
        }
        state = if self.overrun { State::Closed } else { state };
        let room = self.room();
        let half = self.single.socket().send_capacity() / 2;
        if self.single.socket().may_send() && self.believed < half && room > self.believed && room >= half {
            round.push(Event::Writable { socket: id, room: room as u32 })?;
            self.believed = room;
        }
        let peer_finished = matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if peer_finished && !self.told_ended && self.single.socket().recv_queue() == 0 {
            round.push(Event::Ended { socket: id })?;
            self.told_ended = true;
        }
        let both_finished = self.finished && self.told_ended;
        if state == State::Closed || (state == State::TimeWait && both_finished) {
            let end = if self.overrun {
                End::Overrun
            } else if both_finished {
                End::Finished
            } else if now.saturating_sub(self.heard) >= self.patience(config) {
                End::TimedOut
            } else {
                End::Reset
            };
            round.push(Event::Closed { socket: id, end })?;
            self.phase = Phase::Closing { until: now + config.times.closing.nanos() };
        }
        Ok(window)
    }

    fn patience(&self, config: &Config) -> u64 {
        let span = if self.phase == Phase::Connecting { config.times.opening } else { config.times.silence };
        // smoltcp counts milliseconds.
        span.nanos().saturating_sub(1_000_000)
    }
}
