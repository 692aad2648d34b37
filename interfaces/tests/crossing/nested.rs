//! A place in an object doesn't cross without the object.
use interfaces::{CallError, Nested, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Nested<u32>) -> Result<(), CallError>;
}

fn main() {}
