//! A driver as small as it can be, for tests: it does what the datasheet's initialisation chapter
//! says (82599 §4.6) and nothing clever.

use model::harness::Machine;
use model::registers::*;
use model::{NicConfig, frames};

/// Bits of descriptors that tests look at.
pub const DD: u64 = 1;
pub const EOP: u64 = 1 << 1;
/// Advanced data descriptor, whole frame, FCS, report status.
pub const TX_DATA: u64 = 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29;
pub const TX_EOP: u64 = 1 << 24;
pub const TX_DD: u64 = 1 << 32;
pub const BUFFER: u64 = 2048;

pub struct Driver {
    pub machine: Machine,
}

#[derive(Clone, Copy)]
pub struct Ring {
    pub queue: usize,
    pub base: u64,
    pub buffers: u64,
    pub length: u64,
}

impl Driver {
    /// A machine whose NIC receives and transmits, with no queue yet.
    pub fn new() -> Driver {
        Driver::with(NicConfig::default())
    }

    pub fn with(config: NicConfig) -> Driver {
        let driver = Driver { machine: Machine::new(config, 32 << 20) };
        driver.write(CTRL, CTRL_RESET);
        driver.write(FCTRL, FCTRL_BAM);
        driver.write(RXCTRL, RXCTRL_RXEN);
        driver.write(DMATXCTL, DMATXCTL_TE);
        driver
    }

    pub fn write(&self, register: u32, value: u32) {
        self.machine.write32(register, value);
    }

    pub fn read(&self, register: u32) -> u32 {
        self.machine.read32(register)
    }

    /// An enabled receive ring of `length` descriptors with advanced format and 2 KiB buffers; none posted.
    pub fn receive_ring(&self, queue: usize, length: u64, drop: bool) -> Ring {
        let ring = self.ring(queue, length);
        self.write(rx(queue, RDBAL), ring.base as u32);
        self.write(rx(queue, RDBAH), (ring.base >> 32) as u32);
        self.write(rx(queue, RDLEN), 16 * length as u32);
        self.write(rx(queue, SRRCTL), 2 | 1 << 25 | if drop { SRRCTL_DROP_EN } else { 0 });
        self.write(rx(queue, RXDCTL), DCTL_ENABLE);
        ring
    }

    /// An enabled transmit ring.
    pub fn transmit_ring(&self, queue: usize, length: u64) -> Ring {
        let ring = self.ring(queue, length);
        self.write(tx(queue, TDBAL), ring.base as u32);
        self.write(tx(queue, TDBAH), (ring.base >> 32) as u32);
        self.write(tx(queue, TDLEN), 16 * length as u32);
        self.write(tx(queue, TXDCTL), DCTL_ENABLE);
        ring
    }

    fn ring(&self, queue: usize, length: u64) -> Ring {
        let ram = self.machine.ram();
        let base = ram.allocate(16 * length as usize);
        let buffers = ram.allocate((BUFFER * length) as usize);
        Ring { queue, base, buffers, length }
    }

    /// Posts descriptors `from..to` (indexes not yet wrapped) and moves the tail to `to`.
    pub fn post(&self, ring: Ring, from: u64, to: u64) {
        for index in from..to {
            let slot = index % ring.length;
            self.machine.ram().set_quad(ring.base + 16 * slot, ring.buffers + BUFFER * slot);
            self.machine.ram().set_quad(ring.base + 16 * slot + 8, 0);
        }
        self.write(rx(ring.queue, RDT), (to % ring.length) as u32);
    }

    /// Both quadwords of a descriptor.
    pub fn descriptor(&self, ring: Ring, index: u64) -> (u64, u64) {
        let at = ring.base + 16 * (index % ring.length);
        (self.machine.ram().quad(at), self.machine.ram().quad(at + 8))
    }

    /// The content of a received descriptor's buffer, by the length that it reports.
    pub fn received(&self, ring: Ring, index: u64) -> Option<Vec<u8>> {
        let (_, high) = self.descriptor(ring, index);
        (high & DD != 0).then(|| {
            let mut bytes = vec![0; (high >> 32 & 0xFFFF) as usize];
            let buffer = ring.buffers + BUFFER * (index % ring.length);
            self.machine.ram().read(buffer, &mut bytes).expect("a buffer of this test");
            bytes
        })
    }

    /// Writes a transmit descriptor whose buffer holds `bytes`; the tail stays.
    pub fn describe(&self, ring: Ring, index: u64, bytes: &[u8], second: u64) {
        let slot = index % ring.length;
        let buffer = ring.buffers + BUFFER * slot;
        self.machine.ram().write(buffer, bytes).expect("a buffer of this test");
        self.machine.ram().set_quad(ring.base + 16 * slot, buffer);
        self.machine.ram().set_quad(ring.base + 16 * slot + 8, second | bytes.len() as u64);
    }

    pub fn tail(&self, ring: Ring, index: u64) {
        self.write(tx(ring.queue, TDT), (index % ring.length) as u32);
    }

    /// A UDP frame to this station, told apart by `number`.
    pub fn frame(number: u16, payload: usize) -> Vec<u8> {
        frames::udp([10, 0, 0, 9], [10, 0, 0, 1], number, 4000, &vec![number as u8; payload])
    }
}
