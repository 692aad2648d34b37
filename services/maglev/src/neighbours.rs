//! Which backends are alive, and at which link address: asked by ARP from the box's own address, again and again.
//!
//! Promises: a backend is declared dead only after `attempts` requests were really sent and each had its time to be answered while the box
//! was running; time for which the box itself stood still is held against nobody. Nor is a silence in which nobody answers: it is most probably the
//! box that isn't heard (its card hangs, its cable is out), and where all are dead there is nobody better. So the last request is made together with one to
//! each of the others, and only if one of those is answered it counts. One answer brings a backend back.

use alloc::boxed::Box;

use crate::frame::{ArpRequest, BROADCAST, Heard, Mac};

/// Times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub interval: u64,
    pub retry: u64,
    pub attempts: u32,
    pub startup_wait: u64,
}

/// After a start backends are asked this many times within `startup_wait`.
const STARTUP_REQUESTS: u64 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not heard yet since the start.
    Presumed,
    Alive(Mac),
    Dead,
}

struct Neighbour {
    address: u32,
    standing: Standing,
    /// When to ask, or to ask again.
    next: u64,
    /// When it was asked last, if there was no answer since.
    asked: Option<u64>,
    unanswered: u32,
}

impl Neighbour {
    fn ask(&mut self, own: u32, now: u64, send: &mut impl FnMut(ArpRequest) -> bool) {
        // RFC 1122 §2.3.2.1: first the station itself, then everybody, since its link address may have changed.
        let to = match self.standing {
            Standing::Alive(mac) if self.unanswered == 0 => mac,
            _ => BROADCAST,
        };
        self.asked = send(ArpRequest { to, sender: own, target: self.address }).then_some(now);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Startup {
    /// Nobody has answered: the link may not be up yet.
    Silent,
    /// The first answer came at this moment.
    Since(u64),
    Over,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    None,
    Some,
}

/// All backends, in the order of the configuration.
pub struct Neighbours {
    all: Box<[Neighbour]>,
    own: u32,
    timing: Timing,
    startup: Startup,
    /// Requests of this moment went out: one of them was answered.
    proven: Option<u64>,
}

impl Neighbours {
    /// `own`: the box's address.
    pub fn new(own: u32, addresses: impl Iterator<Item = u32>, timing: Timing, now: u64) -> Neighbours {
        let neighbour =
            |address| Neighbour { address, standing: Standing::Presumed, next: now, asked: None, unanswered: 0 };
        Neighbours { all: addresses.map(neighbour).collect(), own, timing, startup: Startup::Silent, proven: None }
    }

    pub fn standings(&self) -> impl Iterator<Item = Standing> + '_ {
        self.all.iter().map(|neighbour| neighbour.standing)
    }

    /// Whether it is known of every backend if it is alive. It is from the moment when all have answered, or when `startup_wait` has passed
    /// since the first answer; those silent by then count as dead.
    pub fn is_settled(&self) -> bool {
        self.startup == Startup::Over
    }

    /// Notes an ARP message of a station.
    pub fn heard(&mut self, Heard { address, mac, answer }: Heard, now: u64) -> Change {
        let Some(neighbour) = self.all.iter_mut().find(|neighbour| neighbour.address == address) else {
            return Change::None;
        };
        let before = core::mem::replace(&mut neighbour.standing, Standing::Alive(mac));
        if answer {
            self.proven = neighbour.asked.or(self.proven);
        }
        (neighbour.asked, neighbour.unanswered, neighbour.next) = (None, 0, now + self.timing.interval);
        if self.startup == Startup::Silent {
            self.startup = Startup::Since(now);
        }
        if self.settle(now) == Change::Some || before != Standing::Alive(mac) { Change::Some } else { Change::None }
    }

    /// Asks whom it is time to ask, by `send`, which says whether the request went out; and gives up those who don't answer.
    pub fn poll(&mut self, now: u64, mut send: impl FnMut(ArpRequest) -> bool) -> Change {
        let mut change = Change::None;
        let Timing { interval, retry, attempts, startup_wait } = self.timing;
        let starting = self.startup != Startup::Over;
        // Whether somebody is asked for the last time, and the others with it.
        let mut last = false;
        for neighbour in self.all.iter_mut().filter(|neighbour| now >= neighbour.next) {
            // Looked at too late to hold the silence against it: the answer may have come and gone while the box stood still.
            let late = now - neighbour.next > retry;
            if let (Some(asked), false) = (neighbour.asked, late) {
                neighbour.unanswered = neighbour.unanswered.saturating_add(1);
                let alive = matches!(neighbour.standing, Standing::Alive(_));
                if alive && neighbour.unanswered >= attempts && self.proven == Some(asked) {
                    neighbour.standing = Standing::Dead;
                    change = Change::Some;
                }
            }
            last |= matches!(neighbour.standing, Standing::Alive(_)) && neighbour.unanswered + 1 >= attempts;
            neighbour.ask(self.own, now, &mut send);
            neighbour.next = now
                + match neighbour.standing {
                    _ if starting => (startup_wait / STARTUP_REQUESTS).max(1),
                    Standing::Dead => interval,
                    _ => retry,
                };
        }
        let others = self.all.iter_mut().filter(|neighbour| matches!(neighbour.standing, Standing::Alive(_)));
        for neighbour in others.filter(|neighbour| last && now < neighbour.next && neighbour.asked != Some(now)) {
            neighbour.ask(self.own, now, &mut send);
            neighbour.next = now + retry;
        }
        if self.settle(now) == Change::Some { Change::Some } else { change }
    }

    fn settle(&mut self, now: u64) -> Change {
        let Startup::Since(first) = self.startup else { return Change::None };
        let all = self.all.iter().all(|neighbour| neighbour.standing != Standing::Presumed);
        if !all && now < first + self.timing.startup_wait {
            return Change::None;
        }
        for neighbour in self.all.iter_mut().filter(|neighbour| neighbour.standing == Standing::Presumed) {
            neighbour.standing = Standing::Dead;
        }
        self.startup = Startup::Over;
        Change::Some
    }

    /// When `poll` has something to do next.
    pub fn deadline(&self) -> u64 {
        let startup = match self.startup {
            Startup::Since(first) => first + self.timing.startup_wait,
            _ => u64::MAX,
        };
        self.all.iter().map(|neighbour| neighbour.next).fold(startup, u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    const MS: u64 = 1_000_000;
    const TIMING: Timing = Timing { interval: 1000 * MS, retry: 250 * MS, attempts: 3, startup_wait: 150 * MS };
    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn two() -> Neighbours {
        Neighbours::new(100, [1, 2].into_iter(), TIMING, 0)
    }

    fn answer(address: u32, mac: Mac) -> Heard {
        Heard { address, mac, answer: true }
    }

    fn standings(neighbours: &Neighbours) -> Vec<Standing> {
        neighbours.standings().collect()
    }

    fn asked(neighbours: &mut Neighbours, now: u64) -> Vec<(u32, Mac)> {
        let mut requests = vec![];
        let _ = neighbours.poll(now, |request| {
            assert_eq!(request.sender, 100);
            requests.push((request.target, request.to));
            true
        });
        requests
    }

    fn both_alive(now: u64) -> Neighbours {
        let mut n = two();
        assert_eq!(asked(&mut n, now).len(), 2);
        assert_eq!(n.heard(answer(1, A), now), Change::Some);
        assert_eq!(n.heard(answer(2, B), now), Change::Some);
        assert!(n.is_settled());
        n
    }

    #[test]
    fn settled_as_soon_as_all_have_answered() {
        let n = both_alive(0);
        assert_eq!(standings(&n), [Standing::Alive(A), Standing::Alive(B)]);
        assert_eq!(n.deadline(), 1000 * MS);
    }

    /// What the last generation knew as dead must not be taken for alive longer than `startup_wait`.
    #[test]
    fn settled_without_the_silent_a_while_after_the_first_answer() {
        let mut n = two();
        for ms in (0..60_000).step_by(100) {
            asked(&mut n, ms * MS);
        }
        assert!(!n.is_settled(), "while the link is down nobody is declared dead");
        let _ = n.heard(answer(2, B), 60_000 * MS);
        asked(&mut n, 60_149 * MS);
        assert!(!n.is_settled());
        asked(&mut n, 60_150 * MS);
        assert!(n.is_settled());
        assert_eq!(standings(&n), [Standing::Dead, Standing::Alive(B)]);
    }

    /// 1 s of silence, then three requests of 250 ms each: the first to the station, the others to everybody; the last one together with one to the other.
    #[test]
    fn dead_after_unanswered_requests_and_back_with_one_answer() {
        let mut n = both_alive(0);
        assert_eq!(asked(&mut n, 1000 * MS), [(1, A), (2, B)]);
        let _ = n.heard(answer(2, B), 1000 * MS);
        assert_eq!(asked(&mut n, 1250 * MS), [(1, BROADCAST)]);
        assert_eq!(asked(&mut n, 1500 * MS), [(1, BROADCAST), (2, B)]);
        let _ = n.heard(answer(2, B), 1501 * MS);
        assert_eq!(standings(&n)[0], Standing::Alive(A));
        assert_eq!(asked(&mut n, 1750 * MS), [(1, BROADCAST)]);
        assert_eq!(standings(&n)[0], Standing::Dead);
        assert_eq!(n.heard(answer(1, A), 9000 * MS), Change::Some);
        assert_eq!(standings(&n)[0], Standing::Alive(A));
    }

    /// A card that hangs for 5 s and is reset: nobody was to blame, whoever is the first to answer afterwards; nor is somebody who says something else
    /// meanwhile a sign that requests went out.
    #[test]
    fn a_silence_of_all_is_held_against_nobody() {
        for (first, second) in [(answer(1, A), answer(2, B)), (answer(2, B), answer(1, A))] {
            for hang in (100..6_000).step_by(37) {
                let mut n = both_alive(0);
                // One was asked before the card hung, the other is asked after that.
                let _ = n.heard(second, 500 * MS);
                let unheard = (1_000..1_000 + hang).fold(0, |count, ms| {
                    if ms % 300 == 0 {
                        let _ = n.heard(Heard { answer: false, ..first }, ms * MS);
                    }
                    count + asked(&mut n, ms * MS).len()
                });
                assert!(unheard < 60, "{unheard} requests in {hang} ms");
                let mut answers = vec![];
                for ms in 1_000 + hang..5_000 + hang {
                    for (_, answer) in answers.extract_if(.., |(due, _)| *due == ms) {
                        let _ = n.heard(answer, ms * MS);
                    }
                    for (address, _) in asked(&mut n, ms * MS) {
                        answers.push(if address == first.address { (ms + 1, first) } else { (ms + 3, second) });
                    }
                    assert!(!standings(&n).contains(&Standing::Dead), "hung for {hang} ms, {ms} ms");
                }
            }
        }
    }

    /// Where nobody answers, sending to those who did last is as good as anything.
    #[test]
    fn the_last_one_is_never_given_up() {
        let mut n = both_alive(0);
        for ms in 1..20_000 {
            let second = asked(&mut n, ms * MS).iter().any(|&(address, _)| address == 2);
            if second && ms < 10_000 {
                let _ = n.heard(answer(2, B), ms * MS);
            }
        }
        assert_eq!(standings(&n), [Standing::Dead, Standing::Alive(B)]);
    }

    #[test]
    fn a_dead_one_is_asked_on() {
        let mut n = both_alive(0);
        let mut count = 0;
        for ms in 1000..20_000 {
            let _ = n.heard(answer(2, B), ms * MS);
            count += asked(&mut n, ms * MS).len();
        }
        assert!((18..30).contains(&count), "about one a second: {count}");
    }

    /// A box that was stopped for 3 s must not take its backends for dead: neither all of them, nor one whose answers have come and gone meanwhile while another's were
    /// quicker.
    #[test]
    fn standing_still_is_held_against_nobody() {
        let mut n = both_alive(0);
        asked(&mut n, 1000 * MS);
        for i in 1..20 {
            asked(&mut n, 1000 * MS + i * 3_000 * MS);
            if i > 10 {
                let _ = n.heard(answer(2, B), 1000 * MS + i * 3_000 * MS);
            }
        }
        assert_eq!(standings(&n), [Standing::Alive(A), Standing::Alive(B)]);
    }

    /// While the driver is down nothing goes out, so nothing can be missing.
    #[test]
    fn requests_that_were_not_sent_do_not_count() {
        let mut n = both_alive(0);
        for ms in (1000..60_000).step_by(250) {
            let _ = n.poll(ms * MS, |_| false);
        }
        assert_eq!(standings(&n), [Standing::Alive(A), Standing::Alive(B)]);
    }

    #[test]
    fn a_new_link_address_is_a_change_and_a_stranger_is_none() {
        let mut n = both_alive(0);
        assert_eq!(n.heard(answer(1, A), 5), Change::None);
        assert_eq!(n.heard(answer(1, B), 5), Change::Some);
        assert_eq!(n.heard(answer(77, B), 5), Change::None);
    }
}
