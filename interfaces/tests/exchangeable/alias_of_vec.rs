//! A type behind an alias is refused by what it is.
use interfaces::Exchangeable;

pub type Bytes = Vec<u8>;

#[derive(Exchangeable)]
pub struct Example {
    bytes: Bytes,
}

fn main() {}
