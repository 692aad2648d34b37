//! The same behind an alias, which looks can't tell.
use interfaces::{Borrowed, CallError, interface};

type Kept = Borrowed<'static, u32>;

#[interface]
pub trait Example {
    fn give(&self, value: Kept) -> Result<(), CallError>;
}

fn main() {}
