//! Frames on their way out: smoltcp writes each into a packet of a batch, whence the card takes it; nothing is copied in between, but trains (`segmentation`), which are cut into packets.

use alloc::{collections::VecDeque, vec::Vec};
use core::mem;

use interfaces::{RRef, packet::Batch};
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

use crate::{
    segmentation::{self, Train},
    sums,
};

/// Full batches that wait for the card at most: then whoever has something to send waits too.
const MOST_BATCHES: usize = 8;

/// Outgoing frames of an instance.
pub struct Outbox {
    pub max_frame: usize,
    /// The card fills in checksums.
    card_fills: bool,
    /// The batch that is being filled: packets below `used` are frames, those from there on have no bytes yet.
    filling: Option<RRef<Batch>>,
    used: usize,
    full: VecDeque<RRef<Batch>>,
    spare: Option<RRef<Batch>>,
    /// Where trains are written.
    train: Vec<u8>,
    /// Somebody wanted to send and there was no place.
    pub exhausted: bool,
    /// Frames are thrown away: what is received is a copy of what another instance answers.
    pub muted: bool,
    pub written: u64,
    /// Trains that have been cut.
    pub trains: u64,
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
            train: Vec::new(),
            exhausted: false,
            muted: false,
            written: 0,
            trains: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.full.is_empty()
    }

    /// Whether there is a packet to write a frame into.
    fn has_place(&mut self) -> bool {
        self.muted || self.is_open() || self.full.len() < MOST_BATCHES && self.refill()
    }

    fn is_open(&self) -> bool {
        self.filling.as_ref().is_some_and(|batch| self.used < batch.len())
    }

    /// Makes places in the batch that is filled; false if there are no buffers.
    fn refill(&mut self) -> bool {
        let batch = self.filling.take().or_else(|| self.spare.take());
        let Some(mut batch) = batch.or_else(|| Batch::allocate().ok()) else { return false };
        batch.fill(Batch::CAPACITY);
        self.filling = Some(batch);
        self.is_open()
    }

    /// Has a frame written into the next packet; gives `write` back if there is none for it.
    fn put<R, F: FnOnce(&mut [u8]) -> R>(&mut self, len: usize, write: F) -> Result<R, F> {
        if self.muted || !(self.is_open() || self.refill()) {
            return Err(write);
        }
        let Some(batch) = &mut self.filling else { return Err(write) };
        let mut packets = batch.packets_mut();
        let Some(mut packet) = packets.get(self.used) else { return Err(write) };
        if packet.set_len(len) != len {
            return Err(write);
        }
        let result = write(packet.data_mut());
        segmentation::name_own_mss(packet.data_mut(), self.max_frame);
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
        Ok(result)
    }

    fn write<R>(&mut self, len: usize, mss: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        if segmentation::may_be_train(len, mss, self.max_frame) {
            return self.write_train(len, mss, write);
        }
        self.put(len, write).unwrap_or_else(|write| write(&mut alloc::vec![0; len]))
    }

    /// What is too long and no train goes nowhere.
    fn write_train<R>(&mut self, len: usize, mss: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut bytes = mem::take(&mut self.train);
        bytes.resize(len.max(bytes.len()), 0);
        let result = write(&mut bytes[..len]);
        if let Some(train) = Train::new(&bytes[..len], mss) {
            self.trains += u64::from(train.is_cut());
            let sum_ip = !self.card_fills;
            for part in train.parts() {
                // Without buffers the rest is lost, as on any full wire.
                if self.put(train.frame_len(&part), |frame| train.write(part, sum_ip, frame)).is_err() {
                    break;
                }
            }
        } else if len <= self.max_frame {
            let _ = self.put(len, |frame| frame.copy_from_slice(&bytes[..len]));
        }
        self.train = bytes;
        result
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
    /// The maximum segment size of the one connection that is asked, if that makes trains; 0: whoever is asked makes none.
    pub mss: usize,
    pub outbox: &'a mut Outbox,
}

impl<'a> Wire<'a> {
    /// For those who make no trains.
    pub fn new(frame: Option<&'a [u8]>, outbox: &'a mut Outbox) -> Wire<'a> {
        Wire { frame, mss: 0, outbox }
    }
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
        Some((Received(frame), Place { outbox: self.outbox, mss: self.mss, place }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Place<'_>> {
        if !self.outbox.has_place() {
            self.outbox.exhausted = true;
            return None;
        }
        Some(Place { outbox: self.outbox, mss: self.mss, place: true })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = segmentation::longest_frame(self.outbox.max_frame);
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
    mss: usize,
    place: bool,
}

impl TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if self.place { self.outbox.write(len, self.mss, f) } else { f(&mut alloc::vec![0; len]) }
    }
}
