//! Interior mutability would be memory that two domains write.
use interfaces::Exchangeable;
use std::cell::Cell;

#[derive(Exchangeable)]
pub struct Example(Cell<u32>);

fn main() {}
