//! An error crosses too.
use interfaces::interface;

#[interface]
pub trait Example {
    fn take(&self) -> Result<u32, String>;
}

fn main() {}
