//! A software model of Intel's 82599 10 GbE controller, for drivers to run against.
//!
//! The model is a library: [`Nic`] is registers, descriptors and packet buffer as a plain state
//! machine over three traits ([`DmaMemory`], [`Wire`], [`Interrupts`]). Front-ends connect it:
//! [`harness`] puts it, memory and a cable into one process for tests; [`vfio_user`] serves a guest in
//! QEMU, with a [`packet_socket`] for its cable.
//!
//! It aims at what drivers can see, not at the silicon's inside. Datasheet sections stand beside the
//! behaviour (`82599 §7.1` is Intel's 331520); where a public driver is the witness, it is named.
//!
//! ```
//! use model::{NicConfig, harness::Machine, registers::*};
//!
//! let machine = Machine::new(NicConfig::default(), 1 << 20);
//! assert_eq!(machine.read32(LINKS) & LINKS_UP, LINKS_UP);
//! ```

mod bank;
pub mod control;
pub mod counters;
mod eeprom;
mod fault;
pub mod frame_socket;
pub mod frames;
pub mod harness;
pub mod interop;
mod interrupt;
mod nic;
mod offload;
mod packet;
pub mod packet_socket;
pub mod pci;
mod receive;
pub mod registers;
mod sfp;
mod steering;
mod surroundings;
mod transmit;
pub mod vfio_user;

pub use bank::statistic;
pub use counters::{Counters, SharedCounters, Snapshot};
pub use nic::{Nic, NicConfig};
pub use receive::PACKET_BUFFER;
pub use steering::toeplitz;
pub use surroundings::{DmaMemory, DmaRefused, Interrupts, Wire};
