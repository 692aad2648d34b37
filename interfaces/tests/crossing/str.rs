//! Text crosses as `RRef<Text<N>>`.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    fn give(&self, value: &str) -> Result<(), CallError>;
}

fn main() {}
