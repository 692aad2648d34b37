//! Both sides must mean the same type.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    type Item;
    fn f(&self) -> Result<(), CallError>;
}

fn main() {}
