//! Counters for whoever balances the books of a run: what came in from the wire, where each frame
//! went, and what went out.
//!
//! They are the model's own, apart from the statistics registers (which the guest may clear), never
//! decrease, and may be read from another thread or, since they lie in shared memory, by the process
//! that forked the model's. The promise that the lab relies on, once the model is idle:
//!
//! ```text
//! rx_wire = rx_delivered + rx_missed + rx_filtered + rx_bad_length + rx_control + frames held in the packet buffer
//! ```

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::registers::QUEUES;

/// One cell. Only the model adds to it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Cell(AtomicU64);

impl Cell {
    pub(crate) fn add(&self, n: u64) {
        // A single writer: a plain load and store are enough, and cheaper than a locked add.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Makes it `n`, unless it is more.
    pub(crate) fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters; see the module.
        #[derive(Debug)]
        #[repr(C)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Cell,)*
            /// Frames written back to a queue's ring, by queue.
            pub rx_queue: [Cell; QUEUES],
            /// Frames sent from a queue's ring, by queue.
            pub tx_queue: [Cell; QUEUES],
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Frames written back to a queue's ring, by queue.
            pub rx_queue: Vec<u64>,
            /// Frames sent from a queue's ring, by queue.
            pub tx_queue: Vec<u64>,
        }

        impl Counters {
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    $($name: self.$name.get(),)*
                    rx_queue: self.rx_queue.iter().map(Cell::get).collect(),
                    tx_queue: self.tx_queue.iter().map(Cell::get).collect(),
                }
            }
        }

        impl Snapshot {
            /// Every scalar counter with its name, in the order of declaration.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Frames that arrived from the wire.
    rx_wire,
    rx_wire_bytes,
    /// Frames written back to some ring.
    rx_delivered,
    rx_delivered_bytes,
    /// Bytes of the longest of them.
    rx_longest,
    /// Dropped: link down or receiver off (RXCTRL.RXEN).
    rx_missed_off,
    /// Dropped: the queue chosen is not enabled.
    rx_missed_queue_disabled,
    /// Dropped: the queue has no descriptors and SRRCTL.DROP_EN is set.
    rx_missed_no_descriptor,
    /// Dropped: the packet buffer is full.
    rx_missed_buffer_full,
    /// Dropped: still in the packet buffer when the device was reset.
    rx_missed_reset,
    /// Dropped: the driver's descriptor points outside mapped memory.
    rx_missed_dma,
    /// Not for this station (address filter).
    rx_filtered_address,
    /// Not in the VLAN filter.
    rx_filtered_vlan,
    /// Too short or too long for the MAC.
    rx_bad_length,
    /// Pause frames, which the MAC keeps for itself.
    rx_control,
    /// Frames in the packet buffer at this moment; a gauge, not a sum.
    rx_held,
    /// Frames sent to the wire.
    tx_wire,
    tx_wire_bytes,
    /// Bytes of the longest of them.
    tx_longest,
    /// Pause frames sent; not in `tx_wire`, which counts what drivers sent.
    tx_pause,
    /// Frames that a ring asked for and that couldn't be sent (bad descriptor, too long, link down).
    tx_refused,
    /// DMA accesses outside mapped memory, refused.
    dma_refused,
    /// MSI-X messages sent.
    interrupts,
    /// Frames that the host's socket dropped before the model saw them.
    wire_overrun,
}

impl Snapshot {
    /// Frames lost between the wire and a ring, whatever the reason.
    pub fn rx_missed(&self) -> u64 {
        self.rx_missed_off
            + self.rx_missed_queue_disabled
            + self.rx_missed_no_descriptor
            + self.rx_missed_buffer_full
            + self.rx_missed_reset
            + self.rx_missed_dma
    }

    pub fn rx_filtered(&self) -> u64 {
        self.rx_filtered_address + self.rx_filtered_vlan
    }

    /// Whether every frame from the wire is accounted for.
    pub fn balanced(&self) -> bool {
        self.rx_wire
            == self.rx_delivered
                + self.rx_missed()
                + self.rx_filtered()
                + self.rx_bad_length
                + self.rx_control
                + self.rx_held
    }
}

/// Counters in memory that threads and forked processes share. Clones are the same counters.
#[derive(Clone)]
pub struct SharedCounters(Arc<Mapping>);

struct Mapping(*mut Counters);

// SAFETY: [shared counters] the pointer is only ever used as `&Counters`, which is `Sync`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl SharedCounters {
    /// Fresh counters, all zero. Panics if the system has no page for them.
    pub fn new() -> Self {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: [mapping] anonymous memory at an address of the kernel's choice.
        let pointer = unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<Counters>(), flags, MapFlags::SHARED) };
        SharedCounters(Arc::new(Mapping(pointer.expect("a page for the model's counters").cast())))
    }
}

impl Default for SharedCounters {
    fn default() -> Self {
        SharedCounters::new()
    }
}

impl Deref for SharedCounters {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        // SAFETY: [shared counters] page-aligned memory of the right size; all-zero is a valid `Counters`, made of atomics.
        unsafe { &*self.0.0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: [mapping] made in `SharedCounters::new`; the last clone is going.
        let _ = unsafe { munmap(self.0.cast(), size_of::<Counters>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the lab reads is what the model counted, by any clone and in any thread.
    #[test]
    fn clones_share() {
        let counters = SharedCounters::new();
        let seen = counters.clone();
        std::thread::spawn(move || counters.rx_queue[127].add(3)).join().unwrap();
        assert_eq!(seen.snapshot().rx_queue[127], 3);
    }

    /// The equation holds only while every frame is in exactly one place.
    #[test]
    fn balance() {
        let counters = SharedCounters::new();
        counters.rx_wire.add(3);
        counters.rx_delivered.add(1);
        counters.rx_missed_no_descriptor.add(1);
        assert!(!counters.snapshot().balanced());
        counters.rx_held.set(1);
        assert!(counters.snapshot().balanced());
    }
}
