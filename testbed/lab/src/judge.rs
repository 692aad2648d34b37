//! From what was seen to a verdict: the report, its reasons, and the run's checks of itself.

mod checks;
mod outages;
mod services;

use crate::clock::Moment;
use crate::facts::Facts;
use crate::feed::CrashFacts;
use crate::gaps::{Gaps, Window};
use crate::load::{Kind, Tally};
use crate::options::{Protocol, RunOptions, Vip};
use crate::probe::THIN;
use crate::report::{
    BackendReport, Connections, CrashReport, DomainReport, Exchange, FaultReport, KindReport, NicReport, PauseReport,
    PowerLossReport, ProbeReport, ProgramReport, Report, Requests, SCHEMA_VERSION, VipReport,
};
use crate::rubbish::RubbishReport;
use crate::service::Dealings;
use crate::witness::{Arrival, Service, Witness};
use model::Mishap;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// How long after a domain's return a gap still belongs to its crash: neighbours and rings have to be found again.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How far before the moment that the box names a gap may have begun: one CPU may stand still before the other says so.
const FOREBODING: Duration = Duration::from_millis(20);

/// How long a driver may take to find out that its card is at fault: the longest of its own limits is 5 s of a transmitter that stands still, and it looks ten times a second.
const DETECTION: Duration = Duration::from_secs(6);
/// And to reset it, once it is there again.
const RESET: Duration = Duration::from_secs(3);

/// The one vocabulary of reasons; other kinds of fault may be asked for by name, and end as one of these.
const REASONS: [&str; 7] = ["panic", "stack-overflow", "page-fault", "cpu-exception", "quota", "watchdog", "killed"];

/// A line that was typed at the console, by the schedule or by hand.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Moment,
    pub line: String,
    /// Somebody's at the live console, whose mistakes are no fault of the run's.
    pub by_hand: bool,
}

impl Asked {
    /// The domain that it asks to crash, and the reason that is to be reported, if it names one.
    fn crash(&self) -> Option<(&str, Option<&str>)> {
        let mut words = self.line.split_whitespace();
        match (words.next()?, words.next()?) {
            ("crash", domain) => Some((domain, words.next().filter(|kind| REASONS.contains(kind)))),
            ("kill", domain) => Some((domain, Some("killed"))),
            _ => None,
        }
    }

    fn changes_backends(&self) -> bool {
        self.line.split_whitespace().next() == Some("backend")
    }
}

/// What a run has left behind, besides the witness.
pub struct Evidence {
    /// The box's process was started.
    pub started: Moment,
    /// It was up, if it came to that: the run's time 0.
    pub up: Option<Moment>,
    pub load_end: Moment,
    pub passed_without_box: bool,
    /// Number of the first probe after the box was up, and of the first after the load's end.
    pub probe_begin: u64,
    pub probe_sent: u64,
    pub tally: Option<Tally>,
    pub dealings: Option<Dealings>,
    pub nic: Option<NicReport>,
    /// Frames that the NIC had sent just before and just after it was unplugged.
    pub nic_sent: Option<(u64, u64)>,
    pub nic_detail: String,
    /// The box lived to the end, and all traffic had ended: only then do sums agree.
    pub settled: bool,
    pub captures_missed: u64,
    pub rubbish: Option<RubbishReport>,
    pub console: Vec<Exchange>,
    pub programs: Vec<ProgramReport>,
    pub facts: Facts,
    pub asked: Vec<Asked>,
    /// Begin and end of each time that the box was stopped.
    pub pauses: Vec<(Moment, Option<Moment>)>,
    /// When the power was cut, and when all services had answered again.
    pub dark: Vec<(Moment, Option<Moment>)>,
    /// What went wrong with the card on command, by name.
    pub mishaps: Vec<(Moment, String)>,
    /// What went wrong on the way.
    pub reasons: Vec<String>,
}

impl Evidence {
    pub fn new(started: Moment) -> Self {
        Self {
            started,
            up: None,
            load_end: started,
            passed_without_box: false,
            probe_begin: 0,
            probe_sent: 0,
            tally: None,
            dealings: None,
            nic: None,
            nic_sent: None,
            nic_detail: String::new(),
            settled: false,
            captures_missed: 0,
            rubbish: None,
            console: Vec::new(),
            programs: Vec::new(),
            facts: Facts::default(),
            asked: Vec::new(),
            pauses: Vec::new(),
            dark: Vec::new(),
            mishaps: Vec::new(),
            reasons: Vec::new(),
        }
    }
}

