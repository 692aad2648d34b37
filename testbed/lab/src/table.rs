//! The report as a person reads it.

use crate::report::Report;
use comfy_table::{Cell, CellAlignment, Table, presets};

/// The report as text, ending in a line that says whether all went well.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut add = |table: Table| {
        text.push_str(&table.to_string());
        text.push_str("\n\n");
    };
    add(summary(report));
    add(domains(report));
    if !report.vips.is_empty() {
        add(backends(report));
        add(vips(report));
    }
    if !report.crashes.is_empty() {
        add(crashes(report));
    }
    if !report.pauses.is_empty() {
        let mut table = table(&["stopped at", "for", "blocked"]);
        for pause in &report.pauses {
            table.add_row(row(&[ms(pause.at_ms), ms(pause.length_ms), maybe_ms(pause.blocked_ms)]));
        }
        add(table);
    }
    if !report.power_losses.is_empty() {
        let mut table = table(&["power lost at", "back after"]);
        for loss in &report.power_losses {
            table.add_row(row(&[ms(loss.at_ms), maybe_ms(loss.back_after_ms)]));
        }
        add(table);
    }
    if !report.outages.is_empty() {
        let mut table = table(&["cut off at", "backend", "for", "given up after", "found again after", "broken"]);
        for outage in &report.outages {
            table.add_row(row(&[
                ms(outage.at_ms),
                outage.backend.clone(),
                ms(outage.length_ms),
                maybe_ms(outage.given_up_after_ms),
                maybe_ms(outage.found_again_after_ms),
                outage.broken.to_string(),
            ]));
        }
        add(table);
    }
    if !report.faults.is_empty() {
        let mut table = table(&["fault at", "of the card"]);
        for fault in &report.faults {
            let what = model::Mishap::find(&fault.fault).map_or(fault.fault.as_str(), |mishap| mishap.what);
            table.add_row(row(&[ms(fault.at_ms), what.to_owned()]));
        }
        add(table);
    }
    if let Some(rubbish) = &report.rubbish {
        let mut table = table(&["rubbish", "frames"]);
        for (sort, frames) in &rubbish.by_sort {
            table.add_row(row(&[sort.clone(), frames.to_string()]));
        }
        table.add_row(row(&[format!("all, seed {}", rubbish.seed), rubbish.sent.to_string()]));
        add(table);
    }
    for check in &report.checks {
        let mark = match check.holds {
            Some(true) => "holds    ",
            Some(false) => "VIOLATED ",
            None => "unknown  ",
        };
        text.push_str(&format!("{mark} {}: {}\n", check.name, check.detail));
    }
    text.push('\n');
    if report.ok {
        text.push_str("all went well\n");
    } else {
        text.push_str("not well:\n");
        for reason in &report.reasons {
            text.push_str(&format!("  - {reason}\n"));
        }
    }
    text
}

fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(heads.iter().map(Cell::new));
    table
}

/// Names to the left, numbers to the right.
fn row(cells: &[String]) -> Vec<Cell> {
    let numeric = |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit() || first == '–');
    let align = |cell: &String| if numeric(cell) { CellAlignment::Right } else { CellAlignment::Left };
    cells.iter().map(|cell| Cell::new(cell).set_alignment(align(cell))).collect()
}

/// Words that may be many, as a table has room for them; the JSON report has them all.
fn one_line(words: &str) -> String {
    const ROOM: usize = 40;
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= ROOM { line } else { line.chars().take(ROOM - 1).chain(['…']).collect() }
}

fn ms(value: f64) -> String {
    if value >= 1000.0 { format!("{:.3} s", value / 1e3) } else { format!("{value:.1} ms") }
}

fn maybe_ms(value: Option<f64>) -> String {
    value.map_or("–".into(), ms)
}

