//! Domains are compiled by one compiler.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    extern "C" fn f(&self) -> Result<(), CallError>;
}

fn main() {}
