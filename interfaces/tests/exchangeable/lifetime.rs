//! What crosses borrows nothing.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example<'a> {
    name: &'a str,
}

fn main() {}
