//! Every field of every variant must cross.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub enum Example {
    Fine(u32),
    Named { name: String },
}

fn main() {}
