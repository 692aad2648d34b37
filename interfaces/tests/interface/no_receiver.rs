//! A call goes to an object.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f(value: u32) -> Result<(), CallError>;
}

fn main() {}
