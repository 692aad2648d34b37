//! The object stays with its domain.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f(self) -> Result<(), CallError>;
}

fn main() {}
