//! A function pointer leads into the caller's image.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: fn(u32) -> u32) -> Result<(), CallError>;
}

fn main() {}
