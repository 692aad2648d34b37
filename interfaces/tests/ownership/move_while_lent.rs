//! Who lends an object can't give it away meanwhile.
use interfaces::RRef;

fn main() {
    let word = RRef::new(1u32).unwrap();
    let lent = word.lend();
    drop(word);
    println!("{}", *lent);
}
