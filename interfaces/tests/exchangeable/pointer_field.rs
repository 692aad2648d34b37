//! A raw pointer says nothing of whose memory it points at.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(*const u8);

fn main() {}
