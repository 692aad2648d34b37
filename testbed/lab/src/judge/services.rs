//! What clients of the box's own services may and may not have suffered.
//!
//! Below the network stack (a driver, a shadow, a classifier) a crash may cost no connection. In the stack or above it the connections that are open break, and new ones
//! fail for no longer than [`BACK_AFTER`]; each is counted. Whatever happens, the answers of a store are those of one store that does one thing at a time.

use super::{DETECTION, Evidence, RESET, millis};
use crate::clock::Moment;
use crate::options::{RunOptions, Service, ServiceKind};
use crate::report::{Connections, CrashReport, KindReport, Requests};
use crate::service::{Dealings, Kind, Outcome};
use std::collections::BTreeMap;
use std::time::Duration;

/// After a crash of the stack or of what is above it new connections are served again within this.
const BACK_AFTER: Duration = Duration::from_millis(500);
/// How far before the moment that the box names a crash may have begun, and how far after its return something may still not be seen to have ended.
const BLUR: Duration = Duration::from_millis(50);

/// Whether a crash of that domain may break connections of that service.
fn breaks(service: &Service, domain: &str) -> bool {
    service.domain == domain || service.stack == domain
}

/// Adds what became of the clients to the report's parts.
pub fn judge(
    options: &RunOptions,
    evidence: &Evidence,
    up: Moment,
    requests: &mut Requests,
    connections: &mut Connections,
    crashes: &mut [CrashReport],
    reasons: &mut Vec<String>,
) {
    let Some(dealings) = &evidence.dealings else { return };
    let facts = &evidence.facts;
    let when: Vec<(Moment, &str)> =
        facts.crashes.iter().map(|(heard, crash)| (facts.moment(crash.at_ns, *heard), crash.domain.as_str())).collect();
    connections.opened += dealings.opened;
    connections.broken += dealings.broken();
    requests.completed += dealings.exchanges;
    requests.failed += dealings.failed();
    for one in &dealings.outcomes {
        let Some(failure) = &one.failure else { continue };
        *requests.failures.entry(format!("{}: {failure}", one.kind.name())).or_default() += 1;
        let dark = evidence.dark.iter().any(|(lost, back)| {
            let back = back.unwrap_or(evidence.load_end) + BACK_AFTER;
            one.ended >= *lost - BLUR && one.begun <= back
        });
        let at_fault = one.kind == Kind::Datagram && amid_a_mishap(one, evidence);
        if !dark && !at_fault && !excused(one, &options.services[one.service], &when) {
            let at = one.ended.since(up).as_secs_f64();
            reasons.push(format!("a {} client failed at {at:.3} s: {failure}", one.kind.name()));
        }
    }
    requests.by_kind.extend(by_kind(dealings));
    for (number, service) in options.services.iter().enumerate() {
        let served = |one: &&Outcome| one.service == number && one.failure.is_none();
        let loaded = options.lab.load.keep_alive > 0 || options.lab.load.short_rate > 0;
        if loaded && !dealings.outcomes.iter().any(|one| served(&one)) {
            reasons.push(format!("{} completed nothing", service.domain));
        }
        for (report, (at, domain)) in crashes.iter_mut().zip(&when).filter(|(_, (_, domain))| breaks(service, domain)) {
            let Some(blocked) = blocked(dealings, number, *at) else { continue };
            report.blocked_ms = Some(report.blocked_ms.unwrap_or(0.0).max(millis(blocked)));
            if blocked > BACK_AFTER {
                reasons.push(format!(
                    "after {domain}'s crash the first new connection of {} was served {:.0} ms later",
                    service.domain,
                    millis(blocked)
                ));
            }
        }
        if service.kind == ServiceKind::Memcached && loaded {
            histories(service, number, dealings, evidence, reasons);
        }
    }
}

/// Begun before the box was back, and ended after the crash: the crash's doing. Of a datagram any crash may be the end: it was in somebody's hands.
fn excused(one: &Outcome, service: &Service, crashes: &[(Moment, &str)]) -> bool {
    crashes.iter().any(|(at, domain)| {
        let may = one.kind == Kind::Datagram || breaks(service, domain);
        may && one.ended >= *at - BLUR && one.begun <= *at + BACK_AFTER
    })
}

/// A card at fault loses frames until that is found out and the card is reset; nobody sends a datagram again.
fn amid_a_mishap(one: &Outcome, evidence: &Evidence) -> bool {
    evidence.mishaps.iter().any(|(at, _)| one.ended >= *at - BLUR && one.begun <= *at + DETECTION + RESET)
}

/// From a crash to the first new connection after it that was served.
fn blocked(dealings: &Dealings, service: usize, at: Moment) -> Option<Duration> {
    let served =
        |one: &&Outcome| one.service == service && one.kind == Kind::Short && one.failure.is_none() && one.begun >= at;
    dealings.outcomes.iter().filter(served).map(|one| one.ended).min().map(|end| end.since(at))
}

/// Of shared keys: a store that keeps everything in memory has lost it all, once, in each of its crashes.
fn histories(service: &Service, number: usize, dealings: &Dealings, evidence: &Evidence, reasons: &mut Vec<String>) {
    let facts = &evidence.facts;
    let own = facts.crashes.iter().filter(|(_, crash)| crash.domain == service.domain && !service.durable);
    let wipes: Vec<(Moment, Moment)> = own
        .map(|(heard, crash)| {
            let back =
                facts.recovery_of(crash).map_or(evidence.load_end, |(heard, one)| facts.moment(one.at_ns, *heard));
            (facts.moment(crash.at_ns, *heard) - BLUR, back + BLUR)
        })
        .collect();
    let dark = evidence.dark.iter().filter(|_| !service.durable);
    let dark = dark.map(|(lost, back)| (*lost - BLUR, back.unwrap_or(evidence.load_end) + BLUR));
    let wipes: Vec<(Moment, Moment)> = wipes.into_iter().chain(dark).collect();
    let Some(history) = dealings.histories.get(number) else { return };
    if history.entries.is_empty() {
        reasons.push(format!("nobody used the shared keys of {}", service.domain));
    }
    for broken in history.broken(&wipes) {
        reasons.push(format!(
            "{}'s answers about shared-{} are not those of one store: {} of {} operations can be put in an order, but not {}",
            service.domain, broken.key, broken.explained, broken.operations, broken.culprit
        ));
    }
}

fn by_kind(dealings: &Dealings) -> BTreeMap<String, KindReport> {
    let mut reports: BTreeMap<String, KindReport> = BTreeMap::new();
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for one in &dealings.outcomes {
        let entry = reports.entry(one.kind.name().into()).or_default();
        if one.failure.is_some() {
            entry.failed += 1;
            continue;
        }
        entry.completed += 1;
        // How long a connection was kept says nothing of the box.
        if one.kind != Kind::KeepAlive {
            times.entry(one.kind.name()).or_default().push(millis(one.ended.since(one.begun)));
        }
    }
    for (kind, mut times) in times {
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() as f64 * part) as usize).min(times.len() - 1)];
        if let Some(entry) = reports.get_mut(kind) {
            (entry.median_ms, entry.p99_ms, entry.max_ms) = (at(0.5), at(0.99), at(1.0));
        }
    }
    reports
}
