//! A seeded sample of each campaign (`./redleaf campaign …` runs them for as long as asked).

use std::{process::Command, sync::LazyLock};

use rig::{Rig, Settings, campaign::restarts};

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(Settings::chain(|_| {})));

#[test]
fn restarts_leave_counts_flat() {
    let _turn = RIG.turn();
    let record = restarts::leg(&RIG, restarts::Record { seed: 0x5eed, ..Default::default() }, 300);
    assert!(record.ok() && record.restarts == 300, "{}", record.render());
}

/// Each kind of domain, drivers, shadows and services alike, ends in every way and leaves everything as it was.
#[test]
fn restarts_of_every_kind_leave_counts_flat() {
    let output = Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(["restarts", "--domain", "all", "--count", "400", "--seed", "24333"])
        .output()
        .unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && words.contains("restarts, seed 24333: 400 ("), "{words}");
    assert!(rig::graphs::APPLIANCE.iter().all(|name| words.contains(&format!("  {name:<10} {:>8}\n", 40))), "{words}");
}

/// Random graphs against the model of who owns what, each in a process of its own.
#[test]
fn random_graphs_own_what_the_model_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(["graphs", "--count", "6", "--seed", "24333"])
        .output()
        .unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}");
    assert!(words.contains("6 graphs, 1800 steps"), "{words}");
}

/// Crashes at single instructions of domains under load, in a process of its own: each is contained, told as what it was, and leaves nothing behind.
#[test]
fn crashes_at_single_instructions_are_contained() {
    let output = Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(["points", "--count", "300", "--seed", "24333"])
        .output()
        .unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("contained       300  100.00 %"), "{words}");
    assert!(!words.contains("FAULT"), "{words}");
}
