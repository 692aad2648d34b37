//! A result that borrows from the callee would outlive its crash.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn take(&self) -> Result<&u32, CallError>;
}

fn main() {}
