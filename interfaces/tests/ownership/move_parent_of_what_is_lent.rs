//! Nor the object in which it is nested.
use interfaces::{Exchangeable, Nested, RRef};

#[derive(Exchangeable)]
struct Parent {
    word: Nested<u32>,
}

fn main() {
    let parent = RRef::new(Parent { word: Nested::empty() }).unwrap();
    let lent = parent.word.lend();
    drop(parent);
    println!("{}", lent.is_some());
}
