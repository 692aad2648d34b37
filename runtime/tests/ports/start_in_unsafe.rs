//! The path that `entry!` is given is evaluated outside `unsafe`: an unsafe function isn't a domain's start.
use interfaces::config::NoConfig;
use runtime::env::{Env, StartError};

unsafe fn start(_: Env, _: (), _: NoConfig) -> Result<(), StartError> {
    Ok(())
}

mod image {
    runtime::arrive!(super::start);
}

fn main() {}
