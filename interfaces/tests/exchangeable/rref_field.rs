//! An `RRef` inside an object would have an owner of its own: only roots have.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(interfaces::RRef<u32>);

fn main() {}
