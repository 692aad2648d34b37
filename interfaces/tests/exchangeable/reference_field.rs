//! What crosses borrows nothing.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example {
    name: &'static str,
}

fn main() {}
