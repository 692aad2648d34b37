//! Sockets: what a network stack exports, and services import.
//!
//! A stack has *instances*, one per queue of its card. A thread of a service opens one of them and gets a [`Sockets`] handle; what it listens to, binds
//! or connects there is its own, and is reset when it lets go of the handle or dies. Connections are spread over the instances by the card, so a service opens all of
//! them, with a thread each, and listens in each.
//!
//! After `listen` there is one call, [`Sockets::exchange`]: a [`Round`] goes in with everything the service wants to send, and comes back with everything that has
//! happened. The caller's own thread does the stack's work, down to the card's queue and back; so a request and its answer cost two calls however many connections
//! took part.
//!
//! **Back-pressure.** Out: the service may send what the stack has room for, by connection ([`Event::Accepted`], [`Event::Connected`] and [`Event::Writable`] say
//! how much), so that nothing is ever taken in part. In: what doesn't fit into a round stays in the stack, [`Round::pause`] leaves it there, and TCP's window closes
//! by itself.
//!
//! **Crashes.** If the stack crashes every connection is gone and its peers are reset: a call says so (`SocketError::Call`), the handle errs for ever, and the service
//! opens the stack and listens anew.

use core::net::{IpAddr, SocketAddr};

use crate::{CallError, Cap, Exchangeable, RRef, abi::kernel, interface, rref::ExchangeFull};

/// A socket or a connection: of one [`Sockets`] handle, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Exchangeable)]
pub struct SocketId {
    /// Small: below [`StackInfo::sockets`]; used again after the socket is gone. A service may have a table by it.
    pub index: u32,
    /// Tells sockets of one index apart.
    pub serial: u32,
}

/// A [`Sockets`] handle, for [`NetStack::wake`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Exchangeable)]
pub struct SocketsId(pub u64);

/// What a service wants to know of a stack before it opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub struct StackInfo {
    /// Instance `i` is served on the `i`-th CPU of the stack.
    pub instances: u16,
    /// Sockets and connections that an instance has at most.
    pub sockets: u32,
    /// The box's own addresses; none before DHCP has found one.
    pub ipv4: Option<core::net::Ipv4Addr>,
    pub ipv6: Option<core::net::Ipv6Addr>,
}

/// Where a service listens or binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Exchangeable)]
pub struct Local {
    /// None: every address of the box.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Local {
    /// That port of every address of the box.
    pub const fn port(port: u16) -> Local {
        Local { address: None, port }
    }
}

/// Why a stack did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum SocketError {
    /// The call itself failed. After `Crashed` and `Gone`: open the stack anew.
    Call(CallError),
    /// No instance of that number.
    NoSuchInstance,
    /// Somebody listens or is bound there already.
    InUse,
    /// The box has no such address, or no way to reach this one (yet).
    NoAddress,
    /// The instance has as many sockets as it may.
    Full,
}

impl From<CallError> for SocketError {
    fn from(error: CallError) -> Self {
        SocketError::Call(error)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum End {
    /// Both sides have finished.
    Finished,
    /// The peer has reset it, or refused it.
    Reset,
    /// The peer didn't answer for too long.
    TimedOut,
    /// The service has sent more than there was room for: a bug in it.
    Overrun,
}

/// Bytes of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Exchangeable)]
pub struct Span {
    at: u32,
    len: u32,
}

impl Span {
    pub fn len(self) -> usize {
        self.len as usize
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.at as usize..).and_then(|bytes| bytes.get(..self.len as usize)).unwrap_or_default()
    }
}

/// What has happened. A connection's events come in order; after `Closed` there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Event {
    /// A peer has connected to a socket that listens.
    Accepted { listener: SocketId, socket: SocketId, peer: SocketAddr, room: u32 },
    /// A connection that was asked for with `connect` is there.
    Connected { socket: SocketId, room: u32 },
    /// Bytes of the peer's ([`Round::bytes`]).
    Received { socket: SocketId, bytes: Span },
    /// There is room again: so many bytes may be sent, whatever was said before. Comes when more than half of the room had been used.
    Writable { socket: SocketId, room: u32 },
    /// The peer has finished sending (FIN); it may still receive. Everything that it has sent has been handed over.
    Ended { socket: SocketId },
    /// The connection is over.
    Closed { socket: SocketId, end: End },
    /// A datagram for a bound socket.
    Datagram { socket: SocketId, from: SocketAddr, bytes: Span },
    /// The answer to a question of that number: an address that the name has, or none if there is none, or no server that knows it.
    Resolved { question: u32, address: Option<IpAddr> },
}

