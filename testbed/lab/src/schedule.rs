//! What is to be done when: injections, typed commands, pauses and outages of a run, in order of time.

use crate::facts::Facts;
use crate::options::{Crash, RunOptions};
use model::Mishap;
use model::control::Control;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A line for the console.
    Type(String),
    /// A fault for a domain, as the console's line that injects it. It waits for a domain that lives.
    Crash {
        domain: String,
        line: String,
    },
    /// Stop the box's time, or let it go on.
    Freeze,
    Thaw,
    /// Cut the box's power, and give it back.
    PowerLoss,
    /// Something goes wrong with the card, by its name; and what the model is commanded for it.
    Mishap(String),
    Command(Control),
    /// Cut a backend off, or connect it again.
    CutOff(String),
    Connect(String),
}

#[derive(Debug)]
pub struct Schedule {
    deeds: VecDeque<(Duration, Deed)>,
    /// How many crashes of each domain have been asked for, and when the last was.
    crashes: BTreeMap<String, (usize, Duration)>,
}

/// How long a crash that was asked for may take to happen before the next one of that domain is asked for all the same.
const PATIENCE: Duration = Duration::from_secs(5);

impl Schedule {
    pub fn of(options: &RunOptions) -> Self {
        let crashes = options
            .crashes
            .iter()
            .map(|crash| (crash.at, Deed::Crash { domain: crash.domain.clone(), line: line(crash) }));
        let commands = options.commands.iter().map(|command| (command.at, Deed::Type(command.line.clone())));
        let pauses =
            options.pauses.iter().flat_map(|pause| [(pause.at, Deed::Freeze), (pause.at + pause.length, Deed::Thaw)]);
        let outages = options.outages.iter().flat_map(|outage| {
            let name = outage.backend.clone();
            [(outage.at, Deed::CutOff(name.clone())), (outage.at + outage.length, Deed::Connect(name))]
        });
        let power_losses = options.power_losses.iter().map(|at| (*at, Deed::PowerLoss));
        let faults = options.faults.iter().filter_map(|fault| Some((fault, Mishap::find(&fault.mishap)?)));
        let faults = faults.flat_map(|(fault, mishap)| {
            let steps = mishap.steps.iter().map(move |(after, step)| (fault.at + *after, Deed::Command(*step)));
            [(fault.at, Deed::Mishap(mishap.name.into()))].into_iter().chain(steps)
        });
        let all = crashes.chain(commands).chain(pauses).chain(outages).chain(power_losses).chain(faults);
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(at, _)| *at);
        Self { deeds: all.into(), crashes: BTreeMap::new() }
    }

    /// The first deed whose time has come. A crash waits until its domain lives and the one before it has happened, and holds up nothing else.
    pub fn due(&mut self, elapsed: Duration, facts: &Facts) -> Option<Deed> {
        let come = self.deeds.iter().take_while(|(at, _)| *at <= elapsed);
        let place = come.into_iter().position(|(_, deed)| self.may(deed, elapsed, facts))?;
        let (_, deed) = self.deeds.remove(place)?;
        if let Deed::Crash { domain, .. } = &deed {
            let asked = self.crashes.entry(domain.clone()).or_default();
            *asked = (asked.0 + 1, elapsed);
        }
        Some(deed)
    }

    fn may(&self, deed: &Deed, elapsed: Duration, facts: &Facts) -> bool {
        let Deed::Crash { domain, .. } = deed else { return true };
        let live = facts.domains.get(domain).is_none_or(|facts| facts.state == "live");
        let crashes = || facts.crashes.iter().map(|(_, crash)| crash).filter(|crash| crash.domain == *domain);
        let (asked, last) = self.crashes.get(domain).copied().unwrap_or_default();
        // A crash may be heard of before the change of state that it makes.
        let is_over = crashes().last().is_none_or(|crash| facts.recovery_of(crash).is_some());
        live && (crashes().count() >= asked && is_over || elapsed >= last + PATIENCE)
    }

    /// Deeds whose time never came.
    pub fn left(&self) -> usize {
        self.deeds.len()
    }
}

