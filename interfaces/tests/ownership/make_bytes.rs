//! Nobody has bytes by value: their number belongs to their object.
use interfaces::{RRef, collections::Bytes};

fn main() {
    let _ = RRef::new(Bytes { len: 9, capacity: 9 });
}
