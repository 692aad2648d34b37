//! A recursive type would need a pointer.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example {
    next: Option<Example>,
}

fn main() {}
