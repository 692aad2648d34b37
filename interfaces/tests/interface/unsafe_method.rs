//! Domains are safe code.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    unsafe fn f(&self) -> Result<(), CallError>;
}

fn main() {}
