//! An `RRef` has one owner.
use interfaces::{RRef, packet::Batch};

fn twice(batch: RRef<Batch>) -> (RRef<Batch>, RRef<Batch>) {
    (batch.clone(), batch)
}

fn main() {}
