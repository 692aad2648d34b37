//! Both sides must mean the same type.
use interfaces::{CallError, interface};

#[interface]
pub trait Example<T> {
    fn f(&self) -> Result<(), CallError>;
}

fn main() {}
