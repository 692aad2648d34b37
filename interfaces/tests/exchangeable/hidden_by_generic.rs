//! A parameter bounded by `Exchangeable` is no way round.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Wrapper<T: Exchangeable> {
    value: T,
}

pub fn sneak() -> Wrapper<std::cell::Cell<u32>> {
    Wrapper { value: std::cell::Cell::new(1) }
}

fn main() {}
