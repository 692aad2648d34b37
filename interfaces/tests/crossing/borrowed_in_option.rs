//! A loan is an argument by itself.
use interfaces::{Borrowed, CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Option<Borrowed<'_, u32>>) -> Result<(), CallError>;
}

fn main() {}
