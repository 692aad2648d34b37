//! Nobody runs drop glue of a domain that is gone.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(u32);

impl Drop for Example {
    fn drop(&mut self) {}
}

pub const KIND: u32 = <Example as Exchangeable>::KIND;

fn main() {}
