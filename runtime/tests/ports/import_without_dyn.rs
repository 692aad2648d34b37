//! An interface is a trait.
use interfaces::{Port, net::Net};

#[derive(runtime::Imports)]
pub struct Imports {
    net: Port<Net>,
}

fn main() {}
