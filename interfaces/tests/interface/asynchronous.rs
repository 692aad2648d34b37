//! A future is an object of the callee.
use interfaces::{CallError, interface};

#[interface]
pub trait Example {
    async fn f(&self) -> Result<(), CallError>;
}

fn main() {}
