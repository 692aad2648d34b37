//! A closure is code of the caller's image.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: impl Fn() + Send) -> Result<(), CallError>;
}

fn main() {}
