//! Interior mutability would be memory that two domains write.
use interfaces::{CallError, interface};
use std::cell::Cell;

#[interface]
pub trait Example {
    fn give(&self, value: Cell<u32>) -> Result<(), CallError>;
}

fn main() {}
