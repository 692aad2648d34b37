//! A packet's bytes are borrowed from its batch.
use interfaces::packet::Batch;

fn keep() -> &'static [u8] {
    let batch = Batch::allocate().unwrap();
    batch.packets()[0].data()
}

fn main() {}
