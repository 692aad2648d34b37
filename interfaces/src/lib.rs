//! The vocabulary of the box: every interface a domain may export or import, and every type that may cross
//! from one domain to another.
//!
//! Domains, drivers and the kernel are separate images linked from this very crate, so a type or a vtable means the same
//! in all of them (the ABI hash holds the builder and the loader to it). `interfaces` knows nobody.
#![no_std]

extern crate alloc;
extern crate self as interfaces;
#[cfg(feature = "host")]
extern crate std;

pub mod abi;
pub mod block;
pub mod borrowed;
pub mod cap;
pub mod collections;
pub mod config;
pub mod control;
pub mod device;
pub mod error;
pub mod folder;
pub mod gate;
#[cfg(feature = "host")]
pub mod host;
pub mod nested;
pub mod net;
pub mod object;
pub mod packet;
pub mod port;
pub mod probe;
pub mod rref;
pub mod shape;
pub mod socket;
pub mod title;

/// The atomics of [`title`]. A seam: a model checker's may stand in their place.
mod atomic {
    pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
}

pub use borrowed::Borrowed;
pub use cap::Cap;
pub use error::{CallError, Cancelled};
pub use interfaces_macros::{Exchangeable, interface};
pub use nested::Nested;
pub use port::{Interface, InterfaceId, Port};
pub use rref::{Exchangeable, RRef, Returnable, want_back};
