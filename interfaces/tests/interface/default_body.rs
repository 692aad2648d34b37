//! A body in the trait would be code in everybody's image.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn f(&self) -> Result<(), CallError> {
        Ok(())
    }
}

fn main() {}
