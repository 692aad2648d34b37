//! A reference count would be shared between domains.
use interfaces::Exchangeable;
use std::rc::Rc;

#[derive(Exchangeable)]
pub struct Example(Rc<u32>);

fn main() {}
