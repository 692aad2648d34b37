//! What is nested is exchangeable itself.
use interfaces::{Exchangeable, Nested};

#[derive(Exchangeable)]
pub struct Example {
    items: Nested<Vec<u32>>,
}

fn main() {}
