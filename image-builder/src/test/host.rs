//! The host tier: the tests of every crate, that the crates keep to their tiers of trust, and that all are written in one format.

use super::{Outcome, Tally};
use crate::unsafe_lines;
use crate::workspace::Workspace;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    tally.check("imports go downhill", || layering(workspace));
    tally.check("no line of a safe tier is unsafe", || safe_tiers(workspace));
    tally.check("one format", || format(workspace));
    match tally.pattern().map(str::to_owned) {
        None => cargo_tests(workspace, tally, &["--workspace"]),
        // libtest means the same by it.
        Some(pattern) => cargo_tests(workspace, tally, &["--workspace", "--", &pattern]),
    }
}

/// The interop tier: tests that are ignored elsewhere, since they bring in what we did not write, from Debian's mirror.
pub fn interop(workspace: &Workspace, tally: &mut Tally) {
    let pattern = tally.pattern().unwrap_or("").to_owned();
    // Of the whole workspace, so that cargo compiles nothing anew.
    cargo_tests(workspace, tally, &["--workspace", "--tests", "--", "--ignored", "--test-threads=1", &pattern]);
}

/// What the suite takes of that tier: a driver that we did not write brings the model's link up and moves traffic through it. The rest takes
/// minutes more, and a network.
pub fn interop_sample(workspace: &Workspace, tally: &mut Tally) {
    let sample = ["--workspace", "--tests", "--", "--ignored", "--exact", "linux_ixgbe_accepts_the_model"];
    cargo_tests(workspace, tally, &sample);
}

/// Runs crates' tests, and counts each of them.
fn cargo_tests(workspace: &Workspace, tally: &mut Tally, which: &[&str]) {
    let mut command = super::cargo(0);
    command.current_dir(workspace.root()).env("CARGO_TARGET_DIR", workspace.target());
    // One after the other and all of them: a crate that fails doesn't hide what the next has to say.
    command.args(["test", "--locked", "--no-fail-fast"]).args(which);
    command.stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return tally.record("cargo test", Outcome::Failed(error.to_string()), false),
    };
    let stdout = child.stdout.take().expect("piped above");
    let mut counted = 0usize;
    let mut failed = 0usize;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match TestLine::parse(&line) {
            // Run by the tier that it names, and counted there.
            Some((_, Outcome::Skipped(reason))) if reason.starts_with("tier ") => {}
            Some((name, outcome)) => {
                counted += 1;
                failed += usize::from(matches!(outcome, Outcome::Failed(_)));
                tally.record(&name, outcome, true);
            }
            // Panics' texts, and what else is worth reading when something fails.
            None if line.starts_with("test result: ok") || line.starts_with("running ") || line.is_empty() => {}
            None => println!("         {line}"),
        }
    }
    match child.wait() {
        Ok(status) if status.success() && (counted > 0 || tally.pattern().is_some()) => {}
        // A crate that doesn't compile, or a test that took the whole program down, has no line of its own.
        Ok(_) if failed == 0 => {
            tally.record("cargo test", Outcome::Failed("cargo failed; its words are above".into()), false);
        }
        Ok(_) => {}
        Err(error) => tally.record("cargo test", Outcome::Failed(error.to_string()), false),
    }
}

/// A line of libtest, or of a harness that speaks like it: `test NAME ... ok`.
struct TestLine;

impl TestLine {
    fn parse(line: &str) -> Option<(String, Outcome)> {
        let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let outcome = match rest.split([' ', ',']).next()? {
            "ok" => Outcome::Passed,
            "FAILED" | "failed" => Outcome::Failed("see above".into()),
            "ignored" => Outcome::Skipped(rest.split_once(", ").map_or("ignored", |(_, reason)| reason).to_owned()),
            _ => return None,
        };
        Some((name.trim().to_owned(), outcome))
    }
}

/// What each tier may link of the clone's own crates. Crates for tests may use more.
const MAY_USE: &[(&str, &[&str])] = &[
    ("interfaces", &["interfaces-macros"]),
    ("interfaces-macros", &[]),
    ("runtime", &["interfaces", "runtime-macros"]),
    ("runtime-macros", &[]),
    ("bundle", &[]),
    ("ixgbe-device", &["interfaces"]),
    ("nvme-device", &["interfaces"]),
    ("kernel-core", &["bundle", "interfaces"]),
    ("devices", &["interfaces", "ixgbe-device", "nvme-device", "kernel-core"]),
    ("kernel", &["bundle", "devices", "interfaces", "kernel-core"]),
];
/// The same for every domain, and for the libraries of domains, which they may use besides.
const DOMAINS_MAY_USE: &[&str] = &["interfaces", "runtime"];

