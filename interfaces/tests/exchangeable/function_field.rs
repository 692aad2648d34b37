//! A function pointer leads into an image.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example {
    done: fn(),
}

fn main() {}
