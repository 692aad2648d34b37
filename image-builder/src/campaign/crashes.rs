//! `redleaf campaign crashes`: a box under load in the lab, whose domains crash at random moments in random ways, again and again.
//!
//! A leg is one life of one box. Each leg draws its crashes from its own seed, so that any of them can be run again by itself. What a leg must show:
//! every crash that was asked for happened, with the reason that was asked for; the domain came back with the pages that it had; nothing failed, broke or
//! moved.

use super::{CampaignError, run_leg, times};
use crate::{run::Request, workspace::Workspace};
use comfy_table::{Table, presets};
use interfaces::abi::Reason;
use lab::{Crash, CrashReport, Report};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

/// What is asked: the same question continues the same record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The manifest's name.
    pub config: String,
    pub domains: Vec<String>,
    /// Time between two crashes, on the average.
    pub gap_ms: u64,
    /// Crashes in one life of a box.
    pub leg: u32,
    pub seed: u64,
}

pub type Record = super::Record<Question, Leg>;

/// One life of one box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    pub seed: u64,
    pub injected: u32,
    /// Crashes that the box reported with the reason that was asked for.
    pub contained: u32,
    /// Those of them after which the domain was live again.
    pub recovered: u32,
    /// Crashes that nobody asked for.
    pub unasked: u32,
    /// Those after which the domain had other pages than after its first restart.
    pub pages_differ: u32,
    pub requests_completed: u64,
    pub requests_failed: u64,
    pub connections_opened: u64,
    pub connections_broken: u64,
    /// None where no VIPs are balanced.
    pub connections_moved: Option<u64>,
    pub probes_sent: u64,
    pub probes_received: u64,
    /// The longest gap before the first crash: what the host itself does to the probe.
    pub noise_ms: f64,
    pub blocked_ms: Vec<f64>,
    pub restart_ms: Vec<f64>,
    pub ok: bool,
    pub reasons: Vec<String>,
}

/// The first crash comes when the load has settled.
const SETTLE: Duration = Duration::from_secs(3);
/// What a hang is left to be found in, before the next crash: a domain that hangs can't crash in another way as well.
const FOUND: Duration = Duration::from_secs(2);
/// Load after the last crash, so that what it broke is seen.
const TAIL: Duration = Duration::from_secs(4);

impl Question {
    fn kinds() -> impl Iterator<Item = &'static str> {
        Reason::ALL.iter().map(|reason| reason.name())
    }

    /// The crashes of a leg: domains and kinds by lot, moments between half and one and a half of the gap after the one before.
    fn crashes(&self, seed: u64, count: u32) -> Vec<Crash> {
        let mut random = fastrand::Rng::with_seed(seed);
        let kinds: Vec<&str> = Self::kinds().collect();
        let mut at = SETTLE;
        (0..count)
            .map(|_| {
                let domain = self.domains[random.usize(..self.domains.len())].clone();
                let kind = kinds[random.usize(..kinds.len())];
                let crash = Crash { domain, kind: Some(kind.to_owned()), at };
                at += Duration::from_millis(self.gap_ms / 2 + random.u64(..=self.gap_ms));
                if kind == Reason::Watchdog.name() {
                    at += FOUND;
                }
                crash
            })
            .collect()
    }
}

impl super::Question for Question {
    type Leg = Leg;

    const EVENTS: &str = "crashes";

    fn fault(&self) -> Option<&'static str> {
        let asks_nothing = self.domains.is_empty() || self.leg == 0 || self.gap_ms == 0;
        asks_nothing.then_some("a campaign needs a domain, a leg of one crash, and a gap")
    }

    fn leg_size(&self) -> u32 {
        self.leg
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn answer(&self, workspace: &Workspace, manifest: &Path, seed: u64, count: u32) -> Result<Leg, CampaignError> {
        let crashes = self.crashes(seed, count);
        let duration = Some(crashes.last().map_or(SETTLE, |last| last.at) + TAIL);
        let report =
            run_leg(workspace, Request { crashes: crashes.clone(), duration, ..Request::quiet(manifest.to_owned()) })?;
        Ok(leg(seed, &crashes, &report))
    }

    fn render(record: &Record) -> String {
        render(record)
    }
}

impl super::Leg for Leg {
    fn events(&self) -> u32 {
        self.injected
    }

    fn is_well(&self) -> bool {
        self.ok
    }
}

