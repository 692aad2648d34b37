//! A callee that crashes while it writes would leave the caller's object damaged.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: &mut u32) -> Result<(), CallError>;
}

fn main() {}
