//! The bundle: one signed archive that holds the compiled manifest and the image of every domain.
//!
//! The builder writes it ([`write`](mod@write), feature `write`), the kernel reads it ([`Bundle`]). What this crate promises:
//!
//! - Reading is total: whatever the bytes, the result is a value or an error that says which part is at fault. It never panics, and
//!   allocates no more than the manifest's own size warrants.
//! - Nothing is believed before its signature is checked. The manifest is decoded only after its signature held, and an
//!   image is handed out only after its own did.
//! - Damage is contained: an altered image makes that image's domains unusable and says so; the rest of the box goes on. An
//!   altered manifest makes the bundle unusable, since nobody can tell any more what the box was meant to be.
//! - An image is bound to its name, to the ABI it was compiled against, to its build, and to the manifest that came with it: a
//!   validly signed image from another bundle is refused.
//!
//! The layout is in [`format`](mod@format), the manifest's meaning in [`manifest`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod format;
pub mod manifest;
mod read;
mod trust;
#[cfg(feature = "write")]
pub mod write;

pub use manifest::{Manifest, ManifestError};
pub use read::{Bundle, BundleError, Image, ImageError};
pub use trust::{Hash, PublicKey, Trust};
