//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
use interfaces::{CallError, interface};

const unsafe fn dangerous() -> usize {
    4
}

#[interface]
pub trait Example {
    fn take(&self) -> Result<[u8; dangerous()], CallError>;
}

fn main() {}
