//! What is lent ends with the call: it can't be a result.
use interfaces::{Borrowed, CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Borrowed<'_, u32>) -> Result<Borrowed<'_, u32>, CallError>;
}

fn main() {}
