//! A place is one: a copy would lead to the same object.
use interfaces::Nested;

fn main() {
    let place = Nested::<u32>::empty();
    let _copies = (place, place);
}
