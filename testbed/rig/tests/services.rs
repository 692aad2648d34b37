//! The benchmark of services, for a moment: it works from end to end, with the stack in a domain of its own and in the service's, all of its answers are right (else it fails), and
//! each of its rows is there.

use std::process::Command;

use prefix::{Prefix, Tool};

const WORKLOADS: [(&str, &[&str]); 2] =
    [("kv", &["set-small", "set-4k", "get-small", "get-4k", "mix"]), ("httpd", &["small", "64k", "not-modified"])];
const METRICS: [(&str, &str); 5] = [
    ("cost", "cycles/request"),
    ("frames_in", "frames/request"),
    ("frames_out", "frames/request"),
    ("latency", "us"),
    ("latency_p99", "us"),
];

/// Runs it with few requests, and finds these rows in its report: of each workload the five of `side`, and the costs of its parts.
fn run(service: &str, arguments: &[&str], peer: Option<Command>, side: &str, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-services"));
    command.arg(service).args(arguments).args(["--requests", "64", "--report"]).arg(&report);
    if let Some(peer) = peer {
        command.arg("--").arg(peer.get_program()).args(peer.get_args());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let value = |name: &str, metric: &str, unit: &str| {
        let row = rows.iter().find(|row| row["row"] == name && row["metric"] == metric && row["unit"] == unit);
        row.and_then(|row| row["median"].as_f64()).unwrap_or_else(|| panic!("no {metric} of {name} in {rows:#?}"))
    };
    let workloads = WORKLOADS.iter().find(|(name, _)| *name == service).unwrap().1;
    for workload in workloads {
        let name = format!("{service}.{workload}.{side}");
        for (metric, unit) in METRICS {
            assert!(value(&name, metric, unit) > 0.0, "{metric} of {name}");
        }
        let sum: f64 = parts.iter().map(|part| value(&format!("{name}.{part}"), "cost", "cycles/request")).sum();
        let whole = value(&name, "cost", "cycles/request");
        // Parts of ours are made to add up to the whole; the peer's are medians of their own.
        assert!(!side.starts_with("ours") || (sum - whole).abs() < 1.0, "{name}: parts of {sum}, a whole of {whole}");
    }
    assert_eq!(rows.len(), workloads.len() * (METRICS.len() + parts.len()), "{rows:#?}");
}

#[test]
fn the_store_is_measured() {
    for side in ["ours", "ours-library"] {
        run("kv", &[side], None, side, &["stack", "parser", "store"]);
    }
}

#[test]
fn the_web_server_is_measured() {
    for side in ["ours", "ours-library"] {
        run("httpd", &[side], None, side, &["stack", "parser", "answer"]);
    }
}

/// On Linux, behind a TAP device, by the same load generator.
#[test]
#[ignore = "tier interop: fetches memcached and nginx, and makes a TAP device"]
fn memcached_and_nginx_are_measured_beside_them() {
    let prefix = Prefix::ensure(&[Tool::Memcached, Tool::Nginx]).unwrap();
    run("kv", &["peer"], Some(prefix.command("memcached").unwrap()), "memcached", &["server", "receive"]);
    run("httpd", &["peer"], Some(prefix.command("nginx").unwrap()), "nginx", &["server", "receive"]);
}
