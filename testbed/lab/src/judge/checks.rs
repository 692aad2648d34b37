//! What a run checks about itself: sums that must agree if nothing was lost unseen, neither by the box nor by the lab.

use super::Evidence;
use crate::report::{Check, NicReport};
use crate::witness::Witness;
use std::collections::BTreeMap;
use std::time::Duration;

/// Frames that may be in a driver's hands when it crashes: one batch each way for each of two queues. They die with it, uncounted.
const IN_HAND: u64 = 128;

const UNSETTLED: &str = "the run did not come to its end";

pub fn all(evidence: &Evidence, witness: &Witness) -> Vec<Check> {
    vec![
        nothing_before(evidence, witness),
        captures(evidence),
        received(evidence, witness),
        sent(evidence, witness),
        accounted(evidence),
    ]
}

fn check(name: &str, holds: bool, detail: String) -> Check {
    Check { name: name.into(), holds: Some(holds), detail }
}

fn unknown(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.into(), holds: None, detail: detail.into() }
}

/// Without a box nothing may come through; else it isn't the box that is measured.
fn nothing_before(evidence: &Evidence, witness: &Witness) -> Check {
    const NAME: &str = "nothing completes before the box is up";
    let facts = &evidence.facts;
    // Before its kernel was entered, by its own account, a box can't have forwarded anything.
    let entry = facts.booted.as_ref().map(|(heard, booted)| {
        facts.moment(booted.at_ns, *heard) - Duration::from_secs_f64(booted.boot_ms.max(0.0) / 1e3)
    });
    let earliest = entry.unwrap_or(evidence.started).max(evidence.started);
    let early = witness.first_vip_frame.filter(|at| *at < earliest);
    let elsewhere: u64 = witness.backends.iter().map(|seen| seen.from_elsewhere).sum();
    match (evidence.passed_without_box, early, elsewhere) {
        (true, ..) => check(NAME, false, "a connection to a VIP was made with no box there".into()),
        (_, Some(at), _) => {
            check(NAME, false, format!("a frame reached a backend {:?} before the box ran", earliest.since(at)))
        }
        (_, _, 1..) => check(NAME, false, format!("{elsewhere} frames reached backends by another way than the box")),
        _ => check(NAME, true, "no connection, no frame, no other way".into()),
    }
}

fn captures(evidence: &Evidence) -> Check {
    const NAME: &str = "captures are complete";
    check(NAME, evidence.captures_missed == 0, format!("{} frames missed", evidence.captures_missed))
}

/// VIP frames that the router sent, rubbish that reads as such, and whatever else reached the port, are what the NIC received, kept for itself or missed.
fn received(evidence: &Evidence, witness: &Witness) -> Check {
    const NAME: &str = "router's VIP frames + control frames = NIC received + missed";
    let rubbish = evidence.rubbish.as_ref().map_or(0, |rubbish| rubbish.to_vips);
    with_nic(NAME, evidence, |nic| {
        let seen = witness.router_vip + rubbish + witness.nic_in.control;
        let counted = nic.rx + nic.missed + nic.rx_control;
        let of_rubbish = if rubbish > 0 { format!(" + {rubbish} of rubbish") } else { String::new() };
        let pauses = if nic.rx_control > 0 { format!(" + {} pause frames", nic.rx_control) } else { String::new() };
        let detail = format!(
            "{}{of_rubbish} (at the box's port: {}) + {} and {} + {}{pauses}",
            witness.router_vip, witness.nic_in.vip, witness.nic_in.control, nic.rx, nic.missed
        );
        check(NAME, seen == counted, explained(detail, seen == counted, evidence))
    })
}

fn sent(evidence: &Evidence, witness: &Witness) -> Check {
    const NAME: &str = "NIC sent = VIP frames at backends + control frames";
    with_nic(NAME, evidence, |nic| {
        let arrived: u64 = witness.backends.iter().map(|seen| seen.from_box).sum();
        let (before, after) = evidence.nic_sent.unwrap_or((nic.tx, nic.tx));
        let to_nobody: u64 = witness.outages.iter().map(|outage| outage.sent).sum();
        let least = arrived + witness.nic_out.control;
        let holds = before <= least + to_nobody && least <= after;
        let told = if before == after { after.to_string() } else { format!("{before} to {after}") };
        let detail =
            format!("{told} and {arrived} (at the box's port: {}) + {}", witness.nic_out.vip, witness.nic_out.control);
        let detail = if to_nobody > 0 { format!("{detail} + {to_nobody} to backends cut off") } else { detail };
        check(NAME, holds, explained(detail, holds, evidence))
    })
}