/// What a service wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Request {
    /// Bytes of a connection to be sent.
    Bytes {
        socket: SocketId,
        bytes: Span,
    },
    /// A datagram to be sent; dropped if there is no place for it.
    Datagram {
        socket: SocketId,
        to: SocketAddr,
        bytes: Span,
    },
    /// Sends FIN after what has been sent; receiving goes on.
    Finish {
        socket: SocketId,
    },
    /// The service is done with the socket: what has been sent is delivered, then FIN; what the peer still sends is thrown away. No more events of it.
    Close {
        socket: SocketId,
    },
    /// As `Close`, but at once, with RST.
    Reset {
        socket: SocketId,
    },
    Pause {
        socket: SocketId,
    },
    Resume {
        socket: SocketId,
    },
    /// An address of a name is wanted: one of IPv6, or one of IPv4.
    Resolve {
        question: u32,
        name: Span,
        ipv6: bool,
    },
}

/// One turn of a service with its stack: on the way in what the service wants, on the way back what has happened.
///
/// A service keeps one round for good, and reads events out of it in place.
#[derive(Clone, Copy, Exchangeable)]
pub struct Round {
    request_count: u32,
    event_count: u32,
    sent: u32,
    received: u32,
    requests: [Request; Round::REQUESTS],
    events: [Event; Round::EVENTS],
    out: [u8; Round::SENDS],
    data: [u8; Round::RECEIVES],
}

/// An object of the exchange heap's class of 64 KiB, with its head.
const _: () = assert!(size_of::<Round>() <= 65_536 - 64);

/// The round, or the part of it that was asked for, is full: exchange it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundFull;

impl Round {
    pub const REQUESTS: usize = 96;
    pub const EVENTS: usize = 96;
    /// Bytes that a round takes to the stack.
    pub const SENDS: usize = 28 * 1024;
    /// Bytes that it brings back.
    pub const RECEIVES: usize = 22 * 1024;

    /// An empty round.
    pub fn allocate() -> Result<RRef<Round>, ExchangeFull> {
        const NOBODY: SocketId = SocketId { index: 0, serial: 0 };
        let object = (kernel().exchange_allocate)(Round::KIND, size_of::<Round>(), align_of::<Round>()).cast::<Round>();
        let object = core::ptr::NonNull::new(object).ok_or(ExchangeFull)?;
        let round = object.as_ptr();
        // SAFETY: fresh memory for a round, written field by field since a round is too large for a stack; all of them are written.
        unsafe {
            (&raw mut (*round).request_count).write(0);
            (&raw mut (*round).event_count).write(0);
            (&raw mut (*round).sent).write(0);
            (&raw mut (*round).received).write(0);
            for i in 0..Self::REQUESTS {
                (&raw mut (*round).requests[i]).write(Request::Reset { socket: NOBODY });
            }
            for i in 0..Self::EVENTS {
                (&raw mut (*round).events[i]).write(Event::Ended { socket: NOBODY });
            }
            (&raw mut (*round).out).write_bytes(0, 1);
            (&raw mut (*round).data).write_bytes(0, 1);
            Ok(RRef::from_raw(object))
        }
    }
}

