//! What may not go to another thread doesn't by way of a capability either.
use interfaces::Cap;
use std::rc::Rc;

fn smuggle(count: Rc<u32>) {
    let cap = Cap::new(Box::new(count));
    std::thread::spawn(move || drop(cap));
}

fn main() {}
