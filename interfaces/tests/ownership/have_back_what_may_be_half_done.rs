//! What a dead callee may have left half assigned, or what other types have the kind of, isn't had back.
use interfaces::{RRef, control::Text};

fn longer_than_it_is() -> Option<RRef<Text<4096>>> {
    RRef::given_back()
}

fn main() {}
