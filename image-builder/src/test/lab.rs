//! The lab tier: the command itself, run as an operator runs it, and judged by what the lab saw from outside the box.

use super::{Outcome, Tally};
use crate::campaign::crashes::Record;
use crate::workspace::Workspace;
use interfaces::abi::Reason;
use lab::Report;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ECHO: &str = "testbed/appliances/echo.toml";
const KV: &str = "configs/kv.toml";
const HTTPD: &str = "configs/httpd.toml";
const MANIFEST: &str = "configs/maglev.toml";
const ONE_CPU: &str = "configs/maglev-one-cpu.toml";
const TIGHT: &str = "configs/maglev-tight.toml";
const TWO_FILTERS: &str = "configs/maglev-two-filters.toml";
/// Longer than any run here takes, builds included.
const PATIENCE: Duration = Duration::from_secs(900);

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return tally.record("lab", Outcome::Failed(error.to_string()), false),
    };
    let lab = Lab { workspace, folder: folder.path() };
    tally.check("the balancer balances, with nothing failed or broken", || outcome(lab.quiet(MANIFEST)));
    tally.check("on one CPU", || outcome(lab.quiet(ONE_CPU)));
    tally.check("behind two filters, by manifest alone", || outcome(lab.quiet(TWO_FILTERS)));
    tally.check("the driver crashes in every way, and nobody outside notices", || {
        outcome(by_repetition(|| lab.driver_crashes()))
    });
    tally.check("the driver hangs, is found, and no connection is lost", || outcome(lab.driver_hangs()));
    tally.check("the balancer crashes, and no connection is moved", || {
        outcome(by_repetition(|| lab.balancer_crashes()))
    });
    tally.check("a sample of the campaign of crashes, in a box with 32 MiB to spare", || outcome(lab.campaign()));
    tally.check("the lab's gauge: a box stopped for 3 s is seen to be", || outcome(lab.pause()));
    tally.check("console lines by the clock: a domain stopped and started", || outcome(lab.console()));
    tally.check("two runs beside each other", || outcome(lab.two_at_once()));
    tally.check("kill -9 leaves no process behind", || outcome(lab.killed()));
    tally.check("a service on the network stack", || outcome(lab.quiet_service(ECHO)));
    tally.check("the driver below a network stack crashes, and no connection breaks", || outcome(lab.service_driver()));
    tally.check("the network stack or the service crashes: open connections alone are reset", || {
        outcome(lab.service_crashes())
    });
    for manifest in [KV, HTTPD] {
        tally.check(&format!("{manifest} serves"), || outcome(lab.quiet_service(manifest)));
    }
    let image = folder.path().join("x.img");
    tally.check("an image is made", || outcome(lab.image(&image)));
    for firmware in ["bios", "uefi"] {
        tally.check(&format!("the image balances under {firmware}"), || {
            outcome(lab.report(&image.to_string_lossy(), &["--duration", "10s", "--firmware", firmware]).and_then(well))
        });
    }
}

fn outcome(result: Result<(), String>) -> Outcome {
    result.map_or_else(Outcome::Failed, |()| Outcome::Passed)
}

/// How a complaint begins that is about nothing but the time that a crash blocked forwarding.
const SLOW: &str = "too slow";
/// The lab's words for it (`lab::Report::reasons`).
const BLOCKED: &str = "blocked forwarding for";

/// Makes a run again that was only too slow, at most twice: a host that was busy elsewhere for a moment is busy only sometimes, a box that is slow
/// always. Whatever else is wrong is wrong at once.
fn by_repetition(check: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let mut result = check();
    for _ in 0..2 {
        match &result {
            Err(reason) if reason.starts_with(SLOW) => println!("note     once more: {reason}"),
            _ => break,
        }
        result = check();
    }
    result
}

