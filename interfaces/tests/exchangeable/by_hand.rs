//! Nobody says so without the derive, unless with `unsafe`.
use interfaces::Exchangeable;

pub struct Example(Box<u32>);

impl Exchangeable for Example {
    const KIND: u32 = 1;
}

fn main() {}
