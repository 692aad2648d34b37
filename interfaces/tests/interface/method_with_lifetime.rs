//! What crosses borrows nothing.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f<'a>(&self, value: &'a u32) -> Result<(), CallError>;
}

fn main() {}
