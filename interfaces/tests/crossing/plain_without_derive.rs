//! Plain data says so by `#[derive(Exchangeable)]`.
use interfaces::{CallError, interface};

#[derive(Clone, Copy)]
pub struct Pair(u32, u32);

#[interface]
pub trait Example {
    fn give(&self, value: Pair) -> Result<(), CallError>;
}

fn main() {}
