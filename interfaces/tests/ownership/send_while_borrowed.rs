//! A batch isn't moved while its bytes are looked at.
use interfaces::{RRef, net::NetQueue, packet::Batch};

fn send(queue: &mut dyn NetQueue, batch: RRef<Batch>) {
    let first = batch.packets()[0].data();
    let _ = queue.send(batch);
    assert_eq!(first.len(), 64);
}

fn main() {}
