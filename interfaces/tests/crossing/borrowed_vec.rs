//! What is lent is on the exchange heap, and so exchangeable.
use interfaces::{Borrowed, CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Borrowed<'_, Vec<u32>>) -> Result<(), CallError>;
}

fn main() {}
