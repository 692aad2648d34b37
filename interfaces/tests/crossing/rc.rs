//! A reference count would be shared between domains.
use interfaces::{CallError, interface};
use std::rc::Rc;

#[interface]
pub trait Example {
    fn give(&self, value: Rc<u32>) -> Result<(), CallError>;
}

fn main() {}
