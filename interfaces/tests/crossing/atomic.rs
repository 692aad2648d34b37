//! An atomic that crosses is a copy, which is not what anybody who sends one means.
use interfaces::{CallError, interface};
use std::sync::atomic::AtomicU32;

#[interface]
pub trait Example {
    fn give(&self, value: AtomicU32) -> Result<(), CallError>;
}

fn main() {}
