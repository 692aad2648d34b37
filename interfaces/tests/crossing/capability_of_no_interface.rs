//! A capability is for an interface: only those have proxies.
use interfaces::{CallError, interface};
use interfaces::Cap;

#[interface]
pub trait Example {
    fn give(&self, value: Cap<dyn core::fmt::Debug + Send>) -> Result<(), CallError>;
}

fn main() {}
