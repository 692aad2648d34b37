//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
use interfaces::interface;

const unsafe fn dangerous() -> usize {
    4
}

#[interface(kernel)]
pub trait Example {
    fn give(&self, value: [u8; dangerous()]);
}

fn main() {}