/// Drivers and services are safe code without exception.
fn safe_tiers(workspace: &Workspace) -> Outcome {
    match unsafe_lines::count(workspace).map(|counts| unsafe_lines::faults(&counts)) {
        Ok(faults) if faults.is_empty() => Outcome::Passed,
        Ok(faults) => Outcome::Failed(faults.join("; ")),
        Err(error) => Outcome::Failed(error),
    }
}

/// Services and drivers know `interfaces`, `runtime` and libraries of domains, never each other and never the kernel; `interfaces` knows nobody.
fn layering(workspace: &Workspace) -> Outcome {
    match crates_of_the_clone(workspace.root()) {
        Ok(crates) => {
            let is_domain = |name: &str| workspace.domain_crate(name).is_some();
            let wrong = uphill(&crates, &is_domain, &|name| workspace.library(name).is_some());
            if wrong.is_empty() { Outcome::Passed } else { Outcome::Failed(wrong.join("; ")) }
        }
        Err(error) => Outcome::Failed(error),
    }
}

/// `rustfmt.toml` is the only opinion on how a line looks. `rust-toolchain.toml` brings the program.
fn format(workspace: &Workspace) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(workspace.root()).args(["fmt", "--all", "--check", "--", "--files-with-diff"]);
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Outcome::Passed,
        Ok(output) => {
            let files = String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>().join(", ");
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Outcome::Failed(format!("`cargo fmt --all` would change: {files} {words}"))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// The clone's crates, each with what it links of them.
fn crates_of_the_clone(root: &Path) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root).args(["metadata", "--no-deps", "--locked", "--format-version", "1"]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| error.to_string())?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let crates = packages.iter().filter_map(|package| {
        let dependencies = package["dependencies"].as_array()?.iter().filter(|dependency| {
            // Of the clone, and linked: neither for tests (`dev`) nor for build scripts.
            dependency["path"].is_string() && dependency["kind"].is_null()
        });
        let names = dependencies.filter_map(|dependency| Some(dependency["name"].as_str()?.to_owned()));
        Some((package["name"].as_str()?.to_owned(), names.collect()))
    });
    Ok(crates.collect())
}

fn uphill(
    crates: &BTreeMap<String, Vec<String>>,
    is_domain: &dyn Fn(&str) -> bool,
    is_library: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in crates {
        let named = MAY_USE.iter().find(|(own, _)| own == name).map(|(_, allowed)| *allowed);
        let safe = is_domain(name) || is_library(name);
        let Some(allowed) = named.or(safe.then_some(DOMAINS_MAY_USE)) else {
            continue;
        };
        let may = |dependency: &str| allowed.contains(&dependency) || (safe && is_library(dependency));
        for dependency in dependencies.iter().filter(|dependency| !may(dependency)) {
            wrong.push(format!("{name} links {dependency}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms in which tests report, ours and libtest-mimic's; anything else is no result.
    #[test]
    fn lines() {
        let parse = |line| TestLine::parse(line);
        assert_eq!(parse("test a::b ... ok"), Some(("a::b".into(), Outcome::Passed)));
        assert_eq!(parse("test src/lib.rs - (line 3) ... ok"), Some(("src/lib.rs - (line 3)".into(), Outcome::Passed)));
        assert!(matches!(parse("test a ... FAILED"), Some((_, Outcome::Failed(_)))));
        let skipped = Outcome::Skipped("needs KVM".into());
        assert_eq!(parse("test a ... ignored, needs KVM"), Some(("a".into(), skipped)));
        assert_eq!(parse("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(parse("running 3 tests"), None);
    }

    /// The check itself: a service that links another, or the kernel, is found, and so is a library that does, or that is linked by whoever is no domain; the host's crates may link what
    /// they like.
    #[test]
    fn uphill_is_found() {
        let crates = |list: &[(&str, &[&str])]| {
            list.iter()
                .map(|(name, uses)| (name.to_string(), uses.iter().map(|name| name.to_string()).collect()))
                .collect()
        };
        let domain = |name: &str| ["lb", "filter"].contains(&name);
        let library = |name: &str| name == "tables";
        let good = crates(&[
            ("lb", &["runtime", "interfaces", "tables"]),
            ("tables", &["interfaces"]),
            ("lab", &["model", "lb"]),
            ("interfaces", &["interfaces-macros"]),
        ]);
        assert_eq!(uphill(&good, &domain, &library), Vec::<String>::new());
        let bad = crates(&[
            ("lb", &["filter", "kernel-core"]),
            ("tables", &["lb"]),
            ("interfaces", &["runtime"]),
            ("runtime", &["tables"]),
        ]);
        let found = [
            "interfaces links runtime",
            "lb links filter",
            "lb links kernel-core",
            "runtime links tables",
            "tables links lb",
        ];
        assert_eq!(uphill(&bad, &domain, &library), found);
    }
}