/// A service's side.
impl Round {
    /// Has `bytes` sent: as many as the round has place for. Returns how many; the caller sees to it that they are no more than the connection has room for.
    pub fn send(&mut self, socket: SocketId, bytes: &[u8]) -> usize {
        self.send_with(socket, |place| {
            let len = bytes.len().min(place.len());
            place[..len].copy_from_slice(&bytes[..len]);
            len
        })
    }

    /// Has sent what `write` puts at the front of the place that it is given; `write` returns how many bytes that is. Nothing is sent, and `write` not called, if the
    /// round has no place.
    pub fn send_with(&mut self, socket: SocketId, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let (at, count) = (self.sent_bytes(), self.request_count());
        // What follows bytes of the same connection becomes part of them.
        let follows = match self.requests[..count].last() {
            Some(Request::Bytes { socket: last, bytes }) => *last == socket && (bytes.at + bytes.len) as usize == at,
            _ => false,
        };
        if at == Self::SENDS || (count == Self::REQUESTS && !follows) {
            return 0;
        }
        let place = &mut self.out[at..];
        let len = write(place).min(place.len());
        if len == 0 {
            return 0;
        }
        self.sent = (at + len) as u32;
        match self.requests[..count].last_mut() {
            Some(Request::Bytes { bytes, .. }) if follows => bytes.len += len as u32,
            _ => {
                let bytes = Span { at: at as u32, len: len as u32 };
                self.requests[count] = Request::Bytes { socket, bytes };
                self.request_count = count as u32 + 1;
            }
        }
        len
    }

    /// Bytes that may still be sent with this round.
    pub fn place(&self) -> usize {
        if self.request_count() == Self::REQUESTS { 0 } else { Self::SENDS - self.sent_bytes() }
    }

    /// Has a datagram sent from a bound socket.
    pub fn send_to(&mut self, socket: SocketId, to: SocketAddr, datagram: &[u8]) -> Result<(), RoundFull> {
        let at = self.sent_bytes();
        let place = self.out.get_mut(at..).and_then(|place| place.get_mut(..datagram.len())).ok_or(RoundFull)?;
        place.copy_from_slice(datagram);
        let bytes = Span { at: at as u32, len: datagram.len() as u32 };
        self.request(Request::Datagram { socket, to, bytes })?;
        self.sent += bytes.len;
        Ok(())
    }

    /// Sends FIN after what has been sent; receiving goes on.
    pub fn finish(&mut self, socket: SocketId) -> Result<(), RoundFull> {
        self.request(Request::Finish { socket })
    }

    /// Is done with the socket: what has been sent is delivered, then FIN. No more events of it come.
    pub fn close(&mut self, socket: SocketId) -> Result<(), RoundFull> {
        self.request(Request::Close { socket })
    }

    /// Is done with the socket, and tells the peer so by RST. No more events of it come.
    pub fn reset(&mut self, socket: SocketId) -> Result<(), RoundFull> {
        self.request(Request::Reset { socket })
    }

    /// Leaves what the peer sends in the stack, whose window closes when it has enough.
    pub fn pause(&mut self, socket: SocketId) -> Result<(), RoundFull> {
        self.request(Request::Pause { socket })
    }

    pub fn resume(&mut self, socket: SocketId) -> Result<(), RoundFull> {
        self.request(Request::Resume { socket })
    }

    /// Asks for an address of `name`, by DNS: `Event::Resolved` brings it, with the number that the service gives the question. (RFC 1035 §2.3.4: no name is longer
    /// than 255 bytes.)
    pub fn resolve(&mut self, question: u32, name: &str, ipv6: bool) -> Result<(), RoundFull> {
        let at = self.sent_bytes();
        let place = self.out.get_mut(at..).and_then(|place| place.get_mut(..name.len())).ok_or(RoundFull)?;
        place.copy_from_slice(name.as_bytes());
        let name = Span { at: at as u32, len: name.len() as u32 };
        self.request(Request::Resolve { question, name, ipv6 })?;
        self.sent += name.len;
        Ok(())
    }

