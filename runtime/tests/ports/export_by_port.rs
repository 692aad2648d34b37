//! An export is given away as a box.
use interfaces::{Port, net::Net};

#[derive(runtime::Exports)]
pub struct Exports {
    net: Port<dyn Net>,
}

fn main() {}
