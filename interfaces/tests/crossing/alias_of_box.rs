//! A type behind an alias is refused by what it is.
use interfaces::{CallError, interface};

pub type Number = Box<u32>;

#[interface]
pub trait Example {
    fn give(&self, value: Number) -> Result<(), CallError>;
}

fn main() {}
