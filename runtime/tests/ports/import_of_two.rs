//! A port has one interface.
use interfaces::{Port, net::Net};

#[derive(runtime::Imports)]
pub struct Imports {
    net: Port<dyn Net + Sync>,
}

fn main() {}
