//! A port is copied; a reference would need a lifetime.
use interfaces::net::Net;

#[derive(runtime::Imports)]
pub struct Imports {
    net: &'static dyn Net,
}

fn main() {}
