//! Bytes cross as an `RRef` of an array.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: &[u8]) -> Result<(), CallError>;
}

fn main() {}
