//! The self-test: what the metal promises the domain core, tried on the machine that it runs on.
//!
//! Runs instead of the supervisor when the command line says `selftest` (or `selftest=PART` for the tests whose name contains PART);
//! prints a line for each test and `N passed, N failed`, and ends QEMU through isa-debug-exit: status 33 if all is well, 35 if a test failed, 37 after a
//! panic.

mod catch;
mod crew;
mod devices;
mod exceptions;
mod memory;
mod threads;

use alloc::string::String;

use crate::{cpu, panic, report};

pub use catch::caught;

/// What a test says when its promise doesn't hold.
pub type Outcome = Result<(), String>;

/// A test: the promise in words, and the trial.
pub type Test = (&'static str, fn() -> Outcome);

/// Fails the test unless `condition` holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}

const PASSED: u32 = 0x10;
const FAILED: u32 = 0x11;
const PANICKED: u32 = 0x12;

const SUITES: [&[Test]; 4] = [memory::TESTS, exceptions::TESTS, threads::TESTS, devices::TESTS];

/// Runs the tests whose name contains `part`, and ends.
pub fn run(part: &str) -> ! {
    panic::fail_tests_with(PANICKED);
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in SUITES.into_iter().flatten().filter(|(name, _)| name.contains(part)) {
        match test() {
            Ok(()) => {
                report!("test {name} ... ok");
                passed += 1;
            }
            Err(why) => {
                report!("test {name} ... FAILED: {why}");
                failed += 1;
            }
        }
    }
    report!("{} CPUs: {passed} passed, {failed} failed", cpu::count());
    panic::exit_qemu(if failed == 0 { PASSED } else { FAILED });
    panic::reset()
}
