//! Linux's own `ixgbe` driver, in a Debian guest under QEMU, accepts the model and moves traffic through it.
//!
//! It fetches QEMU and a kernel into the user's cache the first time, so it runs on request:
//! `cargo test -p model --test linux_guest -- --ignored`.

/// Protects what every other test of the model can't see: that a driver which we did not write works on it.
#[test]
#[ignore = "boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_the_model() {
    match model::interop::linux() {
        Ok(report) => println!(
            "{} checks in {:.1} s: {:?}",
            report.checks.len(),
            report.took.as_secs_f32(),
            report.counters.named()
        ),
        Err(error) => panic!("{error}"),
    }
}
