//! The attribute's argument is no place for wishes.
use interfaces::{CallError, interface};

#[interface(fast)]
pub trait Example {
    fn f(&self) -> Result<(), CallError>;
}

fn main() {}
