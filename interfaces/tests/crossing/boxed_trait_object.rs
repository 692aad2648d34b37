//! A trait object's vtable lies in the caller's image.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: Box<dyn core::fmt::Debug + Send>) -> Result<(), CallError>;
}

fn main() {}
