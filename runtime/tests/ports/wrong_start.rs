//! A domain's `start` has one signature.
use runtime::env::{Env, StartError};

fn start(_env: Env) -> Result<(), StartError> {
    Ok(())
}

fn arrive(arrival: runtime::entry::Arrival<'_>) -> u32 {
    arrival.start(start)
}

fn main() {}
