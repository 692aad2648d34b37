//! A vector's memory is of a private heap.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example {
    count: u32,
    bytes: Vec<u8>,
}

fn main() {}
