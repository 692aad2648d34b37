//! The protocol on sockets: one [`Site`] for each thread, above `runtime::serving`.

use alloc::vec::Vec;
use core::net::SocketAddr;

use interfaces::folder::Files;
use runtime::{serving, tally::Tally, time};

use crate::{
    connection::{Connection, Limits, Service, Wants},
    status::Status,
};

/// What is counted of answers, of one thread.
#[derive(Debug, Default)]
pub struct Answers {
    pub ok: Tally,
    pub redirected: Tally,
    pub not_modified: Tally,
    pub client_errors: Tally,
    pub server_errors: Tally,
}

/// What a thread serves.
pub struct Site<'a> {
    pub content: &'a Files<'a>,
    pub limits: &'a Limits,
    pub answers: &'a Answers,
    pub access_log: bool,
}

/// A connection, and whose it is.
pub struct Client<'a> {
    connection: Connection,
    limits: &'a Limits,
    peer: SocketAddr,
}

impl serving::Connection for Client<'_> {
    fn room(&self) -> usize {
        self.connection.room(self.limits)
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes);
    }

    fn amid_request(&self) -> bool {
        self.connection.amid_request()
    }
}

impl<'a> Site<'a> {
    fn service(&self) -> Service<'a> {
        // On a box that knows no date an answer has none (RFC 9110 §6.6.1).
        Service { content: self.content, limits: self.limits, date: time::date(), lines: self.access_log }
    }

    fn account(&self, client: &mut Client) {
        for access in client.connection.take_log() {
            let tally = match access.status {
                Status::NotModified => &self.answers.not_modified,
                status if status.code() < 300 => &self.answers.ok,
                status if status.code() < 400 => &self.answers.redirected,
                status if status.code() < 500 => &self.answers.client_errors,
                _ => &self.answers.server_errors,
            };
            tally.add(1);
            if self.access_log {
                log::info!("{} {access}", client.peer);
            }
        }
    }
}

impl<'a> serving::Service for Site<'a> {
    type Connection = Client<'a>;

    fn accept(&mut self, peer: SocketAddr) -> Client<'a> {
        Client { connection: Connection::default(), limits: self.limits, peer }
    }

    fn work(&mut self, client: &mut Client<'a>, out: &mut Vec<u8>, enough: usize) -> serving::Wants {
        let wants = client.connection.work(&self.service(), out, enough);
        self.account(client);
        match wants {
            Wants::Input => serving::Wants::Input,
            Wants::Output => serving::Wants::Output,
            Wants::Close => serving::Wants::Close,
        }
    }

    fn time_out(&mut self, client: &mut Client<'a>, out: &mut Vec<u8>) {
        client.connection.time_out(&self.service(), out);
        self.account(client);
    }
}
