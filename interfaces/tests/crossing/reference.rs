//! A reference would point into the caller's stack or heap, which may be reclaimed while the callee runs.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: &u32) -> Result<(), CallError>;
}

fn main() {}
