//! A callee can't keep what was lent to it.
use std::sync::Mutex;

use interfaces::{Borrowed, CallError, interface};

#[interface]
pub trait Example {
    fn look(&self, value: Borrowed<'_, u32>) -> Result<(), CallError>;
}

struct Keeper(Mutex<Vec<Borrowed<'static, u32>>>);

impl Example for Keeper {
    fn look(&self, value: Borrowed<'_, u32>) -> Result<(), CallError> {
        self.0.lock().unwrap().push(value);
        Ok(())
    }
}

fn main() {}
