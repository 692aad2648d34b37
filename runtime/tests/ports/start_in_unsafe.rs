//! The path that `entry!` is given is evaluated outside `unsafe`: an unsafe function isn't a domain's start.
use interfaces::config::NoConfig;
use runtime::env::{Env, StartError};

unsafe fn start(_: Env, _: (), _: NoConfig) -> Result<(), StartError> {
    Ok(())
}

mod image {
    // What `entry!` does with its argument.
    fn arrive(arrival: runtime::entry::Arrival<'_>) -> u32 {
        arrival.start(super::start)
    }
}

fn main() {}
