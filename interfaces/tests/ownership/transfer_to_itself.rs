//! Packets move between two batches.
use interfaces::{RRef, packet::Batch};

fn shuffle(batch: &mut RRef<Batch>) {
    batch.transfer(1, batch);
}

fn main() {}
