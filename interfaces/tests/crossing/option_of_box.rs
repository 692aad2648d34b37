//! Wrapping a box in an option does not help.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Option<Box<u32>>) -> Result<(), CallError>;
}

fn main() {}
