//! A recursive type needs a pointer, and the box is one.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example {
    next: Option<Box<Example>>,
}

fn main() {}
