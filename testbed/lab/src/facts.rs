//! What the box has said on its feed so far, and when by our clock.

use crate::clock::Moment;
use crate::feed::{Booted, CpuFacts, CrashFacts, DomainFacts, Event, Heard, NicFacts, Recovered};
use std::collections::BTreeMap;

/// What the box calls a domain that has started.
const LIVE: &str = "live";

/// Lines of the feed that weren't understood are kept up to this many.
const GARBLED_KEPT: usize = 20;

#[derive(Debug, Default)]
pub struct Facts {
    pub booted: Option<(Moment, Booted)>,
    pub domains: BTreeMap<String, DomainFacts>,
    pub cpus: Vec<CpuFacts>,
    /// When heard, and what.
    pub crashes: Vec<(Moment, CrashFacts)>,
    pub recoveries: Vec<(Moment, Recovered)>,
    pub stats_heard: u64,
    /// By domain: pages that its first generation had when it had started.
    pub pages_at_first: BTreeMap<String, u64>,
    pub nic: Option<NicFacts>,
    pub garbled: Vec<String>,
    pub closed: bool,
    /// By domain: the last generation of the box's earlier lives. Numbers go on from there, so that each is met once in a run.
    earlier: BTreeMap<String, u64>,
    /// Our clock less the box's: the smallest seen, which is the one with the least delay on the line.
    offset: Option<i128>,
}

/// What an event means to somebody who watches.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    Booted,
    Crashed(CrashFacts),
    Recovered(Recovered),
    Nothing,
}

impl Facts {
    /// The box has lost its power: what it says from now on is of another life, by another clock.
    pub fn power_lost(&mut self) {
        let moments: Vec<Moment> = self.crashes.iter().map(|(heard, crash)| self.moment(crash.at_ns, *heard)).collect();
        for ((heard, crash), at) in self.crashes.iter_mut().zip(moments) {
            (*heard, crash.at_ns) = (at, 0);
        }
        let moments: Vec<Moment> = self.recoveries.iter().map(|(heard, one)| self.moment(one.at_ns, *heard)).collect();
        for ((heard, one), at) in self.recoveries.iter_mut().zip(moments) {
            (*heard, one.at_ns) = (at, 0);
        }
        for domain in self.domains.values() {
            let last = self.earlier.entry(domain.name.clone()).or_default();
            *last = domain.generation.max(*last);
        }
        (self.booted, self.offset, self.closed) = (None, None, false);
        self.domains.clear();
    }

    pub fn take(&mut self, heard: Heard) -> Turn {
        let (at, event) = match heard {
            Heard::Event(at, event) => (at, event),
            Heard::Garbled(line) => {
                if self.garbled.len() < GARBLED_KEPT {
                    self.garbled.push(line);
                }
                return Turn::Nothing;
            }
            Heard::Closed => {
                self.closed = true;
                return Turn::Nothing;
            }
        };
        match event {
            Event::Booted(booted) => {
                self.compare_clocks(at, booted.at_ns);
                self.booted.get_or_insert((at, booted));
                Turn::Booted
            }
            Event::Domain(domain) => {
                if domain.generation == 1 && domain.state == LIVE {
                    self.pages_at_first.entry(domain.name.clone()).or_insert(domain.pages);
                }
                let domain = DomainFacts { generation: self.earlier_of(&domain.name) + domain.generation, ..domain };
                let known = self.domains.entry(domain.name.clone()).or_default();
                let counters = std::mem::take(&mut known.counters);
                *known = domain;
                if known.counters.is_empty() {
                    known.counters = counters;
                }
                Turn::Nothing
            }
            Event::Crash(mut crash) => {
                crash.generation += self.earlier_of(&crash.domain);
                self.compare_clocks(at, crash.at_ns);
                self.crashes.push((at, crash.clone()));
                Turn::Crashed(crash)
            }
            Event::Recovered(mut recovered) => {
                recovered.generation += self.earlier_of(&recovered.domain);
                self.compare_clocks(at, recovered.at_ns);
                self.recoveries.push((at, recovered.clone()));
                Turn::Recovered(recovered)
            }
            Event::Stats(stats) => {
                self.compare_clocks(at, stats.at_ns);
                self.stats_heard += 1;
                for mut domain in stats.domains {
                    domain.generation += self.earlier_of(&domain.name);
                    self.domains.insert(domain.name.clone(), domain);
                }
                self.cpus = stats.cpus;
                Turn::Nothing
            }
            Event::Nic(nic) => {
                self.nic = Some(nic);
                Turn::Nothing
            }
            Event::Unknown => Turn::Nothing,
        }
    }