pub fn millis(length: Duration) -> f64 {
    // Whole microseconds are finer than anything measured here.
    (length.as_secs_f64() * 1e6).round() / 1e3
}

/// Draws up the report.
pub fn report(options: &RunOptions, evidence: &Evidence, witness: &Witness) -> Report {
    let mut reasons = evidence.reasons.clone();
    let up = evidence.up.unwrap_or(evidence.started);
    let gaps = Gaps::new(&witness.arrivals, up, evidence.load_end);
    let probe = probe(evidence, witness, &gaps, up);
    let (mut crashes, windows) = crashes(options, evidence, &gaps, up, &mut reasons);
    let noise = probe.max_gap_before_ms;
    check_blocked(&crashes, &windows, &gaps, noise, |crash| allowance(options, evidence, up, crash), &mut reasons);
    let first_change = evidence.asked.iter().filter(|asked| asked.changes_backends()).map(|asked| asked.at).min();
    let changed = |at| first_change.is_some_and(|change| at >= change);
    let tally = evidence.tally.clone().unwrap_or_default();
    let mut connections = Connections {
        opened: tally.opened,
        broken: tally.broken,
        moved: witness.moves.len() as u64,
        moved_after_backend_change: witness.moves.iter().filter(|one| changed(one.at)).count() as u64,
        moved_from_the_dead: witness.moves.iter().filter(|one| outages::excuse(witness, one.from, one.at)).count()
            as u64,
    };
    let unexcused =
        witness.moves.iter().filter(|one| !changed(one.at) && !outages::excuse(witness, one.from, one.at)).count();
    if unexcused > 0 {
        reasons.push(format!("{unexcused} connections were moved to another backend"));
    }
    let vips = vips(options, evidence, witness);
    let losses = outages::Losses::new(options, &tally, witness);
    check_load(evidence, &tally, &losses, &probe, &mut reasons);
    reasons.extend(
        losses.first_unexcused(options, up).map(|first| format!("the first that failed on a connection: {first}")),
    );
    let mut requests = requests(&tally);
    services::judge(options, evidence, up, &mut requests, &mut connections, &mut crashes, &mut reasons);
    for (name, _) in vips.iter().filter(|(_, vip)| vip.probes_sent > 0 && vip.probes_received == 0) {
        reasons.push(format!("no probe arrived through {name}"));
    }
    for program in evidence.programs.iter().filter(|program| program.status != Some(0)) {
        let how = program.status.map_or("did not end by itself".to_owned(), |status| format!("ended with {status}"));
        reasons.push(format!("\"{}\" {how}: {}", program.line, last_lines(&program.words)));
    }
    let begun = options.programs.len().min(evidence.programs.len());
    if evidence.up.is_some() && begun < options.programs.len() {
        reasons.push(format!("\"{}\" did not come to its end", options.programs[begun]));
    }
    let checks = checks::all(evidence, witness);
    reasons.extend(
        checks
            .iter()
            .filter(|check| check.holds == Some(false))
            .map(|check| format!("{}: {}", check.name, check.detail)),
    );
    let facts = &evidence.facts;
    Report {
        schema_version: SCHEMA_VERSION,
        name: options.name.clone(),
        ok: reasons.is_empty(),
        reasons,
        duration_ms: millis(evidence.load_end.since(up)),
        boot_ms: facts.booted.as_ref().map(|(_, booted)| booted.boot_ms),
        first_packet_ms: witness
            .arrivals
            .iter()
            .map(|arrival| arrival.at)
            .find(|at| *at >= evidence.started)
            .map(|at| millis(at.since(evidence.started))),
        requests,
        connections,
        backends: backends(options, &tally, witness, up),
        vips,
        domains: domains(facts, &crashes),
        cpus: facts.cpus.clone(),
        crashes,
        pauses: pauses(evidence, &gaps, up),
        power_losses: power_losses(evidence, up),
        outages: outages::reports(options, &losses, witness, up, evidence.load_end),
        faults: evidence
            .mishaps
            .iter()
            .map(|(at, fault)| FaultReport { at_ms: millis(at.since(up)), fault: fault.clone() })
            .collect(),
        rubbish: evidence.rubbish.clone(),
        probe,
        nic: evidence.nic.clone().unwrap_or_default(),
        checks,
        console: evidence.console.clone(),
        programs: evidence.programs.clone(),
    }
}

