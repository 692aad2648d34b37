//! A port has a type.
use interfaces::Port;

#[derive(runtime::Imports)]
pub struct Imports {
    net: Port,
}

fn main() {}
