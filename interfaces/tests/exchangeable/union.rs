//! Nobody could tell which field of a union is valid.
use interfaces::Exchangeable;

#[derive(Clone, Copy, Exchangeable)]
pub union Example {
    a: u32,
    b: f32,
}

fn main() {}
