//! A socket for datagrams: what has come for it, until its service takes it; smoltcp sends for it.

use alloc::{boxed::Box, collections::VecDeque, vec, vec::Vec};
use core::net::SocketAddr;

use interfaces::socket::{Event, Local, Round, RoundFull, SocketId};
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::udp,
    wire::{IpEndpoint, IpListenEndpoint},
};

use crate::flow::Flow;

/// Datagrams, and bytes of them, that wait for the service at most: one more is dropped, as UDP has it.
const MOST_WAITING: usize = 256;
/// Datagrams that wait to be sent.
const MOST_SENDING: usize = 64;
const SENDING_BYTES: usize = 64 * 1024;

pub struct Bound {
    pub local: Local,
    pub set: SocketSet<'static>,
    handle: SocketHandle,
    waiting: VecDeque<(SocketAddr, Box<[u8]>)>,
    pub ready: bool,
    pub dirty: bool,
}

impl Bound {
    /// None if the port can't be bound: it is 0.
    pub fn new(local: Local) -> Option<Bound> {
        let sending = udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; MOST_SENDING], vec![0; SENDING_BYTES]);
        // What is received doesn't go through smoltcp's socket.
        let receiving = udp::PacketBuffer::new(Vec::new(), Vec::new());
        let mut socket = udp::Socket::new(receiving, sending);
        socket.bind(IpListenEndpoint { addr: local.address.map(Into::into), port: local.port }).ok()?;
        let mut set = SocketSet::new(Vec::new());
        let handle = set.add(socket);
        Some(Bound { local, set, handle, waiting: VecDeque::new(), ready: false, dirty: false })
    }

    /// A datagram has come. False if there is no place for it.
    pub fn receive(&mut self, flow: &Flow, payload: &[u8]) -> bool {
        let fits = self.waiting.len() < MOST_WAITING;
        if fits {
            self.waiting.push_back((SocketAddr::new(flow.remote, flow.remote_port), payload.into()));
        }
        fits
    }

    /// Sends a datagram, if there is a place for it and it fits.
    pub fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        let socket: &mut udp::Socket = self.set.get_mut(self.handle);
        // The loss of a datagram is nobody's error.
        let _ = socket.send_slice(payload, IpEndpoint::new(to.ip().into(), to.port()));
    }

    pub fn report(&mut self, socket: SocketId, round: &mut Round) -> Result<(), RoundFull> {
        while let Some((from, payload)) = self.waiting.front() {
            let read = |place: &mut [u8]| {
                place[..payload.len()].copy_from_slice(payload);
                payload.len()
            };
            let from = *from;
            round.push_bytes(payload.len(), read, |bytes| Event::Datagram { socket, from, bytes })?;
            self.waiting.pop_front();
        }
        Ok(())
    }
}
