//! A type parameter crosses if it is said to; then whatever it stands for is checked where it is used.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Holder<T>(T);

fn crosses<T: Exchangeable>() {}

fn check() {
    crosses::<Holder<u32>>();
    crosses::<Holder<Box<u32>>>();
}

fn main() {}
