//! A domain's ports are known when it is built.
use interfaces::net::Net;

#[derive(runtime::Exports)]
pub struct Exports<T> {
    net: Box<dyn Net>,
    other: T,
}

fn main() {}
