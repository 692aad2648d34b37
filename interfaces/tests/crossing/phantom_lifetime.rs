//! Not even the type of a borrow crosses.
use interfaces::{CallError, interface};
use std::marker::PhantomData;

#[interface]
pub trait Example {
    fn give(&self, value: PhantomData<&'static u32>) -> Result<(), CallError>;
}

fn main() {}
