//! The one clock of a run: the host's `CLOCK_MONOTONIC`, in nanoseconds.
//!
//! Captured frames carry the kernel's wall-clock stamps; [`WallClock`] turns them into this clock.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    pub fn now() -> Self {
        Self(nanos(ClockId::CLOCK_MONOTONIC))
    }

    /// Time since `earlier`; zero if that was later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, length: Duration) -> Moment {
        Moment(self.0.saturating_add(length.as_nanos() as u64))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, length: Duration) -> Moment {
        Moment(self.0.saturating_sub(length.as_nanos() as u64))
    }
}

/// Distance between the kernel's wall clock and ours. Sampled anew before each use, since the wall clock may be set.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    ahead: i128,
}

impl WallClock {
    /// Between two readings a busy host may let others run for milliseconds: of several tries the one counts that took least time.
    const TRIES: usize = 8;

    pub fn sample() -> Self {
        let tries = (0..Self::TRIES).map(|_| {
            let before = nanos(ClockId::CLOCK_MONOTONIC);
            let wall = nanos(ClockId::CLOCK_REALTIME);
            (before, wall, nanos(ClockId::CLOCK_MONOTONIC))
        });
        let (before, wall, after) = tries.min_by_key(|(before, _, after)| after - before).expect("several tries");
        Self { ahead: i128::from(wall) - i128::from(before / 2 + after / 2) }
    }

    /// The moment of a wall-clock stamp.
    pub fn moment(self, seconds: u32, nanoseconds: u32) -> Moment {
        let wall = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Moment((wall - self.ahead).max(0) as u64)
    }
}

fn nanos(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; the call can't fail for them.
    let time = clock_gettime(clock).expect("clock_gettime of a standard clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_stamp_taken_now_is_now() {
        let clock = WallClock::sample();
        let wall = nanos(ClockId::CLOCK_REALTIME);
        let moment = clock.moment((wall / 1_000_000_000) as u32, (wall % 1_000_000_000) as u32);
        let off = moment.0.abs_diff(Moment::now().0);
        assert!(off < 1_000_000_000, "{off} ns apart");
    }

    #[test]
    fn an_earlier_moment_is_zero_away() {
        assert_eq!(Moment(5).since(Moment(9)), Duration::ZERO);
        assert_eq!(Moment(9).since(Moment(5)), Duration::from_nanos(4));
    }
}
