//! Programs that must not compile, each beside the message that its author sees.
//!
//! `TRYBUILD=overwrite cargo test -p interfaces --test refused` writes the messages anew; read the difference before you commit it.

/// What may be an argument or a result of an interface's method.
#[test]
fn what_cannot_cross() {
    trybuild::TestCases::new().compile_fail("tests/crossing/*.rs");
}

/// What an interface may look like.
#[test]
fn what_is_no_interface() {
    trybuild::TestCases::new().compile_fail("tests/interface/*.rs");
}

/// What may be on the exchange heap.
#[test]
fn what_is_not_exchangeable() {
    trybuild::TestCases::new().compile_fail("tests/exchangeable/*.rs");
}

/// What can't be done with what has crossed.
#[test]
fn what_ownership_forbids() {
    trybuild::TestCases::new().compile_fail("tests/ownership/*.rs");
}
