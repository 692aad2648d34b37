//! Even a static lies in an image, which is unmapped when its domain ends.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: &'static [u8; 4]) -> Result<(), CallError>;
}

fn main() {}