/// Enough of what a program said to see what it complained of.
fn last_lines(words: &str) -> String {
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

fn probe(evidence: &Evidence, witness: &Witness, gaps: &Gaps, up: Moment) -> ProbeReport {
    let counted = |arrival: &&Arrival| (evidence.probe_begin..evidence.probe_sent).contains(&arrival.number);
    let (mut known, mut repeated, mut reordered, mut highest) = (HashSet::new(), 0, 0, 0);
    for arrival in witness.arrivals.iter().filter(counted) {
        repeated += u64::from(!known.insert(arrival.number));
        reordered += u64::from(arrival.number < highest);
        highest = highest.max(arrival.number);
    }
    let crashes = evidence.facts.crashes.iter().map(|(heard, crash)| evidence.facts.moment(crash.at_ns, *heard));
    let disturbed = crashes
        .chain(evidence.asked.iter().map(|asked| asked.at))
        .chain(evidence.pauses.iter().map(|pause| pause.0))
        .chain(evidence.mishaps.iter().map(|mishap| mishap.0));
    let calm = Window { from: up, to: disturbed.min().unwrap_or(evidence.load_end) };
    ProbeReport {
        sent: evidence.probe_sent - evidence.probe_begin,
        received: known.len() as u64,
        max_gap_before_ms: millis(gaps.longest_inside(calm)),
        median_gap_ms: gaps.median().map_or(0.0, millis),
        repeated,
        reordered,
    }
}

/// The crashes, each with the time for which it is answerable; and reasons for what should have happened and didn't, or happened and shouldn't have.
fn crashes(
    options: &RunOptions,
    evidence: &Evidence,
    gaps: &Gaps,
    up: Moment,
    reasons: &mut Vec<String>,
) -> (Vec<CrashReport>, Vec<Window>) {
    let facts = &evidence.facts;
    let mut unseen: Vec<&(Moment, String)> = evidence.mishaps.iter().filter(|(_, name)| is_seen(name)).collect();
    let mut wanted: Vec<(&Asked, &str, Option<&str>)> = Vec::new();
    wanted.extend(
        evidence.asked.iter().filter_map(|asked| asked.crash().map(|(domain, reason)| (asked, domain, reason))),
    );
    let (mut reports, mut windows) = (Vec::new(), Vec::new());
    for (heard, crash) in &facts.crashes {
        let at = facts.moment(crash.at_ns, *heard);
        let cause = wanted
            .iter()
            .position(|(asked, domain, _)| *domain == crash.domain && asked.at <= *heard)
            .map(|place| wanted.remove(place));
        let mut from = at - FOREBODING;
        let mishap = mishap_of(options, evidence, &crash.domain, *heard);
        match cause {
            None if mishap.is_some() => {
                from = from.min(mishap.map_or(from, |(at, _)| *at));
                unseen.retain(|one| Some(*one) != mishap);
            }
            Some((asked, _, reason)) => {
                from = from.min(asked.at);
                if let Some(reason) = reason.filter(|reason| *reason != crash.reason) {
                    reasons.push(format!("\"{}\" ended as \"{}\", not as \"{reason}\"", asked.line, crash.reason));
                }
            }
            None => reasons.push(format!(
                "{} crashed, which nobody had asked for: {} {}",
                crash.domain, crash.reason, crash.last_words
            )),
        }
        let recovery = facts.recovery_of(crash);
        let to = recovery
            .map_or(evidence.load_end, |(heard, recovered)| facts.moment(recovered.at_ns, *heard).max(at) + AFTERMATH);
        windows.push(Window { from, to });
        let blocked = gaps.blocked(Window { from, to });
        let report = crash_report(evidence, crash, millis(at.since(up)), blocked, cause.is_some() || mishap.is_some());
        // By what it was doing the domain may have held more at the crash than when it had just started; and one to which all its clients come at once holds as much soon after.
        let (had, has) = (report.pages_at_first.max(report.pages_before), report.pages_after);
        // (A durable store starts with what its log holds.)
        let durable = options.services.iter().any(|service| service.durable && service.domain == crash.domain);
        if let (Some(had), Some(has), false) = (had, has, durable)
            && has > had
        {
            reasons.push(format!("{} has {has} pages after its crash, and had {had} at most before", crash.domain));
        }
        reports.push(report);
        if recovery.is_none() && !stopped_later(evidence, crash, at) {
            reasons.push(format!(
                "{} did not come back after its crash at {:.0} ms",
                crash.domain,
                millis(at.since(up))
            ));
        }
    }
    for (asked, domain, _) in wanted.into_iter().filter(|(asked, ..)| !asked.by_hand) {
        reasons.push(format!(
            "\"{}\" at {:.0} ms: the box reported no crash of {domain}",
            asked.line,
            millis(asked.at.since(up))
        ));
    }
    reasons.extend(unseen.iter().map(|(at, name)| {
        format!("nic:{name} at {:.0} ms: the box reported no crash of the card's driver", millis(at.since(up)))
    }));
    let typed = |line: &str| evidence.asked.iter().any(|asked| asked.line == line);
    let unanswered = evidence.console.iter().filter(|exchange| exchange.reply.is_none() && typed(&exchange.line));
    reasons.extend(
        unanswered.map(|exchange| format!("\"{}\" at {:.0} ms: no prompt came back", exchange.line, exchange.at_ms)),
    );
    let refused = evidence.console.iter().filter_map(|exchange| Some((exchange, exchange.reply.as_deref()?)));
    let refused = refused.filter(|(_, reply)| reply.trim_start().starts_with("error"));
    reasons.extend(refused.map(|(exchange, reply)| format!("\"{}\": {reply}", exchange.line)));
    (reports, windows)
}

fn crash_report(
    evidence: &Evidence,
    crash: &CrashFacts,
    at_ms: f64,
    blocked: Option<Duration>,
    asked_for: bool,
) -> CrashReport {
    let facts = &evidence.facts;
    let recovered = facts.recovery_of(crash).map(|(_, recovered)| recovered);
    let restart = recovered.filter(|recovered| recovered.at_ns > crash.at_ns && crash.at_ns > 0);
    CrashReport {
        at_ms,
        domain: crash.domain.clone(),
        reason: crash.reason.clone(),
        generation: crash.generation,
        blocked_ms: blocked.map(millis),
        pages_before: crash.pages_before,
        pages_after: recovered.and_then(|recovered| recovered.pages_after),
        pages_at_first: facts.pages_at_first.get(&crash.domain).copied(),
        restart_ms: restart.map(|recovered| millis(Duration::from_nanos(recovered.at_ns - crash.at_ns))),
        cpu: crash.cpu,
        chain: crash.chain.clone(),
        last_words: crash.last_words.clone(),
        asked_for,
    }
}

fn is_seen(mishap: &str) -> bool {
    Mishap::find(mishap).is_some_and(|mishap| mishap.is_seen)
}

/// What had gone wrong with the card, if that is why its driver ended at `heard`: the last thing before, and not long before. (While a card is
/// away each start ends at once.)
fn mishap_of<'a>(
    options: &RunOptions,
    evidence: &'a Evidence,
    domain: &str,
    heard: Moment,
) -> Option<&'a (Moment, String)> {
    let drives = options.box_settings.drivers.iter().any(|driver| driver == domain);
    let within = |mishap: &&(Moment, String)| mishap.0 <= heard && heard.since(mishap.0) <= DETECTION + RESET;
    evidence.mishaps.iter().rev().filter(|(_, name)| drives && is_seen(name)).find(within)
}