    fn request(&mut self, request: Request) -> Result<(), RoundFull> {
        let count = self.request_count();
        *self.requests.get_mut(count).ok_or(RoundFull)? = request;
        self.request_count = count as u32 + 1;
        Ok(())
    }

    /// What has happened, in order.
    pub fn events(&self) -> &[Event] {
        &self.events[..self.event_count()]
    }

    /// The bytes of an event of this round.
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.data)
    }

    fn sent_bytes(&self) -> usize {
        (self.sent as usize).min(Self::SENDS)
    }

    fn request_count(&self) -> usize {
        (self.request_count as usize).min(Self::REQUESTS)
    }

    fn event_count(&self) -> usize {
        (self.event_count as usize).min(Self::EVENTS)
    }
}

/// The stack's side.
impl Round {
    /// What the service wants, in order.
    pub fn requests(&self) -> &[Request] {
        &self.requests[..self.request_count()]
    }

    /// The bytes of a request of this round.
    pub fn outgoing(&self, span: Span) -> &[u8] {
        span.of(&self.out)
    }

    /// The requests have been seen to, and there are no events yet.
    pub fn begin(&mut self) {
        (self.request_count, self.sent, self.event_count, self.received) = (0, 0, 0, 0);
    }

    /// Adds an event without bytes.
    pub fn push(&mut self, event: Event) -> Result<(), RoundFull> {
        let count = self.event_count();
        *self.events.get_mut(count).ok_or(RoundFull)? = event;
        self.event_count = count as u32 + 1;
        Ok(())
    }

    /// Adds the event that `event` makes of the bytes that `read` puts at the front of the place that it is given, which is `least` long or more; `read` returns how
    /// many they are. No event if there are none.
    pub fn push_bytes(
        &mut self,
        least: usize,
        read: impl FnOnce(&mut [u8]) -> usize,
        event: impl FnOnce(Span) -> Event,
    ) -> Result<(), RoundFull> {
        let at = (self.received as usize).min(Self::RECEIVES);
        let place = &mut self.data[at..];
        if place.len() < least.max(1) || self.event_count as usize >= Self::EVENTS {
            return Err(RoundFull);
        }
        let len = read(place).min(place.len());
        if len > 0 {
            self.received = (at + len) as u32;
            self.push(event(Span { at: at as u32, len: len as u32 }))?;
        }
        Ok(())
    }
}

/// A network stack.
#[interface]
pub trait NetStack {
    fn info(&self) -> Result<StackInfo, SocketError>;

    /// Opens instance `index` (0-based, below `StackInfo::instances`) for use by one thread, best on the same CPU.
    fn open(&self, index: u16) -> Result<Cap<dyn Sockets>, SocketError>;

    /// Ends the wait of that handle's `exchange`, now or the next: for a service whose thread has something else to see to.
    fn wake(&self, handle: SocketsId) -> Result<(), SocketError>;
}

/// A thread's sockets in one instance of a stack.
#[interface]
pub trait Sockets {
    /// This handle, for [`NetStack::wake`].
    fn id(&mut self) -> Result<SocketsId, SocketError>;

    /// Accepts TCP connections there; with so many of them not yet established at most.
    fn listen(&mut self, local: Local, backlog: u32) -> Result<SocketId, SocketError>;

    /// Connects by TCP: `Event::Connected` or `Event::Closed` says what came of it.
    fn connect(&mut self, to: SocketAddr) -> Result<SocketId, SocketError>;

    /// Receives UDP datagrams there.
    fn bind(&mut self, local: Local) -> Result<SocketId, SocketError>;

    /// Does what the round's requests want, and the stack's work; comes back with what has happened. Without events it waits for some until `deadline` (nanoseconds of
    /// `runtime::time`; 0 doesn't wait), but no longer than a few dozen milliseconds: then it comes back empty.
    fn exchange(&mut self, round: RRef<Round>, deadline: u64) -> Result<RRef<Round>, SocketError>;
}
