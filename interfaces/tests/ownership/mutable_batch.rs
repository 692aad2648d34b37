//! Nobody gets a `&mut Batch`: half a swap of two would be seen after a crash.
use interfaces::{RRef, packet::Batch};

fn swap(a: &mut RRef<Batch>, b: &mut RRef<Batch>) {
    core::mem::swap(&mut **a, &mut **b);
}

fn main() {}
