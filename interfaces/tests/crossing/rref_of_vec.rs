//! An object on the exchange heap holds nothing of a private heap.
use interfaces::{CallError, interface};
use interfaces::RRef;

#[interface]
pub trait Example {
    fn give(&self, value: RRef<Vec<u8>>) -> Result<(), CallError>;
}

fn main() {}
