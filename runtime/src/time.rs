//! Time since the box's boot.

use interfaces::abi::kernel;

/// Nanoseconds since boot; never goes back.
pub fn now() -> u64 {
    (kernel().now)()
}
