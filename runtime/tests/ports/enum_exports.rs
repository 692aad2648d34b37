//! A domain has all its ports, not one of them.
use interfaces::net::Net;

#[derive(runtime::Exports)]
pub enum Exports {
    Net(Box<dyn Net>),
}

fn main() {}