fn line(crash: &Crash) -> String {
    match &crash.kind {
        Some(kind) => format!("crash {} {kind}", crash.domain),
        None => format!("crash {}", crash.domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::feed::{DomainFacts, parse};
    use crate::options::{Command, Fault, Outage, Pause};

    #[test]
    fn deeds_come_in_the_order_of_their_times_and_never_early() {
        let seconds = Duration::from_secs;
        let mut options = crate::options::tests::options();
        options.crashes = vec![
            Crash { domain: "lb".into(), kind: None, at: seconds(8) },
            Crash { domain: "lb".into(), kind: None, at: seconds(9) },
            Crash { domain: "ixgbe0".into(), kind: Some("stack-overflow".into()), at: seconds(2) },
        ];
        options.commands = vec![Command { line: "domains".into(), at: seconds(5) }];
        options.pauses = vec![Pause { at: seconds(3), length: seconds(1) }];
        options.outages =
            vec![Outage { backend: "b1".into(), at: Duration::from_millis(4500), length: Duration::from_millis(2500) }];
        options.faults = vec![Fault { mishap: "removal".into(), at: Duration::from_millis(4600) }];
        let mut schedule = Schedule::of(&options);
        let mut facts = Facts::default();
        let domain =
            |name: &str, state: &str| (name.to_owned(), DomainFacts { state: state.into(), ..Default::default() });
        facts.domains.extend([domain("ixgbe0", "restarting"), domain("lb", "live")]);
        assert_eq!(schedule.due(seconds(1), &facts), None);
        let typed = |line: &str| Deed::Type(line.into());
        let crash = |domain: &str, line: &str| Deed::Crash { domain: domain.into(), line: line.into() };
        let mut done = Vec::new();
        while let Some(deed) = schedule.due(seconds(6), &facts) {
            done.push(deed);
        }
        let pulled = |out| Deed::Command(Control::Fault(model::control::Fault::AllOnes(out)));
        let expected =
            [Deed::CutOff("b1".into()), Deed::Mishap("removal".into()), pulled(true), typed("domains"), pulled(false)];
        assert_eq!(done, [vec![Deed::Freeze, Deed::Thaw], expected.to_vec()].concat());
        facts.domains.extend([domain("ixgbe0", "live")]);
        assert_eq!(schedule.due(seconds(6), &facts), Some(crash("ixgbe0", "crash ixgbe0 stack-overflow")));
        assert_eq!(schedule.due(seconds(7), &facts), Some(Deed::Connect("b1".into())));
        assert_eq!(schedule.left(), 2);
        assert_eq!(schedule.due(seconds(8), &facts), Some(crash("lb", "crash lb")));
        // The first one hasn't happened yet; but nobody waits for ever.
        assert_eq!(schedule.due(seconds(9), &facts), None);
        assert_eq!(schedule.due(seconds(13), &facts), Some(crash("lb", "crash lb")));
    }

    /// A domain that is said to be live, and has just crashed, isn't: what it is ordered meanwhile would be refused.
    #[test]
    fn a_crash_waits_for_the_recovery_of_the_one_before() {
        let mut options = crate::options::tests::options();
        options.crashes =
            [1, 1].map(|at| Crash { domain: "lb".into(), kind: None, at: Duration::from_secs(at) }).into();
        let mut schedule = Schedule::of(&options);
        let mut facts = Facts::default();
        let mut is_due = |facts: &Facts| schedule.due(Duration::from_secs(2), facts).is_some();
        facts.domains.insert("lb".into(), DomainFacts { state: "live".into(), ..Default::default() });
        assert!(is_due(&facts));
        facts.take(parse(Moment(1), r#"{"event":"crash","domain":"lb","generation":1}"#));
        assert!(!is_due(&facts));
        facts.take(parse(Moment(2), r#"{"event":"recovered","domain":"lb","generation":2}"#));
        assert!(is_due(&facts));
    }
}
