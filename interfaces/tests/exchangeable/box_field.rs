//! A box is memory of a private heap.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(Box<u32>);

fn main() {}