fn with_nic(name: &str, evidence: &Evidence, compare: impl Fn(&NicReport) -> Check) -> Check {
    match &evidence.nic {
        _ if !evidence.settled => unknown(name, UNSETTLED),
        _ if evidence.captures_missed > 0 => unknown(name, "the captures are not complete"),
        Some(nic) => compare(nic),
        None => unknown(name, "nobody counted the NIC's frames"),
    }
}

fn explained(detail: String, holds: bool, evidence: &Evidence) -> String {
    if holds || evidence.nic_detail.is_empty() { detail } else { format!("{detail} (NIC: {})", evidence.nic_detail) }
}

/// What the NIC received the box has forwarded, answered or dropped for a reason that it names.
fn accounted(evidence: &Evidence) -> Check {
    const NAME: &str = "NIC received = forwarded + answered + drops by reason";
    let Some(nic) = &evidence.nic else { return unknown(NAME, "nobody counted the NIC's frames") };
    let facts = &evidence.facts;
    if !evidence.settled {
        return unknown(NAME, UNSETTLED);
    }
    if facts.stats_heard == 0 {
        return unknown(NAME, "the box told no statistics");
    }
    let (mut accounted, mut told, mut begun_anew) = (0, Vec::new(), Vec::new());
    for domain in facts.domains.values() {
        let Some(sum) = fates(&domain.counters) else { continue };
        accounted += sum;
        told.push(format!("{} {sum}", domain.name));
        if domain.restarts > 0 {
            begun_anew.push(domain.name.as_str());
        }
    }
    let detail = format!("{} and {}", nic.rx, told.join(" + "));
    if told.is_empty() {
        return unknown(NAME, "no domain tells what became of its frames");
    }
    if !begun_anew.is_empty() {
        return unknown(NAME, format!("{detail}; the counters of {} began anew", begun_anew.join(", ")));
    }
    // What a reset took with it, by the drivers' own count.
    let by_resets = facts.domains.values().filter_map(|domain| domain.counters.get("reset.received")).sum::<u64>();
    let may_be_lost = IN_HAND * facts.crashes.len() as u64 + by_resets;
    let holds = (accounted..=accounted + may_be_lost).contains(&nic.rx);
    check(NAME, holds, explained(detail, holds, evidence))
}