/// Whether a run found nothing to complain of, and was more than an empty one.
fn well(report: Report) -> Result<(), String> {
    let served = report.requests.completed > 0 && report.requests.failed == 0 && report.connections.broken == 0;
    if served && report.ok() {
        return Ok(());
    }
    let only_slow = served && report.reasons.iter().all(|reason| reason.contains(BLOCKED));
    Err(format!(
        "{}{} completed, {} failed, {} broken; {}",
        if only_slow { format!("{SLOW}: ") } else { String::new() },
        report.requests.completed,
        report.requests.failed,
        report.connections.broken,
        report.reasons.join("; ")
    ))
}

struct Lab<'a> {
    workspace: &'a Workspace,
    folder: &'a Path,
}

impl Lab<'_> {
    /// The program that `./redleaf` hands over to, by its place: the host tier, which compiles it too, may have replaced the file that runs here.
    fn command(&self, arguments: &[&str]) -> Result<Command, String> {
        let program = self.workspace.target().join("debug/redleaf");
        if !program.is_file() {
            return Err(format!("{} isn't there: run `./redleaf`, which builds it", program.display()));
        }
        let mut command = Command::new(program);
        command.current_dir(self.workspace.root()).args(arguments);
        command.env("REDLEAF_ROOT", self.workspace.root()).env("REDLEAF_TARGET", self.workspace.target());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// A run and its report. The exit status must be the report's own verdict.
    fn report(&self, target: &str, arguments: &[&str]) -> Result<Report, String> {
        let path = tempfile::Builder::new().suffix(".json").tempfile_in(self.folder).map_err(text)?.into_temp_path();
        let file = path.to_string_lossy().into_owned();
        let mut command = self.command(&["run", target, "--report", &file])?;
        let output = finish(command.args(arguments))?;
        let written = fs::read_to_string(&path).map_err(text)?;
        let report: Report =
            serde_json::from_str(&written).map_err(|error| format!("no report ({error}): {}", output.words))?;
        match (report.ok(), output.status) {
            (true, Some(0)) | (false, Some(1)) => Ok(report),
            (ok, status) => Err(format!("the report says ok = {ok}, the exit status is {status:?}: {}", output.words)),
        }
    }

    fn quiet(&self, manifest: &str) -> Result<(), String> {
        let report = self.report(manifest, &["--duration", "10s"])?;
        let idle = report.cpus.iter().position(|cpu| cpu.packets == 0);
        if let Some(cpu) = idle {
            return Err(format!("CPU {cpu} forwarded nothing"));
        }
        well(report)
    }

    /// Each kind of crash once, four seconds apart so that each is measured by itself; the watchdog's is measured by other limits.
    fn driver_crashes(&self) -> Result<(), String> {
        let kinds = Reason::ALL.iter().filter(|reason| **reason != Reason::Watchdog).map(|reason| reason.name());
        let kinds: Vec<&str> = kinds.collect();
        let crashes: Vec<String> =
            kinds.iter().enumerate().map(|(at, kind)| format!("ixgbe0:{kind}@{}s", 4 + 4 * at)).collect();
        let duration = format!("{}s", 4 * kinds.len() + 8);
        let mut arguments = vec!["--duration", &duration];
        arguments.extend(crashes.iter().flat_map(|crash| ["--crash", crash]));
        let report = self.report(MANIFEST, &arguments)?;
        let reasons: Vec<&str> = report.crashes.iter().map(|crash| crash.reason.as_str()).collect();
        if reasons != kinds {
            return Err(format!("asked for {kinds:?}, reported {reasons:?}"));
        }
        // Against the first start: at a crash by quota the domain holds all that it may.
        let pages: Vec<Option<u64>> = report.crashes.iter().map(|crash| crash.pages_after).collect();
        let at_first = report.crashes.first().and_then(|crash| crash.pages_before);
        if pages.iter().any(|pages| *pages != at_first) {
            return Err(format!("pages at first {at_first:?}, after the crashes {pages:?}"));
        }
        if report.connections.moved > 0 {
            return Err(format!("{} connections moved", report.connections.moved));
        }
        well(report)
    }

    fn quiet_service(&self, manifest: &str) -> Result<(), String> {
        well(self.report(manifest, &["--duration", "8s"])?)
    }

    fn service_driver(&self) -> Result<(), String> {
        let crashes = ["--crash", "ixgbe0:panic@3s", "--crash", "ixgbe0:page-fault@6s"];
        well(self.report(ECHO, &[&["--duration", "10s"][..], &crashes].concat())?)
    }

    /// The lab excuses connections that were open at the moment, and those that were begun in the half second after it; nothing else.
    fn service_crashes(&self) -> Result<(), String> {
        let crashes = ["--crash", "stack@3s", "--crash", "echo@7s"];
        let report = self.report(ECHO, &[&["--duration", "11s"][..], &crashes].concat())?;
        match report.ok() && report.crashes.len() == 2 && report.connections.broken > 0 {
            true => Ok(()),
            false => Err(format!(
                "{} crashes, {} broken; {}",
                report.crashes.len(),
                report.connections.broken,
                report.reasons.join("; ")
            )),
        }
    }

    /// An endless loop is found in the manifest's time, which is longer than what the lab allows a crash to block; but nothing is lost by it.
    fn driver_hangs(&self) -> Result<(), String> {
        let report = self.report(MANIFEST, &["--duration", "12s", "--crash", "ixgbe0:watchdog@4s"])?;
        let found =
            report.crashes.iter().any(|crash| crash.reason == Reason::Watchdog.name() && crash.restart_ms.is_some());
        let (failed, broken, moved) = (report.requests.failed, report.connections.broken, report.connections.moved);
        match (found, failed, broken, moved) {
            (true, 0, 0, 0) => Ok(()),
            (found, ..) => Err(format!("found: {found}, {failed} failed, {broken} broken, {moved} moved")),
        }
    }

    /// Both domains in random ways, some amid the restart of the other: what the campaign shows at length.
    fn campaign(&self) -> Result<(), String> {
        let record = self.folder.join("campaign.json").to_string_lossy().into_owned();
        let arguments = ["campaign", "crashes", TIGHT, "--count", "16", "--gap", "1s", "--report", &record];
        let output = finish(&mut self.command(&arguments)?)?;
        let record: Record =
            serde_json::from_slice(&fs::read(&record).map_err(text)?).map_err(|error| error.to_string())?;
        match (output.status, record.legs.as_slice()) {
            (Some(0), [leg]) if leg.contained == 16 && leg.requests_completed > 0 => Ok(()),
            (status, legs) => Err(format!("exit status {status:?}: {legs:?}")),
        }
    }

    fn balancer_crashes(&self) -> Result<(), String> {
        let report =
            self.report(MANIFEST, &["--duration", "14s", "--crash", "lb@4s", "--crash", "lb:stack-overflow@9s"])?;
        let restarts = report.domains.get("lb").map_or(0, |domain| domain.restarts);
        if restarts != 2 || report.connections.moved > 0 {
            return Err(format!("{restarts} restarts, {} connections moved", report.connections.moved));
        }
        well(report)
    }

    /// The lab must see what was done to the box; else its other measurements prove nothing.
    fn pause(&self) -> Result<(), String> {
        let report = self.report(MANIFEST, &["--duration", "14s", "--pause", "3s@6s"])?;
        let blocked = report.pauses.first().and_then(|pause| pause.blocked_ms).unwrap_or(0.0);
        match (2_900.0..3_600.0).contains(&blocked) {
            true => Ok(()),
            false => Err(format!("blocked for {blocked} ms")),
        }
    }

    fn console(&self) -> Result<(), String> {
        let lines = ["--console", "domains@2s", "--console", "stop lb@4s", "--console", "start lb@6s"];
        let report = self.report(MANIFEST, &[&["--duration", "12s"][..], &lines].concat())?;
        let unanswered = report.console.iter().find(|exchange| exchange.reply.is_none());
        let listed = report.console.first().and_then(|exchange| exchange.reply.as_deref()).unwrap_or_default();
        match unanswered {
            Some(exchange) => Err(format!("no answer to `{}`", exchange.line)),
            None if report.console.len() != 3 => Err(format!("{} of 3 lines", report.console.len())),
            None if !(listed.contains("ixgbe0") && listed.contains("lb")) => Err(format!("`domains` said: {listed}")),
            None if report.requests.completed == 0 => Err("nothing completed".into()),
            None => Ok(()),
        }
    }

    fn two_at_once(&self) -> Result<(), String> {
        let results = thread::scope(|scope| {
            let runs = [0, 1].map(|_| scope.spawn(|| self.report(MANIFEST, &["--duration", "8s"])));
            runs.map(|run| run.join().unwrap_or(Err("panicked".into())))
        });
        for result in results {
            // Two boxes on two CPUs are slow, which is no fault; that they don't meet is what matters.
            let report = result?;
            if report.requests.completed == 0 || report.connections.moved > 0 {
                return Err(format!("{} completed, {} moved", report.requests.completed, report.connections.moved));
            }
        }
        Ok(())
    }

    /// The command is killed in the midst of a run: its processes, and with them the namespaces, must go.
    fn killed(&self) -> Result<(), String> {
        let mark = format!("REDLEAF_TEST_MARK={}", std::process::id());
        let mut command = self.command(&["run", MANIFEST, "--duration", "60s"])?;
        let (name, value) = mark.split_once('=').unwrap_or_default();
        let mut child = command.env(name, value).stderr(Stdio::null()).spawn().map_err(text)?;
        // QEMU is there: the run has begun.
        let begun = wait_until(Duration::from_secs(300), || {
            marked(&mark).iter().any(|command| command.contains("qemu-system"))
        });
        child.kill().map_err(text)?;
        let _ = child.wait();
        if !begun {
            return Err("the run never began".into());
        }
        match wait_until(Duration::from_secs(10), || marked(&mark).is_empty()) {
            true => Ok(()),
            false => Err(format!("still there: {}", marked(&mark).join("; "))),
        }
    }

    fn image(&self, path: &Path) -> Result<(), String> {
        let output = finish(&mut self.command(&["build", MANIFEST, "-o", &path.to_string_lossy()])?)?;
        if output.status == Some(0) { Ok(()) } else { Err(output.words) }
    }
}

