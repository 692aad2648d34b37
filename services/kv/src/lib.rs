//! A key-value store that speaks memcached's protocol, so that existing clients just work: classic and meta commands, TCP and UDP.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arena;
pub mod classic;
pub mod clock;
pub mod command;
pub mod datagram;
pub mod item;
pub mod meta;
pub mod session;
pub mod shard;
pub mod statistics;
pub mod stats;
pub mod store;
pub mod text;
