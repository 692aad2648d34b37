//! An object on the exchange heap borrows nothing.
use interfaces::{CallError, interface};
use interfaces::RRef;

#[interface]
pub trait Example {
    fn give(&self, value: RRef<&'static u32>) -> Result<(), CallError>;
}

fn main() {}