/// Whether somebody stopped the domain after it had crashed: then it need not come back.
fn stopped_later(evidence: &Evidence, crash: &CrashFacts, at: Moment) -> bool {
    evidence.asked.iter().any(|asked| asked.at >= at && asked.line == format!("stop {}", crash.domain))
}

/// How long a crash of this kind may block forwarding.
fn allowance(options: &RunOptions, evidence: &Evidence, up: Moment, crash: &CrashReport) -> Duration {
    // The samples are an eighth of the watchdog's time apart; expiry may take one more at either end.
    let watchdog = options.box_settings.watchdogs.get(&crash.domain).copied().unwrap_or_default();
    let hang = if crash.reason == "watchdog" { watchdog + watchdog / 4 } else { Duration::ZERO };
    let at = up + Duration::from_secs_f64(crash.at_ms.max(0.0) / 1e3);
    let by_mishap = mishap_of(options, evidence, &crash.domain, at).map_or(Duration::ZERO, |_| DETECTION + RESET);
    options.lab.limits.blocked + hang + by_mishap
}

/// Each crash may block for as long as its kind is allowed, above the noise; where several fall into one gap, for as long as all of them together.
fn check_blocked(
    crashes: &[CrashReport],
    windows: &[Window],
    gaps: &Gaps,
    noise_ms: f64,
    allowance: impl Fn(&CrashReport) -> Duration,
    reasons: &mut Vec<String>,
) {
    let gap_of: Vec<Option<Window>> = windows.iter().map(|window| gaps.longest_at(*window)).collect();
    for (crash, gap) in crashes.iter().zip(&gap_of) {
        let sharing = crashes.iter().zip(&gap_of).filter(|(_, other)| *other == gap);
        let limit = noise_ms + millis(sharing.map(|(crash, _)| allowance(crash)).sum());
        if let Some(blocked) = crash.blocked_ms.filter(|blocked| *blocked > limit) {
            reasons.push(format!(
                "{}'s crash blocked forwarding for {blocked:.0} ms, more than {limit:.0} ms",
                crash.domain
            ));
        }
    }
}

