//! A raw pointer says nothing of whose memory it points at.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: *const u8) -> Result<(), CallError>;
}

fn main() {}
