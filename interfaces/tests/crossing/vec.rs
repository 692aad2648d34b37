//! A vector's memory is of the caller's private heap.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Vec<u8>) -> Result<(), CallError>;
}

fn main() {}
