//! A string's memory is of the caller's private heap.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: String) -> Result<(), CallError>;
}

fn main() {}
