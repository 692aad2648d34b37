//! Every call can fail since the callee can crash: the error must be able to say so.
use interfaces::interface;
use interfaces::Exchangeable;

#[derive(Clone, Copy, Exchangeable)]
pub struct Refused;

#[interface]
pub trait Example {
    fn take(&self) -> Result<u32, Refused>;
}

fn main() {}
