//! What every domain links: its entry, private heap, threads, time, log. Trusted; wraps the kernel's table so that domains can be safe Rust.
//!
//! A domain is a `no_std` library crate with
//!
//! ```
//! # extern crate alloc;
//! use alloc::boxed::Box;
//! use interfaces::{Port, control::Control, net::Net};
//! use runtime::env::{Env, StartError};
//!
//! #[derive(runtime::Imports)]
//! pub struct Imports {
//!     pub net: Port<dyn Net>,
//! }
//!
//! #[derive(runtime::Exports)]
//! pub struct Exports {
//!     pub control: Box<dyn Control>,
//! }
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! #[serde(rename_all = "kebab-case", deny_unknown_fields)]
//! pub struct Config {
//!     pub interval: interfaces::config::Duration,
//! }
//! impl interfaces::config::Configuration for Config {}
//!
//! pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
//!     let info = imports.net.info().map_err(|error| StartError(format!("the card does not answer: {error:?}")))?;
//!     log::info!("{}: {} queues, every {}", env.name(), info.queues, config.interval);
//!     # let control: Box<dyn Control> = unimplemented!();
//!     Ok(Exports { control })
//! }
//! ```
#![no_std]

extern crate alloc;
extern crate self as runtime;

pub mod entry;
pub mod env;
pub mod heap;
pub mod hooks;
pub mod last_words;
pub mod log;
pub mod memory;
pub mod polling;
pub mod random;
pub mod serving;
pub mod sync;
pub mod tally;
pub mod text;
pub mod thread;
pub mod time;
pub mod wiring;

pub use interfaces;
pub use runtime_macros::{Exports, Imports};
