//! Time since the box's boot.

use interfaces::abi::kernel;

/// Nanoseconds since boot; never goes back.
pub fn now() -> u64 {
    (kernel().now)()
}

/// `now` plus a span; a deadline that never comes if that is beyond all time.
pub fn after(span: interfaces::config::Duration) -> u64 {
    now().saturating_add(span.nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::config::Duration;

    #[test]
    fn time_goes_on_and_deadlines_do_not_wrap() {
        interfaces::host::connect();
        let before = now();
        assert!(after(Duration(1_000)) > before);
        assert_eq!(after(Duration(u64::MAX)), u64::MAX);
        assert!(now() >= before);
    }
}