struct Ended {
    status: Option<i32>,
    /// The end of what it said on stderr.
    words: String,
}

/// Runs `command` to its end, which must come.
fn finish(command: &mut Command) -> Result<Ended, String> {
    let mut child = command.spawn().map_err(text)?;
    let stderr = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut words = Vec::new();
        // What can't be read is missing from a message, no more.
        let _ = stderr.map(|mut stderr| std::io::Read::read_to_end(&mut stderr, &mut words));
        let words = String::from_utf8_lossy(&words).into_owned();
        let lines: Vec<&str> = words.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    });
    let mut status = None;
    let ended = wait_until(PATIENCE, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    let words = reader.join().unwrap_or_default();
    match status {
        Some(status) => Ok(Ended { status: status.code(), words }),
        None => Err(format!("no end after {} s: {words}", PATIENCE.as_secs())),
    }
}

fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Command lines of the processes whose environment has `mark`.
fn marked(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes
        .filter(|process| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .filter_map(|process| {
            let line = fs::read(process.join("cmdline")).ok().filter(|line| !line.is_empty())?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A slow run is made again, and three slow ones fail; anything else fails at once.
    #[test]
    fn only_what_is_slow_is_repeated() {
        let runs = |answers: &[Result<(), &str>]| {
            let made = Cell::new(0);
            let result = by_repetition(|| {
                made.set(made.get() + 1);
                answers[made.get() - 1].map_err(str::to_owned)
            });
            (made.get(), result.is_ok())
        };
        assert_eq!(runs(&[Ok(())]), (1, true));
        assert_eq!(runs(&[Err("too slow: 300 ms"), Ok(())]), (2, true));
        assert_eq!(runs(&[Err("too slow"), Err("too slow"), Err("too slow")]), (3, false));
        assert_eq!(runs(&[Err("1 connections moved")]), (1, false));
        assert_eq!(runs(&[Err("too slow"), Err("0 completed")]), (2, false));
    }
}
