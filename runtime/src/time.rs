//! Time since the box's boot, and the date.

use interfaces::abi::kernel;

/// Nanoseconds since boot; never goes back.
pub fn now() -> u64 {
    (kernel().now)()
}

/// Seconds since 1970 (UTC), if the box knows the date: it asked its battery-backed clock at boot. To be shown to others and compared with what they say; for spans there is [`now`].
pub fn date() -> Option<i64> {
    i64::try_from((kernel().date)()).ok().filter(|date| *date != 0)
}

/// `now` plus a span; a deadline that never comes if that is beyond all time.
pub fn after(span: interfaces::config::Duration) -> u64 {
    now().saturating_add(span.nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::config::Duration;

    /// What the box says is in seconds, and goes on; a box that knows none says so.
    #[test]
    fn the_date_goes_on_with_time() {
        interfaces::host::connect();
        assert_eq!(date(), None);
        interfaces::host::set_date(1_700_000_000);
        assert!((1_700_000_000..1_700_000_002).contains(&date().unwrap()));
        interfaces::host::advance_clock(core::time::Duration::from_secs(60));
        assert!((1_700_000_060..1_700_000_062).contains(&date().unwrap()));
    }

    #[test]
    fn time_goes_on_and_deadlines_do_not_wrap() {
        interfaces::host::connect();
        let before = now();
        assert!(after(Duration(1_000)) > before);
        assert_eq!(after(Duration(u64::MAX)), u64::MAX);
        assert!(now() >= before);
    }
}
