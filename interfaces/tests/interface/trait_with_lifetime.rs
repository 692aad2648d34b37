//! An interface borrows nothing.
use interfaces::{CallError, interface};

#[interface]
pub trait Example<'a> {
    fn f(&self) -> Result<(), CallError>;
}

fn main() {}
