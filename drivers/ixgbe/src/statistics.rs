//! Counters: the device's own, which clear when read and so are added up here, and the rings', which the lease keeps.
//!
//! Every cell has one writer, so that none needs a lock or an atomic read-modify-write.

use alloc::{boxed::Box, format};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use interfaces::{
    Port,
    device::ixgbe::{DeviceError, IxgbeDevice, RingCounts},
};

/// A counter with one writer.
#[derive(Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, more: u64) {
        self.set(self.get() + more);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The device's statistics that are shown: name, low register, and whether four more bits follow in the next one (82599 §8.2.3.23).
const REGISTERS: &[(&str, u32, bool)] = &[
    ("device.rx.packets", 0x4074, false),       // GPRC
    ("device.rx.bytes", 0x4088, true),          // GORC
    ("device.rx.missed", 0x3FA0, false),        // RXMPC(0): the packet buffer was full
    ("device.rx.crc-errors", 0x4000, false),    // CRCERRS
    ("device.rx.length-errors", 0x4040, false), // RLEC
    ("device.rx.undersize", 0x40A4, false),     // RUC
    ("device.rx.fragments", 0x40A8, false),     // RFC
    ("device.rx.oversize", 0x40AC, false),      // ROC
    ("device.rx.jabbers", 0x40B0, false),       // RJC
    ("device.tx.packets", 0x4080, false),       // GPTC
    ("device.tx.bytes", 0x4090, true),          // GOTC
];

/// QPRDC: frames for a queue without descriptors, dropped.
const fn dropped(queue: u16) -> u32 {
    0x1430 + 0x40 * queue as u32
}

/// The counters of one ring, as its thread last published them.
#[derive(Default)]
struct RingCells {
    packets: Cell,
    bytes: Cell,
    errors: Cell,
    no_buffer: Cell,
}

impl RingCells {
    fn publish(&self, counts: RingCounts) {
        self.packets.set(counts.packets);
        self.bytes.set(counts.bytes);
        self.errors.set(counts.errors);
        self.no_buffer.set(counts.no_buffer);
    }
}

#[derive(Default)]
pub struct QueueCells {
    rx: RingCells,
    tx: RingCells,
    /// How often the queue's thread has published after it had found nothing.
    in_vain: Cell,
    /// Frames that the device dropped since the ring had no descriptor.
    dropped: Cell,
}

/// What the thread of a receive queue has last said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attendance {
    /// What came out of the ring: packets, dropped frames, and times without a buffer.
    pub taken: u64,
    /// How often the thread has looked in vain.
    pub looks: u64,
}

impl QueueCells {
    /// For the queue's thread.
    pub fn publish(&self, rx: RingCounts, tx: RingCounts) {
        self.rx.publish(rx);
        self.tx.publish(tx);
    }

    /// For the queue's thread: it has just looked, and there was nothing.
    pub fn looked_in_vain(&self) {
        self.in_vain.add(1);
    }

    pub fn attendance(&self) -> Attendance {
        let taken = self.rx.packets.get() + self.rx.errors.get() + self.rx.no_buffer.get();
        Attendance { taken, looks: self.in_vain.get() }
    }
}

pub struct Statistics {
    device: [Cell; REGISTERS.len()],
    pub queues: Box<[QueueCells]>,
}

impl Statistics {
    pub fn new(queues: u16) -> Self {
        Statistics { device: Default::default(), queues: (0..queues).map(|_| QueueCells::default()).collect() }
    }

    /// Adds what the device has counted since it was last asked. One thread does this.
    pub fn collect(&self, device: Port<dyn IxgbeDevice>) -> Result<(), DeviceError> {
        for (cell, &(_, register, wide)) in self.device.iter().zip(REGISTERS) {
            // Reading the low half keeps the high one for the next read, which clears both.
            let low = device.read(register)?;
            let high = if wide { device.read(register + 4)? & 0xF } else { 0 };
            cell.add(u64::from(low) | u64::from(high) << 32);
        }
        for (queue, cells) in (0..).zip(&*self.queues) {
            cells.dropped.add(u64::from(device.read(dropped(queue))?));
        }
        Ok(())
    }

    /// Calls `show` with the name and value of each counter, until it returns false.
    pub fn show(&self, mut show: impl FnMut(&str, u64) -> bool) {
        for (cell, (name, ..)) in self.device.iter().zip(REGISTERS) {
            if !show(name, cell.get()) {
                return;
            }
        }
        for (at, cells) in self.queues.iter().enumerate() {
            for (direction, ring) in [("rx", &cells.rx), ("tx", &cells.tx)] {
                let values = [
                    ("packets", &ring.packets),
                    ("bytes", &ring.bytes),
                    ("errors", &ring.errors),
                    ("no-buffer", &ring.no_buffer),
                ];
                for (name, cell) in values {
                    if !show(&format!("queue.{at}.{direction}.{name}"), cell.get()) {
                        return;
                    }
                }
            }
            if !show(&format!("queue.{at}.rx.dropped"), cells.dropped.get()) {
                return;
            }
        }
    }
}

/// Forgets what the device has counted.
pub fn clear(device: Port<dyn IxgbeDevice>) -> Result<(), DeviceError> {
    Statistics::new(0).collect(device)?;
    (0..16).try_for_each(|queue| device.read(dropped(queue)).map(drop))
}
