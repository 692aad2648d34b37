//! A closure is code of the caller's image.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Box<dyn FnOnce() + Send>) -> Result<(), CallError>;
}

fn main() {}
