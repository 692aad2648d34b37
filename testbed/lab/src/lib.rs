//! The lab: hosts round the box, and the truth about the box as seen from outside it.
//!
//! [`run`] boots a box (QEMU with the 82599 model as its NIC), puts a client, a router and backends round it, loads it, crashes its
//! domains as asked, and reports what arrived where, measured on the host by one clock. Nothing that the box says about itself
//! counts as evidence of forwarding: completions are checked by length and SHA-256, moves and gaps are read from captures at the backends,
//! and the box's own counters are only compared with what was seen.
//!
//! Promises: everything lives in namespaces of the run's own (user, mount, network, PID), with files on a tmpfs inside them, so that even
//! `kill -9` of the command leaves no process, namespace or file; two runs beside each other don't meet; every wait is bounded.
//!
//! The program that calls [`run`] must call [`stage`] first thing in `main`: the lab enters its namespaces by starting that very program again.

mod authority;
mod backend;
mod capture;
mod clock;
mod console;
mod content;
mod control;
mod disk;
mod error;
mod facts;
mod feed;
mod frame;
mod gaps;
mod judge;
mod labfile;
mod load;
mod machine;
mod namespace;
mod netlink;
mod network;
mod nic;
mod offload;
mod options;
mod probe;
mod programs;
mod report;
mod rubbish;
mod run;
mod schedule;
mod server;
mod service;
mod session;
mod spread;
mod stage;
mod status;
mod switch_port;
mod table;
mod units;
mod view;
mod watch;
mod witness;

pub use error::Error;
pub use labfile::{ClientNet, ConsoleAddition, DiskSettings, LabFile, Limits, Load, RouterNet, SegmentNet};
pub use model::interop::guest;
pub use model::{MISHAPS, Mishap};
pub use network::router_on_segment;
pub use options::{
    Backend, Boot, BoxAddress6, BoxSettings, Command, Crash, Disk, Fault, Firmware, Format, Outage, Pause, Program,
    Protocol, Rubbish, RunOptions, Service, ServiceKind, Told, Tool, Tools, Vip,
};
pub use report::*;
pub use rubbish::RubbishReport;
pub use run::run;
pub use stage::stage;
pub use table::render;
pub use units::{UnitError, parse_duration, parse_size};
