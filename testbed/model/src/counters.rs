//! Counters for whoever balances the books of a run: what came in from the wire, where each frame
//! went, and what went out.
//!
//! They are the model's own, apart from the statistics registers (which the guest may clear), never
//! decrease, and may be read from another thread or, made by [`Counters::shared`], from another
//! process. The promise that the lab relies on, once the model is idle:
//!
//! ```text
//! rx_wire = rx_delivered + rx_missed + rx_filtered + rx_bad + frames held in the packet buffer
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

        impl Default for Counters {
            fn default() -> Self {
                Counters {
                    $($name: Cell::default(),)*
                    rx_queue: std::array::from_fn(|_| Cell::default()),
                    tx_queue: std::array::from_fn(|_| Cell::default()),
                }
            }
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
    /// Frames in the packet buffer at this moment; a gauge, not a sum.
    rx_held,
    /// Frames sent to the wire.
    tx_wire,
    tx_wire_bytes,
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
                + self.rx_held
    }
}
