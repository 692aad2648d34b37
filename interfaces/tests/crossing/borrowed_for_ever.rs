//! A loan of any other length than the call's could be kept.
use interfaces::{Borrowed, CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Borrowed<'static, u32>) -> Result<(), CallError>;
}

fn main() {}
