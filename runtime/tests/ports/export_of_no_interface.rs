//! Only what is marked `#[interface]` can be called across domains.


pub trait Mine {}

#[derive(runtime::Exports)]
pub struct Exports {
    net: Box<dyn Mine>,
}

fn main() {}
