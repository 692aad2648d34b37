//! A reference count would be shared between domains.
use interfaces::{CallError, interface};
use std::sync::Arc;

#[interface]
pub trait Example {
    fn give(&self, value: Arc<u32>) -> Result<(), CallError>;
}

fn main() {}
