//! Ports have names.
use interfaces::{Port, net::Net};

#[derive(runtime::Imports)]
pub struct Imports(Port<dyn Net>);

fn main() {}
