//! A network stack for services: IPv4 and IPv6, ARP and NDP, ICMP, UDP and TCP, by smoltcp, with an instance for each queue of the card.
//!
//! [`stack`] is the core, without card and threads; [`instance`] puts it at a queue and lets services' threads in; [`handle`] is what they hold of it. What services see is
//! `interfaces::socket`, wherever the stack is: in a domain of its own (`services/netstack`), which several services may share, or in the service's own, at the card's driver or its
//! shadow with no domain between. [`placement`] is that choice, which the manifest makes.
//!
//! The box's addresses stand in the manifest, or the network tells them ([`learner`]: DHCP, router advertisements); names are looked up by [`resolver`].
//!
//! What isn't here: reassembly of fragments (counted), DHCP for IPv6, SYN cookies (the backlog is bounded instead, and the oldest gives way), selective acknowledgements
//! beyond what smoltcp does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addresses;
pub mod bound;
pub mod config;
pub mod connection;
pub mod flow;
pub mod flows;
pub mod handle;
pub mod instance;
pub mod learner;
pub mod outbox;
pub mod placement;
pub mod resolver;
pub mod segmentation;
pub mod stack;
pub mod statistics;
pub mod sums;

pub use config::Config;
pub use handle::Services;
pub use placement::Placement;
