//! Only a trait is an interface.
use interfaces::interface;

#[interface]
pub struct Example;

fn main() {}
