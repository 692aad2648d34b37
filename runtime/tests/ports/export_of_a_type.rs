//! A port is typed by an interface, not by who implements it.


pub struct Card;

#[derive(runtime::Exports)]
pub struct Exports {
    net: Box<Card>,
}

fn main() {}
