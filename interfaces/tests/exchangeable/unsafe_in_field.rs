//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
use interfaces::Exchangeable;

const unsafe fn dangerous() -> usize {
    4
}

#[derive(Exchangeable)]
pub struct Example([u8; dangerous()]);

fn main() {}
