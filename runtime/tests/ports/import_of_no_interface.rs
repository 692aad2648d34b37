//! Only what is marked `#[interface]` can be called across domains.
use interfaces::Port;

#[derive(runtime::Imports)]
pub struct Imports {
    net: Port<dyn core::fmt::Debug>,
}

fn main() {}
