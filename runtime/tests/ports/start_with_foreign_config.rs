//! A domain's configuration is one that the builder can check.
use runtime::env::{Env, StartError};

pub struct Config;

fn start(_: Env, _: (), _: Config) -> Result<(), StartError> {
    Ok(())
}

fn arrive(arrival: runtime::entry::Arrival<'_>) -> u32 {
    arrival.start(start)
}

fn main() {}
