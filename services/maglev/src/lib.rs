//! A layer-4 load balancer after Google's Maglev (NSDI'16): clients' packets to a VIP go to one of its backends, chosen by consistent hashing and remembered by
//! connection; backends answer clients directly (direct server return), so a packet is forwarded by a change of its link addresses alone.
//!
//! One worker per CPU owns a queue pair and everything on a packet's way: [`frame`] looks into it, [`director`] decides, [`connections`] remembers, and the
//! [`plan`] in force (lookup [`table`]s and link addresses) is read without a lock. The first CPU's worker also makes the plan ([`planner`]), by what
//! [`neighbours`] answer to ARP and the operator wishes. [`drops`] and [`statistics`] account for every packet.
//!
//! What isn't here yet: IPv6 (counted as an unknown protocol), reassembly of fragments (counted), backends off the box's segment.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod control;
pub mod connections;
pub mod director;
pub mod drops;
pub mod frame;
pub mod neighbours;
pub mod plan;
pub mod planner;
pub mod shared;
pub mod statistics;
pub mod table;
pub mod worker;
