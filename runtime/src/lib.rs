//! What every domain links: its entry, private heap, threads, time, log. Trusted; wraps the kernel's table so that domains can be safe Rust.
//!
//! A domain is a `no_std` library crate with
//!
//! ```ignore
//! #[derive(runtime::Imports)]
//! pub struct Imports { pub net: Port<dyn Net> }
//! #[derive(runtime::Exports)]
//! pub struct Exports { pub net: Box<dyn Net>, pub control: Box<dyn Control> }
//! #[derive(Serialize, Deserialize)] #[serde(rename_all = "kebab-case", deny_unknown_fields)]
//! pub struct Config { … }            // + impl interfaces::config::Configuration
//! pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> { … }
//! ```
#![no_std]

extern crate alloc;

pub mod env;
pub mod thread;
pub mod time;
