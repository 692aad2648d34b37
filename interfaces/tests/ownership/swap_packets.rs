//! Nobody gets a `&mut Packet`: swapped between batches, each would be where the kernel did not put it.
use interfaces::{RRef, packet::Batch};

fn swap(a: &mut RRef<Batch>, b: &mut RRef<Batch>) {
    core::mem::swap(&mut *a.packets_mut().get(0).unwrap().0, &mut *b.packets_mut().get(0).unwrap().0);
}

fn main() {}
