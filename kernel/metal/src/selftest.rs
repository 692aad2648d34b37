//! The self-test.
pub fn run() -> ! { crate::report!("0 passed, 0 failed"); crate::panic::exit_qemu(0x10); loop {} }
