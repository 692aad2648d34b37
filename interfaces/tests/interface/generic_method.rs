//! A proxy has one function for a method.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f<T: Send>(&self, value: T) -> Result<(), CallError>;
}

fn main() {}
