//! Whether it pays to look again for a while before waiting.
//!
//! A wait costs an interrupt and two switches, a look next to nothing; but where things come seldom all looks are in vain, on every round. What comes next will come about as
//! soon as what came last did: so who had to wait for long doesn't look again, and who waited for less than it would have looked does. KVM's guest halt polling goes by
//! the same (Linux, Documentation/virt/guest-halt-polling.rst).

/// How a thread waits at one place.
#[derive(Clone, Copy, Debug)]
pub struct Polling {
    /// Nanoseconds for which it looks at most.
    span: u64,
    pays: bool,
}

impl Polling {
    /// For at most so many nanoseconds at a time.
    pub const fn new(span: u64) -> Polling {
        Polling { span, pays: true }
    }

    /// Whether to look again, nothing having been found since `since`, rather than wait. Both in nanoseconds since boot.
    pub fn goes_on(&self, since: u64, now: u64) -> bool {
        self.pays && now.saturating_sub(since) < self.span
    }

    /// A wait has ended, with something or in vain.
    pub fn waited(&mut self, from: u64, to: u64) {
        self.pays = to.saturating_sub(from) < self.span;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 10_000;

    /// What comes every so many nanoseconds: how many looks are taken for each, if a look takes a hundred, and how much of the time passes in waiting.
    fn looks(gap: u64) -> (u64, u64) {
        let mut polling = Polling::new(SPAN);
        let (mut looks, mut waited, mut now) = (0, 0, 0);
        for arrival in (1..=100).map(|at| at * gap) {
            let since = now;
            while now < arrival {
                now += 100;
                looks += 1;
                if now < arrival && !polling.goes_on(since, now) {
                    polling.waited(now, arrival);
                    waited += arrival - now;
                    now = arrival;
                }
            }
        }
        (looks / 100, waited)
    }

    #[test]
    fn who_waits_for_long_looks_once_and_who_is_busy_never_waits() {
        assert_eq!(looks(5_000), (50, 0));
        let (seldom, waited) = looks(5_000_000);
        assert!(seldom <= 2 && waited > 100 * 4_900_000, "{seldom} looks, {waited} ns");
    }

    /// A quiet hour doesn't settle what follows.
    #[test]
    fn it_pays_again_once_things_come_fast() {
        let mut polling = Polling::new(SPAN);
        polling.waited(0, 1_000_000);
        assert!(!polling.goes_on(1_000_000, 1_000_000));
        polling.waited(1_000_000, 1_002_000);
        assert!(polling.goes_on(1_002_000, 1_003_000) && !polling.goes_on(1_002_000, 1_012_000));
    }
}
