//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
const unsafe fn dangerous() -> usize {
    4
}

pub trait Width<const N: usize> {}

#[derive(runtime::Exports)]
pub struct Exports {
    net: Box<dyn Width<{ dangerous() }>>,
}

fn main() {}
