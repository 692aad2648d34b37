//! A batch can't be taken out of its `RRef`: its buffers would be in two places.
use interfaces::{RRef, packet::Batch};

fn steal(batch: RRef<Batch>) -> Batch {
    *batch
}

fn main() {}
