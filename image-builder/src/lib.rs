//! What the command does, as a library: manifests, builds, images, tests.
//!
//! [`manifest`] knows what an operator wrote and whether it makes sense; [`build`] turns it into a kernel and a signed bundle.
//! Nothing is written outside the clone's `target/` and the user's own cache and configuration.

pub mod bench;
pub mod build;
pub mod campaign;
mod counts;
pub mod flash;
pub mod graph;
pub mod image;
mod machine;
pub mod manifest;
pub mod progress;
pub mod run;
pub mod scaffold;
pub mod test;
pub mod unsafe_lines;
pub mod workspace;
