//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
use interfaces::Port;

const unsafe fn dangerous() -> usize {
    4
}

pub trait Width<const N: usize> {}

#[derive(runtime::Imports)]
pub struct Imports {
    net: Port<dyn Width<{ dangerous() }>>,
}

fn main() {}
