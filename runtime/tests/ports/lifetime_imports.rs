//! A domain's ports are known when it is built.
use interfaces::net::Net;

#[derive(runtime::Imports)]
pub struct Imports<'a> {
    net: &'a dyn Net,
}

fn main() {}
