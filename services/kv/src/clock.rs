//! Time as the store counts it: whole seconds since its start, and what clients' expiry times mean in them.

use runtime::time;

const NANOS: u64 = 1_000_000_000;
/// The longest span that a client may name; a greater number is a date (protocol.txt, "Expiration times").
const LONGEST_SPAN: i64 = 60 * 60 * 24 * 30;
/// A second that is always past: the store's time starts after it.
const PAST: u32 = 1;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Seconds, from 2 on.
    second: u32,
    /// Seconds from 1970 to second 0, if the box knows the date.
    origin: Option<i64>,
}

impl Clock {
    /// The present moment of a store that was started at `started`, in nanoseconds since boot.
    pub fn now(started: u64) -> Clock {
        // In whole seconds of the box's clock, as the date goes on: so a date is the same second of the store whenever it is asked for.
        Clock::new((time::now() / NANOS).saturating_sub(started / NANOS), time::date())
    }

    /// `uptime` seconds after the start; `date` is the present one in seconds since 1970.
    pub fn new(uptime: u64, date: Option<i64>) -> Clock {
        let second = u32::try_from(uptime.saturating_add(u64::from(PAST) + 1)).unwrap_or(u32::MAX);
        Clock { second, origin: date.map(|date| date - i64::from(second)) }
    }

    /// Seconds since the start.
    pub fn uptime(self) -> u64 {
        u64::from(self.second - PAST - 1)
    }

    /// Seconds since 1970, if the box knows the date.
    pub fn date(self) -> Option<i64> {
        Some(self.origin? + i64::from(self.second))
    }

    pub fn second(self) -> u32 {
        self.second
    }

    /// The second at which something expires that a client wants to expire at `given`; 0 for never. A date is past at once if the box knows none.
    pub fn expiry(self, given: i64) -> u32 {
        match given {
            0 => 0,
            1..=LONGEST_SPAN => self.second.saturating_add(given as u32),
            ..0 => PAST,
            _ => self.origin.and_then(|origin| u32::try_from(given - origin).ok()).unwrap_or(PAST).max(PAST),
        }
    }

    /// The date at which something expires that expires at `second`; 0 for never.
    pub fn date_of(self, second: u32) -> i64 {
        if second == 0 { 0 } else { self.origin.unwrap_or(0) + i64::from(second) }
    }

    /// The second of a date that [`Clock::date_of`] gave, perhaps under another start.
    pub fn second_of(self, date: i64) -> u32 {
        if date == 0 { 0 } else { u32::try_from(date - self.origin.unwrap_or(0)).unwrap_or(PAST).max(PAST) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans up to 30 days are spans, more is a date, less than nothing is past, and nothing is never.
    #[test]
    fn expiry_times_mean_what_the_protocol_says() {
        let clock = Clock::new(100, Some(1_700_000_000));
        assert_eq!(clock.expiry(0), 0);
        assert_eq!(clock.expiry(10), clock.second() + 10);
        assert_eq!(clock.expiry(LONGEST_SPAN), clock.second() + LONGEST_SPAN as u32);
        assert_eq!(clock.expiry(1_700_000_010), clock.second() + 10);
        assert_eq!((clock.expiry(-1), clock.expiry(1_600_000_000)), (PAST, PAST));
        assert_eq!(Clock::new(100, None).expiry(1_700_000_010), PAST);
        assert!(Clock::new(0, None).second() > PAST);
    }

    /// An expiry time survives a restart with the same date.
    #[test]
    fn dates_and_seconds_go_both_ways() {
        let (before, after) = (Clock::new(100, Some(1_700_000_000)), Clock::new(3, Some(1_700_000_050)));
        let expires = before.expiry(60);
        assert_eq!(after.second_of(before.date_of(expires)), after.second() + 10);
        assert_eq!(after.second_of(before.date_of(0)), 0);
        assert_eq!(after.second_of(before.date_of(before.expiry(20))), PAST);
    }
}