fn leg(seed: u64, crashes: &[Crash], report: &Report) -> Leg {
    // By domain and kind: the box reports in its own order, and a crash may be delayed into the next one's turn.
    let mut wanted = BTreeMap::<(&str, &str), u32>::new();
    for crash in crashes {
        *wanted.entry((&crash.domain, crash.kind.as_deref().unwrap_or_default())).or_default() += 1;
    }
    // As it was after its first restart: at a crash by quota a domain holds all that it may.
    let first_pages =
        |domain: &str| report.crashes.iter().find(|crash| crash.domain == domain).and_then(|crash| crash.pages_after);
    let mut reasons = report.reasons.clone();
    let (mut contained, mut recovered, mut unasked, mut pages_differ) = (0, 0, 0, 0);
    for crash in &report.crashes {
        match wanted.get_mut(&(crash.domain.as_str(), crash.reason.as_str())).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                contained += 1;
                recovered += u32::from(crash.restart_ms.is_some());
            }
            None => unasked += 1,
        }
        let (now, first) = (crash.pages_after, first_pages(&crash.domain));
        if let (Some(now), Some(first)) = (now, first)
            && now != first
        {
            pages_differ += 1;
            reasons.push(format!("{} came back with {now} pages, with {first} the first time", crash.domain));
        }
    }
    let values = |of: fn(&CrashReport) -> Option<f64>| report.crashes.iter().filter_map(of).collect::<Vec<f64>>();
    let injected = crashes.len() as u32;
    let mut leg = Leg {
        seed,
        injected,
        contained,
        recovered,
        unasked,
        pages_differ,
        requests_completed: report.requests.completed,
        requests_failed: report.requests.failed,
        connections_opened: report.connections.opened,
        connections_broken: report.connections.broken,
        connections_moved: (!report.vips.is_empty()).then_some(report.connections.moved),
        probes_sent: report.probe.sent,
        probes_received: report.probe.received,
        noise_ms: report.probe.max_gap_before_ms,
        blocked_ms: values(|crash| crash.blocked_ms),
        restart_ms: values(|crash| crash.restart_ms),
        ok: report.ok() && pages_differ == 0,
        reasons,
    };
    for (what, bad) in [
        ("not every crash was contained", contained != injected),
        ("not every domain came back", recovered != injected),
    ] {
        if bad {
            leg.ok = false;
            leg.reasons.push(what.to_owned());
        }
    }
    leg
}

/// The record as a person reads it: the sums, and how long crashes blocked, drawn. What was not measured has no line: a service has no VIP whose connections could move, and no probes go through it.
fn render(record: &Record) -> String {
    let sum = |of: fn(&Leg) -> u64| record.legs.iter().map(of).sum::<u64>();
    let values = |of: fn(&Leg) -> &Vec<f64>| record.legs.iter().flat_map(of).copied().collect::<Vec<f64>>();
    let (mut blocked, mut restart) = (values(|leg| &leg.blocked_ms), values(|leg| &leg.restart_ms));
    let probes = sum(|leg| leg.probes_sent);
    let probed = |value: u64| (probes > 0).then(|| value.to_string());
    let moved = record.legs.iter().filter_map(|leg| leg.connections_moved).reduce(|one, other| one + other);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    for (name, value) in [
        ("boxes", Some(record.legs.len().to_string())),
        ("crashes injected", Some(sum(|leg| leg.injected.into()).to_string())),
        ("contained, with the reason asked for", Some(sum(|leg| leg.contained.into()).to_string())),
        ("recovered", Some(sum(|leg| leg.recovered.into()).to_string())),
        ("crashes that nobody asked for", Some(sum(|leg| leg.unasked.into()).to_string())),
        ("came back with other pages", Some(sum(|leg| leg.pages_differ.into()).to_string())),
        ("requests completed", Some(sum(|leg| leg.requests_completed).to_string())),
        ("requests failed", Some(sum(|leg| leg.requests_failed).to_string())),
        ("connections broken", Some(sum(|leg| leg.connections_broken).to_string())),
        ("connections moved", moved.map(|moved| moved.to_string())),
        ("probes sent", probed(probes)),
        ("probes lost", probed(sum(|leg| leg.probes_sent.saturating_sub(leg.probes_received)))),
        ("blocked: median / 99 % / longest", times(&mut blocked)),
        ("crash to live: median / 99 % / longest", times(&mut restart)),
    ] {
        if let Some(value) = value {
            table.add_row([name.to_owned(), value]);
        }
    }
    let mut text = format!("{table}\n\n{}", histogram(&blocked));
    for (number, leg) in record.legs.iter().enumerate().filter(|(_, leg)| !leg.ok) {
        let _ = writeln!(text, "box {number} (seed {:#x}): {}", leg.seed, leg.reasons.join("; "));
    }
    text.push_str(if record.is_well() { "all went well\n" } else { "not well\n" });
    text
}

