//! A hierarchy is as deep as its types say.
use interfaces::{Exchangeable, Nested};

#[derive(Exchangeable)]
pub struct Example {
    next: Nested<Example>,
}

fn main() {}
