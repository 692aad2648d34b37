//! A box is memory of the callee's private heap.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn take(&self) -> Result<Box<u32>, CallError>;
}

fn main() {}
