//! A loan can't be kept in an object.
use interfaces::{Borrowed, Exchangeable};

#[derive(Exchangeable)]
pub struct Example(Borrowed<'static, u32>);

fn main() {}
