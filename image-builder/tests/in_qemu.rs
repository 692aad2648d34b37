//! Boxes and Linux in their place, counted in QEMU, for a moment: both sides boot, all answers are right (else there are no figures), and each row is there.

use std::process::{Command, Stdio};

use serde_json::Value;

const SUBJECTS: [(&str, &str, &[&str]); 3] = [
    ("kv", "memcached", &["set-small", "get-small", "get-4k"]),
    ("httpd", "nginx", &["small", "64k", "not-modified"]),
    ("maglev", "ipvs", &["keep-alive", "short"]),
];
const METRICS: [(&str, &str); 9] = [
    ("instructions", "instructions/request"),
    ("instructions_beyond_idle", "instructions/request"),
    ("instructions_idle", "instructions/s"),
    ("offered", "requests/s"),
    ("answered", "requests/s"),
    ("requests", "requests"),
    ("latency", "us"),
    ("latency_p90", "us"),
    ("latency_p99", "us"),
];

#[test]
#[ignore = "tier interop: boots boxes, and Linux with memcached, nginx and IPVS in their place"]
fn boxes_are_counted_beside_linux() {
    let folder = tempfile::tempdir().unwrap();
    for (subject, peer, workloads) in SUBJECTS {
        let report = folder.path().join(format!("{subject}.json"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_redleaf"));
        command.args(["bench", subject, "--in-qemu", "--requests", "80", "--rate", "200", "--report"]).arg(&report);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        println!("{words}");
        assert!(output.status.success(), "{subject}");
        let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        for side in ["ours", peer] {
            for workload in workloads {
                let name = format!("{subject}.{workload}.{side}");
                for (metric, unit) in METRICS {
                    let row = rows.iter().find(|row| row["row"] == name && row["metric"] == metric);
                    let row = row.unwrap_or_else(|| panic!("no {metric} of {name}"));
                    assert_eq!(row["unit"], unit);
                    // Idling may cost as much as anything where little is asked.
                    assert!(row["median"].as_f64().unwrap() > 0.0 || metric == "instructions_beyond_idle", "{row}");
                }
            }
        }
        assert_eq!(rows.len(), 2 * workloads.len() * METRICS.len(), "{subject}");
    }
}
