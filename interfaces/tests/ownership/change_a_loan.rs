//! What is lent is only looked at.
use interfaces::{Borrowed, RRef};

fn main() {
    let word = RRef::new(1u32).unwrap();
    let mut lent: Borrowed<'_, u32> = word.lend();
    *lent += 1;
}
