//! A box is memory of the caller's private heap.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Box<u32>) -> Result<(), CallError>;
}

fn main() {}