/// How many frames met their fate in a domain: one that ends their way through the box (it counts `forwarded`), a classifier, beyond which a network stack ends it, or a filter, which
/// only drops.
fn fates(counters: &BTreeMap<String, u64>) -> Option<u64> {
    let sum =
        |of: &dyn Fn(&str) -> bool| counters.iter().filter(|(name, _)| of(name)).map(|(_, count)| count).sum::<u64>();
    if counters.contains_key("forwarded") {
        return Some(sum(&|name| name == "forwarded" || name == "answered" || name.starts_with("drop.")));
    }
    if let Some(others) = counters.get("others.passed") {
        // What both clients have got, the balancer counts as well.
        let copied = counters.get("copied").copied().unwrap_or(0);
        return Some((others + sum(&|name| name.starts_with("drop."))).saturating_sub(copied));
    }
    counters.get("receive.dropped").copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::feed::parse;
    use crate::witness::Port;
    use std::net::Ipv4Addr;

    fn scene() -> (Evidence, Witness) {
        let mut witness = Witness::new([Ipv4Addr::new(203, 0, 113, 1)], [2; 6], 2);
        witness.router_vip = 100;
        witness.nic_in = Port { vip: 100, control: 5 };
        witness.nic_out = Port { vip: 97, control: 4 };
        witness.backends[0].from_box = 90;
        witness.backends[1].from_box = 7;
        let mut evidence = Evidence::new(Moment(1_000));
        evidence.settled = true;
        evidence.nic = Some(NicReport { rx: 104, missed: 1, tx: 101, ..NicReport::default() });
        evidence.facts.take(parse(
            Moment(2_000),
            r#"{"event":"stats","domains":[{"name":"lb","restarts":0,"counters":{"received":104,"forwarded":97,"answered":3,"drop.runt":4,"cpu.0.received":104}}]}"#,
        ));
        (evidence, witness)
    }

    fn violated(evidence: &Evidence, witness: &Witness) -> Vec<String> {
        all(evidence, witness).into_iter().filter(|check| check.holds == Some(false)).map(|check| check.name).collect()
    }

    #[test]
    fn sums_that_agree_violate_nothing() {
        let (evidence, witness) = scene();
        assert_eq!(violated(&evidence, &witness), Vec::<String>::new());
        assert!(all(&evidence, &witness).iter().all(|check| check.holds == Some(true)));
    }

    /// Behind a classifier the balancer has a part of the frames; copies are counted once.
    #[test]
    fn a_classifier_parts_the_frames() {
        let (mut evidence, mut witness) = scene();
        evidence.facts.take(parse(
            Moment(3_000),
            r#"{"event":"stats","domains":[{"name":"sort","counters":{"received":154,"listed.passed":104,"others.passed":48,"copied":3,"drop.others-full":5}}]}"#,
        ));
        evidence.nic.as_mut().unwrap().rx = 154;
        witness.nic_in.control += 50;
        assert_eq!(violated(&evidence, &witness), Vec::<String>::new());
        evidence.facts.domains.get_mut("sort").unwrap().counters.insert("copied".into(), 4);
        assert_eq!(violated(&evidence, &witness).len(), 1);
    }

    #[test]
    fn one_frame_too_few_anywhere_is_noticed() {
        let (evidence, mut witness) = scene();
        witness.router_vip -= 1;
        assert_eq!(violated(&evidence, &witness).len(), 1);
        let (evidence, mut witness) = scene();
        witness.backends[1].from_box -= 1;
        assert_eq!(violated(&evidence, &witness).len(), 1);
        let (mut evidence, witness) = scene();
        evidence.facts.domains.get_mut("lb").unwrap().counters.insert("drop.runt".into(), 3);
        assert_eq!(violated(&evidence, &witness).len(), 1);
    }

    /// What was sent to a backend that had gone arrived nowhere; no more than that is missing.
    #[test]
    fn frames_to_a_backend_cut_off_need_not_arrive() {
        let (mut evidence, mut witness) = scene();
        witness.cut_off(1, Moment(3_000));
        witness.outages[0].sent = 7;
        witness.backends[1].from_box = 0;
        assert_eq!(violated(&evidence, &witness), Vec::<String>::new());
        evidence.nic.as_mut().unwrap().tx += 1;
        assert_eq!(violated(&evidence, &witness).len(), 1);
    }

    /// Rubbish goes past the router, and a pause frame goes no further than the card.
    #[test]
    fn rubbish_and_pause_frames_have_their_place_in_the_sums() {
        let (mut evidence, mut witness) = scene();
        evidence.rubbish = Some(crate::rubbish::RubbishReport { to_vips: 7, ..Default::default() });
        witness.nic_in.vip += 7;
        witness.nic_in.control += 2;
        let nic = evidence.nic.as_mut().unwrap();
        (nic.missed, nic.rx_control) = (nic.missed + 7, 2);
        assert_eq!(violated(&evidence, &witness), Vec::<String>::new());
        evidence.nic.as_mut().unwrap().rx_control = 1;
        assert_eq!(violated(&evidence, &witness).len(), 1);
    }

    #[test]
    fn a_frame_before_the_box_is_noticed() {
        let (evidence, mut witness) = scene();
        witness.first_vip_frame = Some(Moment(999));
        assert_eq!(violated(&evidence, &witness), ["nothing completes before the box is up"]);
        let (evidence, mut witness) = scene();
        witness.backends[0].from_elsewhere = 1;
        assert_eq!(violated(&evidence, &witness), ["nothing completes before the box is up"]);
    }

    #[test]
    fn incomplete_captures_are_a_violation_and_prove_nothing_else() {
        let (mut evidence, mut witness) = scene();
        evidence.captures_missed = 3;
        witness.router_vip = 0;
        assert_eq!(violated(&evidence, &witness), ["captures are complete"]);
    }

    #[test]
    fn counters_that_began_anew_are_not_compared() {
        let (mut evidence, witness) = scene();
        evidence.facts.domains.get_mut("lb").unwrap().restarts = 1;
        evidence.facts.domains.get_mut("lb").unwrap().counters.insert("forwarded".into(), 1);
        assert_eq!(violated(&evidence, &witness), Vec::<String>::new());
    }
}
