//! The protocol on sockets: one [`Clients`] for each thread, above `runtime::serving`.

use alloc::vec::Vec;
use core::net::SocketAddr;

use interfaces::Cancelled;
use runtime::serving;

use crate::{
    clock::Clock,
    command::Context,
    datagram,
    durable::journal::Journal,
    session::{Session, Wants},
    statistics::Traffic,
    store::Store,
};

/// Items that each shard looks at for expiry, every quarter of a second.
const SWEPT: usize = 1000;

/// What a thread serves.
pub struct Clients<'a> {
    pub store: &'a Store,
    /// Of all threads, and which of them is this one.
    pub traffic: &'a [Traffic],
    pub index: usize,
    pub longest_udp_answer: usize,
    /// Nanoseconds since boot, when the store was started.
    pub started: u64,
}

impl<'a> Clients<'a> {
    fn context(&self) -> Context<'a> {
        let clock = Clock::now(self.started);
        // On a box that knows no date, what is to expire at one has expired.
        Context { store: self.store, clock, uptime: clock.uptime(), date: clock.date(), traffic: self.traffic }
    }
}

impl serving::Connection for Session {
    fn room(&self) -> usize {
        self.room()
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.receive(bytes);
    }

    fn amid_request(&self) -> bool {
        self.amid_command()
    }
}

impl serving::Service for Clients<'_> {
    type Connection = Session;

    fn accept(&mut self, _peer: SocketAddr) -> Session {
        Session::default()
    }

    fn work(&mut self, session: &mut Session, out: &mut Vec<u8>, enough: usize) -> serving::Wants {
        // Small requests may make long changes (a touch of a large value): what waits to be written is bounded.
        if self.store.journal().is_some_and(Journal::is_long) && self.settle().is_err() {
            return serving::Wants::Close;
        }
        match session.work(&self.context(), out, enough) {
            Wants::Input => serving::Wants::Input,
            Wants::Output => serving::Wants::Output,
            Wants::Close => serving::Wants::Close,
        }
    }

    fn datagram(&mut self, bytes: &[u8], send: &mut dyn FnMut(&[u8])) {
        if !datagram::answer(&self.context(), bytes, self.longest_udp_answer, send) {
            self.traffic[self.index].dropped_datagrams.add(1);
        }
    }

    fn settle(&mut self) -> Result<(), Cancelled> {
        self.store.journal().map_or(Ok(()), |journal| journal.settle(self.index))
    }

    fn look(&mut self) {
        // One thread for all.
        if self.index == 0 {
            self.store.sweep(SWEPT, self.context().clock);
        }
    }
}
