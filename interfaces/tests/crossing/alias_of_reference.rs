//! A type behind an alias is refused by what it is.
use interfaces::{CallError, interface};

pub type Name = &'static str;

#[interface]
pub trait Example {
    fn take(&self) -> Result<Name, CallError>;
}

fn main() {}