fn check_load(
    evidence: &Evidence,
    tally: &Tally,
    losses: &outages::Losses,
    probe: &ProbeReport,
    reasons: &mut Vec<String>,
) {
    let failed = tally.failed() - losses.failed();
    if failed > 0 {
        let why = tally.failures.iter().filter_map(|(reason, count)| {
            let left = count - losses.excused_for(reason);
            (left > 0).then(|| format!("{left} × {reason}"))
        });
        reasons.push(format!("{failed} requests failed: {}", why.collect::<Vec<_>>().join("; ")));
    }
    let broken = tally.broken - losses.broken();
    if broken > 0 {
        reasons.push(format!("{broken} connections were broken"));
    }
    if evidence.up.is_some() && evidence.tally.is_some() && tally.completed() == 0 {
        reasons.push("no request was completed".into());
    }
    if probe.sent > 0 && probe.received == 0 {
        reasons.push("no probe arrived under load".into());
    }
}

fn requests(tally: &Tally) -> Requests {
    let kinds = Kind::ALL.iter().filter_map(|kind| Some((kind, tally.by_kind.get(kind)?)));
    let by_kind = kinds.map(|(kind, counts)| {
        let mut took = counts.took_us.clone();
        took.sort_unstable();
        let at = |part: f64| {
            took.get(((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1)))
                .map_or(0.0, |us| f64::from(*us) / 1e3)
        };
        let report = KindReport {
            completed: counts.completed,
            failed: counts.failed,
            median_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        };
        (kind.name().to_owned(), report)
    });
    Requests {
        completed: tally.completed(),
        failed: tally.failed(),
        by_kind: by_kind.collect(),
        failures: tally.failures.clone(),
    }
}

fn backends(options: &RunOptions, tally: &Tally, witness: &Witness, up: Moment) -> BTreeMap<String, BackendReport> {
    let all: u64 = witness.backends.iter().map(|seen| seen.connections).sum();
    let reports = options.backends.iter().zip(&witness.backends).map(|(backend, seen)| {
        let report = BackendReport {
            weight: backend.weight,
            connections: seen.connections,
            share: seen.connections as f64 / all.max(1) as f64,
            requests: tally.by_backend.get(&backend.name).copied().unwrap_or(0),
            frames: seen.from_box,
            probes: seen.probes,
            last_connection_ms: seen.last_connection.map(|at| millis(at.since(up))),
            last_frame_ms: seen.last_frame.map(|at| millis(at.since(up))),
        };
        (backend.name.clone(), report)
    });
    reports.collect()
}

fn vips(options: &RunOptions, evidence: &Evidence, witness: &Witness) -> BTreeMap<String, VipReport> {
    let reports = options.vips.iter().map(|vip| {
        let service = Service { address: vip.address, port: vip.port, protocol: vip.protocol };
        let flows = witness.shares.get(&service).cloned().unwrap_or_else(|| vec![0; options.backends.len()]);
        let members = options
            .backends
            .iter()
            .zip(&flows)
            .filter(|(backend, flows)| **flows > 0 || vip.backends.contains(&backend.name));
        let backends: BTreeMap<String, u64> = members.map(|(backend, flows)| (backend.name.clone(), *flows)).collect();
        let (probes_sent, probes_received) = probes(evidence, witness, service);
        let worst_share = worst_share(vip, &backends);
        (
            service.to_string(),
            VipReport { flows: flows.iter().sum(), backends, worst_share, probes_sent, probes_received },
        )
    });
    reports.collect()
}

