//! A port is wired by the manifest alone: whoever could pass one on would give away authority that the manifest doesn't show.
use interfaces::{CallError, interface};
use interfaces::Port;

#[interface]
pub trait Example {
    fn give(&self, value: Port<dyn interfaces::net::Net>) -> Result<(), CallError>;
}

fn main() {}
