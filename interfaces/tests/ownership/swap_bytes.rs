//! Nor can two of them be swapped.
use interfaces::collections::Bytes;

fn main() {
    let (mut one, mut two) = (Bytes::allocate(1).unwrap(), Bytes::allocate(9).unwrap());
    core::mem::swap(&mut *one, &mut *two);
}