/// Probes to a service under load, and the distinct ones that arrived.
fn probes(evidence: &Evidence, witness: &Witness, service: Service) -> (u64, u64) {
    let thin = |number: u64| number.div_ceil(THIN);
    let (range, arrived): (_, HashSet<u64>) = match witness.others.get(&service) {
        _ if witness.stream == Some(service) => {
            (evidence.probe_begin..evidence.probe_sent, witness.arrivals.iter().map(|arrival| arrival.number).collect())
        }
        _ if service.protocol == Protocol::Tcp || witness.stream.is_none() => return (0, 0),
        arrived => {
            (thin(evidence.probe_begin)..thin(evidence.probe_sent), arrived.into_iter().flatten().copied().collect())
        }
    };
    (range.end - range.start, arrived.iter().filter(|number| range.contains(number)).count() as u64)
}

/// By how much the worst share is off what the weights ask for; none without flows.
fn worst_share(vip: &Vip, flows: &BTreeMap<String, u64>) -> Option<f64> {
    let weight = |name: &String| f64::from(vip.weights.get(name).copied().unwrap_or(1));
    let (all, weights) = (flows.values().sum::<u64>() as f64, vip.backends.iter().map(weight).sum::<f64>());
    let off = vip.backends.iter().map(|name| {
        let wanted = all * weight(name) / weights;
        (flows.get(name).copied().unwrap_or(0) as f64 / wanted - 1.0).abs()
    });
    off.filter(|_| all > 0.0).reduce(f64::max)
}

fn domains(facts: &Facts, crashes: &[CrashReport]) -> BTreeMap<String, DomainReport> {
    let reports = facts.domains.values().map(|domain| {
        let blocked = crashes.iter().filter(|crash| crash.domain == domain.name).filter_map(|crash| crash.blocked_ms);
        let report = DomainReport {
            state: domain.state.clone(),
            generation: domain.generation,
            restarts: domain.restarts,
            blocked_ms: blocked.reduce(f64::max),
            pages: domain.pages,
            counters: domain.counters.clone(),
        };
        (domain.name.clone(), report)
    });
    reports.collect()
}

fn power_losses(evidence: &Evidence, up: Moment) -> Vec<PowerLossReport> {
    let report = |(lost, back): &(Moment, Option<Moment>)| PowerLossReport {
        at_ms: millis(lost.since(up)),
        back_after_ms: back.map(|back| millis(back.since(*lost))),
    };
    evidence.dark.iter().map(report).collect()
}

fn pauses(evidence: &Evidence, gaps: &Gaps, up: Moment) -> Vec<PauseReport> {
    let reports = evidence.pauses.iter().map(|(from, to)| {
        let to = to.unwrap_or(evidence.load_end);
        PauseReport {
            at_ms: millis(from.since(up)),
            length_ms: millis(to.since(*from)),
            blocked_ms: gaps.blocked(Window { from: *from, to: to + AFTERMATH }).map(millis),
        }
    });
    reports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash that comes while another one's gap is still open is not blamed for what that one was allowed; together they may take no longer than
    /// both, and alone no crash longer than itself.
    #[test]
    fn crashes_in_one_gap_share_its_blame() {
        const MS: u64 = 1_000_000;
        let blamed = |hole: u64, crashes_at: &[(u64, &str)]| {
            let arrivals = (0..5_000).filter(|ms| !(1_000..1_000 + hole).contains(ms));
            let arrivals: Vec<_> = arrivals.map(|ms| Arrival { at: Moment(ms * MS), number: ms }).collect();
            let gaps = Gaps::new(&arrivals, Moment(0), Moment(5_000 * MS));
            let windows = crashes_at
                .iter()
                .map(|(at, _)| Window { from: Moment(at * MS), to: Moment((at + 50) * MS) })
                .collect::<Vec<_>>();
            let report = |window: &Window, reason: &str| CrashReport {
                reason: reason.into(),
                blocked_ms: gaps.blocked(*window).map(millis),
                ..CrashReport::default()
            };
            let crashes: Vec<_> =
                windows.iter().zip(crashes_at).map(|(window, (_, reason))| report(window, reason)).collect();
            let allowance =
                |crash: &CrashReport| Duration::from_millis(if crash.reason == "watchdog" { 900 } else { 250 });
            let mut reasons = Vec::new();
            check_blocked(&crashes, &windows, &gaps, 10.0, allowance, &mut reasons);
            reasons.len()
        };
        assert_eq!(blamed(600, &[(1_000, "watchdog"), (1_560, "panic")]), 0);
        assert_eq!(blamed(1_200, &[(1_000, "watchdog"), (1_560, "panic")]), 2);
        assert_eq!(blamed(600, &[(1_000, "panic")]), 1);
        // Another gap is another matter.
        assert_eq!(blamed(600, &[(1_000, "panic"), (3_000, "watchdog")]), 1);
    }
}
