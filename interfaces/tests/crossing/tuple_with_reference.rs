//! Wrapping a reference in a tuple does not help.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: (u32, &'static str)) -> Result<(), CallError>;
}

fn main() {}
