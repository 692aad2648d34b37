//! How long nothing came through: gaps between the probe's arrivals.

use crate::clock::Moment;
use crate::witness::Arrival;
use std::time::Duration;

/// A span of time for which a crash or a pause is answerable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Moment,
    pub to: Moment,
}

/// The probe's arrivals, with the moments between which it was sent.
pub struct Gaps {
    /// Begin of the stream, arrivals in order, end of the stream: what has not arrived by the end counts as blocked until then.
    moments: Vec<Moment>,
}

impl Gaps {
    /// `arrivals` in order of time; those outside the stream's life are not looked at.
    pub fn new(arrivals: &[Arrival], begin: Moment, end: Moment) -> Self {
        let inside = arrivals.iter().map(|arrival| arrival.at).filter(|at| (begin..=end).contains(at));
        Self { moments: std::iter::once(begin).chain(inside).chain(std::iter::once(end)).collect() }
    }

    /// The ordinary distance of two arrivals. `None` without at least two.
    pub fn median(&self) -> Option<Duration> {
        let arrived = self.moments.get(1..self.moments.len().saturating_sub(1))?;
        let mut gaps: Vec<_> = arrived.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        let middle = gaps.len() / 2;
        (!gaps.is_empty()).then(|| *gaps.select_nth_unstable(middle).1)
    }

    /// The longest gap of which any part lies in `window`, from end to end.
    pub fn longest_at(&self, window: Window) -> Option<Window> {
        let overlapping = self.moments.windows(2).filter(|pair| pair[1] > window.from && pair[0] < window.to);
        let longest = overlapping.max_by_key(|pair| pair[1].since(pair[0]))?;
        Some(Window { from: longest[0], to: longest[1] })
    }

    /// The length of the longest gap of which any part lies in `window`.
    pub fn longest(&self, window: Window) -> Duration {
        self.longest_at(window).map_or(Duration::ZERO, |gap| gap.to.since(gap.from))
    }

    /// The longest gap that lies in `window` with both its ends.
    pub fn longest_inside(&self, window: Window) -> Duration {
        let inside = self.moments.windows(2).filter(|pair| pair[0] >= window.from && pair[1] <= window.to);
        inside.map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }

    /// The longest gap in `window` less the median gap; `None` if there is no median to go by.
    pub fn blocked(&self, window: Window) -> Option<Duration> {
        Some(self.longest(window).saturating_sub(self.median()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// One arrival a millisecond from 0 to 10 s, without those in `holes`.
    fn stream(holes: &[(u64, u64)]) -> Gaps {
        let arrivals: Vec<_> = (0..10_000)
            .filter(|ms| !holes.iter().any(|hole| (hole.0..hole.1).contains(ms)))
            .map(|ms| Arrival { at: Moment(ms * MS), number: ms })
            .collect();
        Gaps::new(&arrivals, Moment(0), Moment(10_000 * MS))
    }

    fn window(from: u64, to: u64) -> Window {
        Window { from: Moment(from * MS), to: Moment(to * MS) }
    }

    #[test]
    fn a_hole_is_as_long_as_it_is_less_the_ordinary_gap() {
        let gaps = stream(&[(4_001, 4_121)]);
        assert_eq!(gaps.median(), Some(Duration::from_millis(1)));
        assert_eq!(gaps.blocked(window(3_990, 5_000)), Some(Duration::from_millis(120)));
    }

    #[test]
    fn a_hole_belongs_to_the_window_that_it_touches_and_to_no_other() {
        let gaps = stream(&[(2_001, 2_301), (6_001, 6_051)]);
        assert_eq!(gaps.blocked(window(5_000, 8_000)), Some(Duration::from_millis(50)));
        assert_eq!(gaps.blocked(window(3_000, 5_000)), Some(Duration::ZERO));
        // It began before the crash was known and ended after.
        assert_eq!(gaps.blocked(window(2_200, 3_000)), Some(Duration::from_millis(300)));
    }

    #[test]
    fn the_calm_before_a_crash_has_no_part_in_its_gap() {
        let gaps = stream(&[(1_001, 1_011), (4_001, 4_121)]);
        assert_eq!(gaps.longest_inside(window(0, 4_050)), Duration::from_millis(11));
    }

    #[test]
    fn what_never_came_back_is_blocked_to_the_end() {
        let gaps = stream(&[(7_001, 10_000)]);
        assert_eq!(gaps.longest(window(7_000, 7_500)), Duration::from_secs(3));
    }

    #[test]
    fn without_arrivals_nothing_is_claimed() {
        let gaps = Gaps::new(&[], Moment(0), Moment(5));
        assert_eq!(gaps.blocked(Window { from: Moment(0), to: Moment(5) }), None);
    }
}
