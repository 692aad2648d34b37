//! All that is wrong is said at once.
use interfaces::{Port, net::Net};

#[derive(runtime::Imports)]
pub struct Imports {
    net: Box<dyn Net>,
    good: Port<dyn Net>,
    count: u32,
}

fn main() {}
