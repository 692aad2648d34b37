//! An import arrives as a port.
use interfaces::net::Net;

#[derive(runtime::Imports)]
pub struct Imports {
    net: Box<dyn Net>,
}

fn main() {}
