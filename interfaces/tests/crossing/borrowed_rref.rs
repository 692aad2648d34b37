//! A borrow of an `RRef` is a pointer into the caller's frame.
use interfaces::{CallError, interface};
use interfaces::RRef;

#[interface]
pub trait Example {
    fn give(&self, value: &RRef<u32>) -> Result<(), CallError>;
}

fn main() {}