/// Sorted milliseconds by powers of two.
fn histogram(sorted: &[f64]) -> String {
    const WIDTH: usize = 50;
    let class = |value: f64| value.max(1.0).log2() as usize;
    let mut counts = vec![0usize; sorted.last().map_or(0, |longest| class(*longest) + 1)];
    sorted.iter().for_each(|value| counts[class(*value)] += 1);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut text = String::new();
    for (class, count) in counts.iter().enumerate().skip_while(|(_, count)| **count == 0) {
        let bar = "█".repeat((count * WIDTH).div_ceil(most));
        let _ = writeln!(text, "blocked < {:>6} ms  {bar} {count}", 2u64 << class);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{leg_seed, write};
    use super::*;
    use crate::campaign::SCHEMA_VERSION;
    use lab::ProbeReport;

    fn question() -> Question {
        Question {
            config: "maglev".into(),
            domains: vec!["ixgbe0".into(), "lb".into()],
            gap_ms: 800,
            leg: 100,
            seed: 7,
        }
    }

    fn report(crashes: &[Crash]) -> Report {
        let crashes = crashes.iter().map(|crash| CrashReport {
            domain: crash.domain.clone(),
            reason: crash.kind.clone().unwrap(),
            pages_before: Some(69),
            pages_after: Some(69),
            restart_ms: Some(5.0),
            blocked_ms: Some(40.0),
            ..Default::default()
        });
        Report { ok: true, crashes: crashes.collect(), ..Default::default() }
    }

    /// A leg can be run again by its seed, and no two are alike.
    #[test]
    fn a_seed_says_which_crashes() {
        let question = question();
        let seeds = [0, 1, 2].map(|number| leg_seed(question.seed, number));
        let legs = seeds.map(|seed| question.crashes(seed, 100));
        assert_eq!(legs[1], question.crashes(seeds[1], 100));
        assert!(legs[0] != legs[1] && legs[1] != legs[2]);
        for crashes in &legs {
            assert!(crashes.windows(2).all(|pair| pair[1].at - pair[0].at >= Duration::from_millis(400)));
            assert!(question.domains.iter().all(|domain| crashes.iter().any(|crash| crash.domain == *domain)));
            assert!(Question::kinds().all(|kind| crashes.iter().any(|crash| crash.kind.as_deref() == Some(kind))));
        }
    }

    /// What a leg must show is judged, one by one: a campaign that can't fail shows nothing.
    #[test]
    fn a_leg_that_is_not_well_is_called_so() {
        let crashes = question().crashes(1, 20);
        let good = report(&crashes);
        assert!(leg(1, &crashes, &good).ok);
        for (what, change) in [
            ("a crash that did not happen", (|report| drop(report.crashes.pop())) as fn(&mut Report)),
            ("another reason", |report| report.crashes[3].reason = "unheard-of".into()),
            ("a domain that stayed away", |report| report.crashes[3].restart_ms = None),
            ("pages that grew", |report| report.crashes[3].pages_after = Some(70)),
            ("what the lab itself complains of", |report| report.ok = false),
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(!leg(1, &crashes, &bad).ok, "{what}");
        }
    }

    /// Started again, a campaign goes on; with another question it doesn't mix two into one.
    #[test]
    fn a_record_is_resumed_by_its_own_question_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        let mut record = Record::resume(&path, &question()).unwrap();
        assert_eq!(record.legs, []);
        let crashes = question().crashes(1, 3);
        record.legs.push(leg(1, &crashes, &report(&crashes)));
        write(&path, &record).unwrap();
        assert_eq!(Record::resume(&path, &question()).unwrap(), record);
        let other = Question { seed: 8, ..question() };
        assert!(matches!(Record::resume(&path, &other), Err(CampaignError::Another { .. })));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Record::resume(&path, &question()), Err(CampaignError::Unreadable { .. })));
    }

    fn drawn(report: &Report) -> String {
        let crashes = question().crashes(1, 3);
        let legs = vec![leg(1, &crashes, report)];
        render(&Record { schema_version: SCHEMA_VERSION, question: question(), legs })
    }

    #[test]
    fn it_is_drawn() {
        let report = Report {
            probe: ProbeReport { sent: 5, received: 4, ..Default::default() },
            vips: [("10.0.1.100:80/tcp".to_owned(), Default::default())].into(),
            ..report(&question().crashes(1, 3))
        };
        let text = drawn(&report);
        assert!(text.contains("blocked <     64 ms  ██████████████████████████████████████████████████ 3"), "{text}");
        assert!(text.contains("probes lost") && text.contains("connections moved"), "{text}");
        assert!(text.ends_with("all went well\n"));
    }

    /// Protects whoever reads a campaign of a service: a zero that nobody measured looks like a good figure.
    #[test]
    fn what_was_not_measured_has_no_line() {
        let mut report = report(&question().crashes(1, 3));
        report.crashes.iter_mut().for_each(|crash| crash.blocked_ms = None);
        let text = drawn(&report);
        assert!(!["probes", "blocked", "moved"].iter().any(|word| text.contains(word)), "{text}");
        assert!(text.contains("crash to live") && text.contains("requests failed"), "{text}");
    }
}
