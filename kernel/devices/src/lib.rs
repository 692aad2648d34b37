//! The trusted device crates, joined to the domain core: what both knows neither's insides. Linked by the metal and by the rig, which hand
//! [`CLASSES`] to the core at boot.
//!
//! A device crate says what it needs (`Hardware`), the core says what it has (`PciFunction`, the packet pool); here is one module for
//! each crate that maps the one to the other.
#![no_std]

extern crate alloc;

mod function;
mod ixgbe;
mod nvme;

use kernel_core::device::DeviceClass;

/// All families that this kernel can give to domains.
pub const CLASSES: &[&dyn DeviceClass] = &[&ixgbe::Family, &nvme::Controllers];
