//! A batch that was moved to another domain is unreachable here.
use interfaces::{RRef, net::NetQueue, packet::Batch};

fn send(queue: &mut dyn NetQueue, batch: RRef<Batch>) -> usize {
    let _ = queue.send(batch);
    batch.len()
}

fn main() {}
