//! Objects of the exchange heap cross as `RRef`s.
use interfaces::{CallError, interface, packet::Batch};

#[interface]
pub trait Example {
    fn give(&self, batch: Batch) -> Result<(), CallError>;
}

fn main() {}
