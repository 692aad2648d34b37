//! What a campaign of crashes at single instructions has come to, drawn in the terminal.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Percent of the instructions that run that are to be crashed at.
const GOAL: u64 = 90;
/// Faults of which a record keeps no more.
const MANY: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    pub seed: u64,
    /// The images that the offsets are of.
    pub images: String,
    /// Faults that were asked for, and brought about.
    pub requested: u64,
    pub injected: u64,
    /// Those that a thread in the domain's image came to.
    pub activated: u64,
    /// Nothing but the domain died, and its death was told as what it was.
    pub contained: u64,
    /// The same proxy answered within 100 ms.
    pub recovered: u64,
    /// By the way in which it was brought about, and by what the thread met.
    pub ways: BTreeMap<String, u64>,
    pub kinds: BTreeMap<String, u64>,
    /// Microseconds from crash to answer, to three digits: how many crashes took them.
    pub answered_us: BTreeMap<u64, u64>,
    pub domains: BTreeMap<String, Points>,
    /// How often the load rested and everything was compared.
    pub rests: u64,
    pub faults: Vec<String>,
}

/// Instructions of a domain's image, by offset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Points {
    pub crashes: u64,
    /// Those that run.
    pub run: BTreeSet<u32>,
    /// Those that were crashed at.
    pub crashed_at: BTreeSet<u32>,
}

impl Record {
    pub fn ok(&self) -> bool {
        self.faults.is_empty() && self.contained == self.activated && self.recovered == self.activated
    }

    /// Instructions that run, and those of them that were crashed at.
    fn coverage(&self) -> (u64, u64) {
        let count =
            |points: &Points| (points.run.len() as u64, points.run.intersection(&points.crashed_at).count() as u64);
        self.domains.values().map(count).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }

    /// Whether nearly every instruction that runs has been crashed at.
    pub fn is_covered(&self) -> bool {
        let (run, crashed_at) = self.coverage();
        run > 0 && crashed_at * 100 >= run * GOAL
    }

    /// The time within which this part of the answers came, in microseconds.
    fn percentile(&self, percent: u64) -> u64 {
        let all: u64 = self.answered_us.values().sum();
        let mut seen = 0;
        let at = self.answered_us.iter().find(|(_, count)| {
            seen += *count;
            seen * 100 >= all * percent
        });
        at.map_or(0, |(time, _)| *time)
    }

    pub fn render(&self) -> String {
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 };
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let (run, crashed_at) = self.coverage();
        let mut text = format!("crashes at single instructions, seed {}\n\n", self.seed);
        for (name, count, of) in [
            ("requested", self.requested, self.requested),
            ("injected", self.injected, self.requested),
            ("activated", self.activated, self.injected),
            ("contained", self.contained, self.activated),
            ("recovered", self.recovered, self.activated),
        ] {
            text += &format!("  {name:<10} {count:>8}  {:>6.2} %  {}\n", share(count, of), bar(share(count, of)));
        }
        text += &format!("\n  ways   {}\n  kinds  {}\n", list(&self.ways), list(&self.kinds));
        text += &format!("  rests  {}, at each of which every count was compared with the first\n\n", self.rests);
        text += &format!(
            "  crash to the same proxy's answer: median {} us, p90 {} us, p99 {} us, max {} us\n",
            self.percentile(50),
            self.percentile(90),
            self.percentile(99),
            self.answered_us.keys().last().copied().unwrap_or_default()
        );
        text += &self.draw_times();
        text += "\n  domain      crashes    run  crashed at\n";
        for (name, points) in &self.domains {
            let (run, hit) = (points.run.len() as u64, points.run.intersection(&points.crashed_at).count() as u64);
            text += &format!(
                "  {name:<10} {:>8} {run:>6}  {hit:>6}  {:>6.2} %  {}\n",
                points.crashes,
                share(hit, run),
                bar(share(hit, run))
            );
        }
        text += &format!(
            "  {:<10} {:>8} {run:>6}  {crashed_at:>6}  {:>6.2} %\n\n",
            "all",
            self.activated,
            share(crashed_at, run)
        );
        text += &format!(
            "  {} the aim of {GOAL} % of what runs\n",
            if self.is_covered() { "reached" } else { "not yet reached:" }
        );
        text += if self.ok() {
            "  every crash contained and recovered from\n"
        } else {
            "  NOT every crash contained and recovered from\n"
        };
        text + &self.faults.iter().map(|fault| format!("  FAULT: {fault}\n")).collect::<String>()
    }

    /// How many crashes took how long, by powers of two.
    fn draw_times(&self) -> String {
        let mut classes = BTreeMap::<u32, u64>::new();
        for (time, count) in &self.answered_us {
            *classes.entry(time.max(&1).ilog2()).or_default() += count;
        }
        let most = classes.values().max().copied().unwrap_or(1);
        let (Some(&first), Some(&last)) = (classes.keys().next(), classes.keys().last()) else { return String::new() };
        (first..=last)
            .map(|class| {
                let count = classes.get(&class).copied().unwrap_or_default();
                format!("  {:>8} us.. {count:>8}  {}\n", 1u64 << class, bar(count as f64 * 100.0 / most as f64))
            })
            .collect()
    }

    pub fn fault(&mut self, fault: String) {
        if self.faults.len() < MANY {
            self.faults.push(fault);
        }
    }
}

/// A bar of up to forty columns.
fn bar(percent: f64) -> String {
    "█".repeat((percent / 2.5).round() as usize)
}

/// Three digits.
pub fn rounded(time: u64) -> u64 {
    let unit = 10u64.pow(time.max(1).ilog10().saturating_sub(2));
    time / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with a crash that was not recovered from in time, or not contained, isn't well, whatever else it says; nor is one with a fault.
    #[test]
    fn a_record_is_well_only_if_all_is() {
        let well = Record { activated: 3, contained: 3, recovered: 3, ..Record::default() };
        assert!(well.ok());
        for record in [
            Record { contained: 2, ..well.clone() },
            Record { recovered: 2, ..well.clone() },
            Record { faults: vec!["one".into()], ..well.clone() },
        ] {
            assert!(!record.ok() && record.render().contains("NOT every crash"), "{}", record.render());
        }
    }

    #[test]
    fn times_and_coverage_are_counted() {
        let mut record = Record { answered_us: (1..=100).map(|time| (time, 1)).collect(), ..Record::default() };
        assert_eq!([50, 90, 99].map(|percent| record.percentile(percent)), [50, 90, 99]);
        assert_eq!([7, 999, 1_234, 56_789].map(rounded), [7, 999, 1_230, 56_700]);
        assert!(!record.is_covered(), "nothing is known to run");
        let points = Points { run: (0..10).collect(), crashed_at: (1..20).collect(), crashes: 19 };
        record.domains.insert("c".into(), points);
        assert_eq!((record.coverage(), record.is_covered()), ((10, 9), true));
    }
}
