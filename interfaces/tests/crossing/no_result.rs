//! Every call can fail since the callee can crash.
use interfaces::interface;

#[interface]
pub trait Example {
    fn take(&self) -> u32;
}

fn main() {}