    fn earlier_of(&self, domain: &str) -> u64 {
        self.earlier.get(domain).copied().unwrap_or(0)
    }

    fn compare_clocks(&mut self, at: Moment, box_ns: u64) {
        // Zero is what a box says that has no clock to tell.
        if box_ns > 0 {
            let offset = i128::from(at.0) - i128::from(box_ns);
            self.offset = Some(self.offset.map_or(offset, |known| known.min(offset)));
        }
    }

    /// Our moment of a stamp of the box's; `heard` if the box's clock isn't known.
    pub fn moment(&self, box_ns: u64, heard: Moment) -> Moment {
        match self.offset {
            Some(offset) if box_ns > 0 => Moment((i128::from(box_ns) + offset).max(0) as u64).min(heard),
            _ => heard,
        }
    }

    /// The recovery that followed a crash: the first of that domain with a later generation.
    pub fn recovery_of(&self, crash: &CrashFacts) -> Option<&(Moment, Recovered)> {
        self.recoveries.iter().find(|(_, one)| one.domain == crash.domain && one.generation > crash.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::parse;

    #[test]
    fn the_line_with_the_least_delay_sets_the_clock() {
        let mut facts = Facts::default();
        facts.take(parse(Moment(1_000_500), r#"{"event":"stats","at_ns":1000}"#));
        facts.take(parse(Moment(2_000_100), r#"{"event":"stats","at_ns":1001000}"#));
        facts.take(parse(Moment(3_009_000), r#"{"event":"crash","domain":"lb","generation":1,"at_ns":2000000}"#));
        assert_eq!(facts.moment(2_000_000, Moment(3_009_000)), Moment(2_999_100));
        assert_eq!(facts.moment(0, Moment(7)), Moment(7));
    }

    /// A box that has lost its power counts anew, by another clock; what it said before keeps its place.
    #[test]
    fn another_life_is_told_from_the_one_before() {
        let mut facts = Facts::default();
        facts.take(parse(
            Moment(1_000_500),
            r#"{"event":"stats","at_ns":1000,"domains":[{"name":"kv","generation":2}]}"#,
        ));
        facts.take(parse(Moment(3_009_000), r#"{"event":"crash","domain":"kv","generation":1,"at_ns":2000000}"#));
        facts.take(parse(Moment(4_009_000), r#"{"event":"recovered","domain":"kv","generation":2,"at_ns":2900000}"#));
        facts.power_lost();
        assert!(facts.booted.is_none() && facts.domains.is_empty());
        facts.take(parse(Moment(9_000_000), r#"{"event":"booted","at_ns":1000,"boot_ms":1}"#));
        facts.take(parse(Moment(9_900_000), r#"{"event":"crash","domain":"kv","generation":1,"at_ns":500000}"#));
        let at: Vec<Moment> = facts.crashes.iter().map(|(heard, crash)| facts.moment(crash.at_ns, *heard)).collect();
        assert_eq!(at, [Moment(2_999_500), Moment(9_499_000)]);
        let recovered = |index: usize| facts.recovery_of(&facts.crashes[index].1).map(|(heard, _)| *heard);
        assert_eq!((recovered(0), recovered(1)), (Some(Moment(3_899_500)), None));
    }

    #[test]
    fn a_recovery_belongs_to_the_crash_of_an_earlier_generation() {
        let mut facts = Facts::default();
        for line in [
            r#"{"event":"crash","domain":"lb","generation":1}"#,
            r#"{"event":"recovered","domain":"ixgbe0","generation":2}"#,
            r#"{"event":"recovered","domain":"lb","generation":2}"#,
            r#"{"event":"crash","domain":"lb","generation":2}"#,
        ] {
            facts.take(parse(Moment(1), line));
        }
        assert_eq!(facts.recovery_of(&facts.crashes[0].1).unwrap().1.generation, 2);
        assert_eq!(facts.recovery_of(&facts.crashes[1].1), None);
    }

    #[test]
    fn a_state_change_keeps_the_last_counters() {
        let mut facts = Facts::default();
        facts.take(parse(Moment(1), r#"{"event":"stats","domains":[{"name":"lb","counters":{"forwarded":3}}]}"#));
        facts.take(parse(Moment(1), r#"{"event":"domain","name":"lb","state":"crashed","generation":1}"#));
        assert_eq!(facts.domains["lb"].counters["forwarded"], 3);
        assert_eq!(facts.domains["lb"].state, "crashed");
    }
}
