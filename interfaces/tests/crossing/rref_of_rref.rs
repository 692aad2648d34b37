//! An `RRef` inside an object would have an owner of its own: only roots have.
use interfaces::{CallError, interface};
use interfaces::RRef;

#[interface]
pub trait Example {
    fn give(&self, value: RRef<RRef<u32>>) -> Result<(), CallError>;
}

fn main() {}
