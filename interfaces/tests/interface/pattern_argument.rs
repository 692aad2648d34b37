//! A proxy hands its arguments on by name.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f(&self, (a, b): (u32, u32)) -> Result<(), CallError>;
}

fn main() {}
