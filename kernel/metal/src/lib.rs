//! The pure part of the metal kernel: what firmware and boot loaders hand over, the bookkeeping of pages and of
//! virtual addresses, queues of bytes.
//!
//! Nothing here touches hardware, so all of it is tested on the host. What does touch it is the binary beside it.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod areas;
pub mod boot_info;
pub mod date;
pub mod frames;
pub mod queue;
pub mod reach;
