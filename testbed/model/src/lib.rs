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
//!
//! Serving a guest, as the lab does; what QEMU is to be told, `vfio_user::memory_arguments` and `card_arguments` say:
//!
//! ```no_run
//! use model::{NicConfig, SharedCounters, control, packet_socket::PacketSocket, vfio_user::Server};
//!
//! let counters = SharedCounters::new();
//! let server = Server::bind("nic.sock".as_ref())?;                 // from here on QEMU may connect
//! let wire = PacketSocket::open("box0", 1522)?.count_overruns(counters.clone());
//! let (remote, inbox) = control::channel()?;
//! let seen = counters.clone();
//! let model = std::thread::spawn(move || server.serve(NicConfig::default(), wire, inbox, seen));
//! // … start QEMU, watch `counters.snapshot()`, pull the cable by `remote.send(control::Control::Cable(false))` …
//! remote.send(control::Control::Stop)?;
//! let ended = model.join().expect("the model doesn't panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bank;
pub mod config;
pub mod control;
pub mod counters;
mod eeprom;
mod fault;
mod flow_control;
pub mod frame_socket;
pub mod frames;
pub mod harness;
pub mod interop;
mod interrupt;
mod loopback;
mod mdio;
mod mishap;
mod nic;
mod offload;
mod packet;
pub mod packet_socket;
pub mod pci;
mod receive;
pub mod registers;
mod sfp;
pub mod shared_memory;
mod steering;
mod surroundings;
mod transmit;
pub mod vfio_user;

pub use bank::statistic;
pub use config::{NicConfig, SfpModule};
pub use counters::{Counters, SharedCounters, Snapshot};
pub use mishap::{MISHAPS, Mishap};
pub use nic::Nic;
pub use receive::PACKET_BUFFER;
pub use steering::toeplitz;
pub use surroundings::{DmaMemory, DmaRefused, Interrupts, Wire};
