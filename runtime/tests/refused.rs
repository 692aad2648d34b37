//! Domains that must not compile, each beside the message that its author sees.
//!
//! `TRYBUILD=overwrite cargo test -p runtime --test refused` writes the messages anew; read the difference before you commit it.

#[test]
fn what_are_no_ports() {
    trybuild::TestCases::new().compile_fail("tests/ports/*.rs");
}
