//! The macro puts none of its caller's tokens inside `unsafe`: what is unsafe in them stays an error.
use interfaces::config::NoConfig;
use runtime::env::{Env, StartError};

const unsafe fn dangerous() -> usize {
    4
}

fn start<const N: usize>(_: Env, _: (), _: NoConfig) -> Result<(), StartError> {
    Ok(())
}

mod image {
    runtime::arrive!(super::start::<{ super::dangerous() }>);
}

fn main() {}