fn summary(report: &Report) -> Table {
    let mut table = table(&["", "completed", "failed", "median", "99 %", "longest"]);
    for (kind, counts) in &report.requests.by_kind {
        table.add_row(row(&[
            kind.replace('_', "-"),
            counts.completed.to_string(),
            counts.failed.to_string(),
            ms(counts.median_ms),
            ms(counts.p99_ms),
            ms(counts.max_ms),
        ]));
    }
    table.add_row(row(&[
        "all requests".into(),
        report.requests.completed.to_string(),
        report.requests.failed.to_string(),
    ]));
    let connections = &report.connections;
    table.add_row(row(&[format!(
        "connections: {} opened, {} broken, {} moved",
        connections.opened, connections.broken, connections.moved
    )]));
    let probe = &report.probe;
    if probe.sent > 0 {
        table.add_row(row(&[format!(
            "probes: {} sent, {} received, noise floor {}",
            probe.sent,
            probe.received,
            ms(probe.max_gap_before_ms)
        )]));
    }
    table.add_row(row(&[format!(
        "up in {}, first packet after {}",
        maybe_ms(report.boot_ms),
        maybe_ms(report.first_packet_ms)
    )]));
    table
}

fn domains(report: &Report) -> Table {
    let mut table = table(&["domain", "state", "generation", "restarts", "pages", "blocked"]);
    for (name, domain) in &report.domains {
        table.add_row(row(&[
            name.clone(),
            domain.state.clone(),
            domain.generation.to_string(),
            domain.restarts.to_string(),
            domain.pages.to_string(),
            maybe_ms(domain.blocked_ms),
        ]));
    }
    table
}

fn backends(report: &Report) -> Table {
    let mut table = table(&["backend", "weight", "connections", "share", "requests", "frames"]);
    for (name, backend) in &report.backends {
        table.add_row(row(&[
            name.clone(),
            backend.weight.to_string(),
            backend.connections.to_string(),
            format!("{:.1} %", backend.share * 100.0),
            backend.requests.to_string(),
            backend.frames.to_string(),
        ]));
    }
    table
}

fn vips(report: &Report) -> Table {
    let mut table = table(&["VIP", "flows", "probes", "shared out"]);
    for (name, vip) in &report.vips {
        let parts = vip
            .backends
            .iter()
            .map(|(backend, flows)| format!("{backend} {:.1} %", *flows as f64 * 100.0 / vip.flows.max(1) as f64));
        table.add_row([
            Cell::new(name),
            Cell::new(vip.flows).set_alignment(CellAlignment::Right),
            Cell::new(if vip.probes_sent > 0 {
                format!("{} of {}", vip.probes_received, vip.probes_sent)
            } else {
                "–".into()
            })
            .set_alignment(CellAlignment::Right),
            Cell::new(parts.collect::<Vec<_>>().join(", ")),
        ]);
    }
    table
}

fn crashes(report: &Report) -> Table {
    let mut table =
        table(&["crash at", "domain", "reason", "generation", "back after", "blocked", "pages", "last words"]);
    for crash in &report.crashes {
        let pages = |count: Option<u64>| count.map_or("–".to_owned(), |count| count.to_string());
        table.add_row(row(&[
            ms(crash.at_ms),
            crash.domain.clone(),
            crash.reason.clone(),
            crash.generation.to_string(),
            maybe_ms(crash.restart_ms),
            maybe_ms(crash.blocked_ms),
            format!("{} → {}", pages(crash.pages_before), pages(crash.pages_after)),
            one_line(&crash.last_words),
        ]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CrashReport, DomainReport};

    #[test]
    fn a_reader_finds_crash_and_verdict() {
        let mut report = Report { reasons: vec!["3 connections were broken".into()], ..Report::default() };
        report
            .domains
            .insert("ixgbe0".into(), DomainReport { restarts: 1, blocked_ms: Some(12.5), ..DomainReport::default() });
        report.crashes.push(CrashReport {
            domain: "ixgbe0".into(),
            reason: "stack-overflow".into(),
            blocked_ms: Some(12.5),
            ..CrashReport::default()
        });
        let text = render(&report);
        for wanted in ["ixgbe0", "stack-overflow", "12.5 ms", "not well:", "3 connections were broken"] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        assert!(render(&Report { ok: true, ..Report::default() }).ends_with("all went well\n"));
    }
}
