//! A proxy could not know it.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    const LIMIT: u32;
    fn f(&self) -> Result<(), CallError>;
}

fn main() {}
