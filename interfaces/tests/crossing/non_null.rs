//! A raw pointer by another name.
use interfaces::{CallError, interface};
use std::ptr::NonNull;

#[interface]
pub trait Example {
    fn give(&self, value: NonNull<u8>) -> Result<(), CallError>;
}

fn main() {}
