//! Frames on their way out: smoltcp writes each into a packet of a batch, whence the card takes it; nothing is copied in between.

use alloc::collections::VecDeque;

use interfaces::{RRef, packet::Batch};
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::sums;

/// Full batches that wait for the card at most: then whoever has something to send waits too.
const MOST_BATCHES: usize = 8;

/// Outgoing frames of an instance.
pub struct Outbox {
    max_frame: usize,
    /// The card fills in checksums.
    card_fills: bool,
    /// The batch that is being filled: packets below `used` are frames, those from there on have no bytes yet.
    filling: Option<RRef<Batch>>,
    used: usize,
    full: VecDeque<RRef<Batch>>,
    spare: Option<RRef<Batch>>,
    /// Somebody wanted to send and there was no place.
    pub exhausted: bool,
    /// Frames are thrown away: what is received is a copy of what another instance answers.
    pub muted: bool,
    pub written: u64,
}

impl Outbox {
    pub fn new(max_frame: usize, card_fills: bool) -> Outbox {
        Outbox {
            max_frame,
            card_fills,
            filling: None,
            used: 0,
            full: VecDeque::with_capacity(MOST_BATCHES + 1),
            spare: None,
            exhausted: false,
            muted: false,
            written: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.full.is_empty()
    }

    /// Whether there is a packet to write a frame into.
    fn has_place(&mut self) -> bool {
        if self.muted || self.filling.as_ref().is_some_and(|batch| self.used < batch.len()) {
            return true;
        }
        if self.full.len() >= MOST_BATCHES {
            return false;
        }
        let Some(mut batch) = self.filling.take().or_else(|| Batch::allocate().ok()) else { return false };
        batch.fill(Batch::CAPACITY);
        let any = self.used < batch.len();
        self.filling = Some(batch);
        any
    }

    fn write<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let muted = self.muted;
        if let Some(batch) = self.filling.as_mut().filter(|_| !muted)
            && let Some(mut packet) = batch.packets_mut().get(self.used)
        {
            packet.set_len(len);
            if packet.data().len() == len {
                let result = write(packet.data_mut());
                if self.card_fills {
                    let wanted = sums::leave_to_card(packet.data_mut());
                    packet.set_flags(wanted);
                } else {
                    sums::complete(packet.data_mut());
                }
                self.used += 1;
                self.written += 1;
                if self.used == Batch::CAPACITY {
                    self.full.extend(self.filling.take());
                    self.used = 0;
                }
                return result;
            }
        }
        let mut nowhere = alloc::vec![0; len];
        write(&mut nowhere)
    }

    /// The next batch to send, all of whose packets are frames.
    pub fn take(&mut self) -> Option<RRef<Batch>> {
        if let Some(batch) = self.full.pop_front() {
            return Some(batch);
        }
        if self.used == 0 {
            return None;
        }
        let mut batch = self.spare.take().or_else(|| Batch::allocate().ok())?;
        let filling = self.filling.as_mut()?;
        let mask = u32::MAX >> (32 - self.used.min(Batch::CAPACITY));
        filling.transfer(mask, &mut batch);
        self.used = 0;
        Some(batch)
    }

    /// Gives a batch back after sending: what is still in it found no place, and goes first the next time.
    pub fn put_back(&mut self, batch: RRef<Batch>) {
        if batch.is_empty() {
            self.spare = Some(batch);
        } else {
            self.full.push_front(batch);
        }
    }
}

/// One received frame, or none, and the outbox: what smoltcp takes for a device.
pub struct Wire<'a> {
    pub frame: Option<&'a [u8]>,
    pub outbox: &'a mut Outbox,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Place<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Place<'_>)> {
        let frame = self.frame.take()?;
        // An answer that finds no place is lost, as on any full wire.
        let place = self.outbox.has_place();
        Some((Received(frame), Place { outbox: self.outbox, place }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Place<'_>> {
        if !self.outbox.has_place() {
            self.outbox.exhausted = true;
            return None;
        }
        Some(Place { outbox: self.outbox, place: true })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.outbox.max_frame;
        // What is received has been verified (`flow`); what is sent is completed (`sums`, or the card).
        capabilities.checksum.ipv4 = if self.outbox.card_fills { Checksum::None } else { Checksum::Tx };
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}

pub struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub struct Place<'a> {
    outbox: &'a mut Outbox,
    place: bool,
}

impl TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if self.place { self.outbox.write(len, f) } else { f(&mut alloc::vec![0; len]) }
    }
}
