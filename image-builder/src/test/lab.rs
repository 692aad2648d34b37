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
const TOLD: &str = "testbed/appliances/echo-told.toml";
const KV: &str = "configs/kv.toml";
const KV_LIBRARY: &str = "configs/kv-library.toml";
const HTTPD_LIBRARY: &str = "testbed/appliances/httpd-library.toml";
const KV_ALL: &str = "testbed/appliances/kv-all.toml";
const HTTPD: &str = "configs/httpd.toml";
const KV_DURABLE: &str = "configs/kv-durable.toml";
const APPLIANCE: &str = "configs/appliance.toml";
const MANIFEST: &str = "configs/maglev.toml";
const ONE_CPU: &str = "configs/maglev-one-cpu.toml";
const FIVE_BACKENDS: &str = "configs/maglev-five-backends.toml";
const IOMMU: &str = "configs/maglev-iommu.toml";
const STRICT: &str = "configs/maglev-strict.toml";
const SHADOW: &str = "configs/maglev-shadow.toml";
const TIGHT: &str = "configs/maglev-tight.toml";
const TWO_FILTERS: &str = "configs/maglev-two-filters.toml";
const JUMBO: &str = "configs/maglev-jumbo.toml";
const ECHO_JUMBO: &str = "testbed/appliances/echo-jumbo.toml";
const VLAN: &str = "configs/maglev-vlan.toml";
/// Longer than any run here takes, builds included.
const PATIENCE: Duration = Duration::from_secs(900);

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return tally.record("lab", Outcome::Failed(error.to_string()), false),
    };
    let lab = Lab { workspace, folder: folder.path() };
    tally.check("the balancer balances, with nothing failed or broken", || Outcome::from(lab.quiet(MANIFEST)));
    tally.check("on one CPU", || Outcome::from(lab.quiet(ONE_CPU)));
    tally.check("behind two filters, by manifest alone", || Outcome::from(lab.quiet(TWO_FILTERS)));
    tally.check("in a VLAN, through crashes of the card's driver and the balancer", || {
        Outcome::from(by_repetition(|| lab.across_generations(VLAN)))
    });
    for manifest in [JUMBO, ECHO_JUMBO] {
        tally.check(&format!("{manifest}: frames of 9,000 bytes, through crashes of the card's driver"), || {
            Outcome::from(by_repetition(|| lab.jumbo(manifest)))
        });
    }
    tally.check("the card confined by the IOMMU, through crashes of its driver", || {
        Outcome::from(by_repetition(|| lab.across_generations(IOMMU)))
    });
    tally.check(
        "the card confined to the packet buffers that it has: it writes to others, and crashes of its driver",
        || Outcome::from(by_repetition(|| lab.strict())),
    );
    tally.check("other subnets, five weights, two UDP VIPs, two CPUs, and no lock on a packet's way", || {
        Outcome::from(lab.five_backends())
    });
    tally.check("rubbish of every kind under load, and every frame accounted for", || Outcome::from(lab.rubbish()));
    tally.check("a backend dies and returns, another is drained: only the dead one's connections break", || {
        Outcome::from(lab.backends_come_and_go())
    });
    tally.check("the driver crashes in every way, and nobody outside notices", || {
        Outcome::from(by_repetition(|| lab.driver_crashes()))
    });
    tally.check("behind a shadow the driver and its neighbours crash, and the card misbehaves", || {
        Outcome::from(by_repetition(|| lab.shadow()))
    });
    tally.check("the driver hangs, is found, and no connection is lost", || Outcome::from(lab.driver_hangs()));
    tally.check("the balancer crashes, and no connection is moved", || {
        Outcome::from(by_repetition(|| lab.balancer_crashes()))
    });
    tally.check("a sample of the campaign of crashes, in a box with 32 MiB to spare", || Outcome::from(lab.campaign()));
    tally
        .check("the lab's gauge: a box stopped for 3 s is seen to be", || Outcome::from(by_repetition(|| lab.pause())));
    tally.check(
        "console lines by the clock: a domain stopped and started, told again what it was told, a refusal",
        || Outcome::from(lab.console()),
    );
    tally.check("two runs beside each other", || Outcome::from(lab.two_at_once()));
    tally.check("kill -9 leaves no process behind", || Outcome::from(lab.killed()));
    tally.check("a service on the network stack", || Outcome::from(lab.quiet_service(ECHO)));
    tally.check("the driver below a network stack crashes, and no connection breaks", || {
        Outcome::from(by_repetition(|| lab.service_driver()))
    });
    tally.check("the network stack or the service crashes: open connections alone are reset", || {
        let arguments = ["--duration", "11s", "--crash", "stack@3s", "--crash", "echo@7s"];
        Outcome::from(by_repetition(|| lab.service_crashes(ECHO, &arguments).map(drop)))
    });
    tally.check(
        "a box that is told its addresses, by DHCP and by a router, and others' by DNS: also after the crash of what was told",
        || Outcome::from(by_repetition(|| lab.told())),
    );
    tally.check("a store by IPv4 and IPv6, TCP and UDP, crashes at every floor: one store's answers, and no connection lost but the open ones", || {
        Outcome::from(by_repetition(|| lab.store_crashes()))
    });
    tally.check("a store with the network stack in its own domain: its driver and the store crash under load", || {
        Outcome::from(by_repetition(|| lab.stack_in_its_service(KV_LIBRARY, "kv", "ixgbe0")))
    });
    tally.check(
        "a web server with the network stack in its own domain, told its addresses, above a shadow that crashes",
        || Outcome::from(by_repetition(|| lab.stack_in_its_service(HTTPD_LIBRARY, "web", "nic"))),
    );
    tally.check("a flood of SYNs, and rubbish of every kind, keep no client of a service out", || {
        Outcome::from(lab.floods())
    });
    for manifest in [KV, HTTPD] {
        tally.check(&format!("{manifest} serves"), || Outcome::from(lab.quiet_service(manifest)));
    }
    tally.check(
        "a durable store: its disk's driver, the shadow and the store crash under load, then the power goes",
        || Outcome::from(by_repetition(|| lab.durable_store())),
    );
    tally.check("one box with all services: every domain crashes under load", || {
        Outcome::from(by_repetition(|| lab.appliance()))
    });
    let image = folder.path().join("x.img");
    tally.check("an image is made", || Outcome::from(lab.image(&image)));
    for firmware in ["bios", "uefi"] {
        tally.check(&format!("the image balances under {firmware}"), || {
            Outcome::from(
                lab.report(&image.to_string_lossy(), &["--duration", "10s", "--firmware", firmware]).and_then(well),
            )
        });
    }
}

/// How a complaint begins that is about nothing but the time that a crash took from forwarding or from a service.
const SLOW: &str = "too slow";
/// The lab's words for it (`lab::Report::reasons`).
const LATE: [&str; 2] = ["blocked forwarding for", "the first new connection of"];

/// What a client says who has waited in vain.
const SILENCE: [&str; 2] = ["temporarily unavailable", "timed out"];

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

/// Whether a run found nothing to complain of; else all that it complained of.
fn sound(report: &Report) -> Result<(), String> {
    if report.ok() {
        return Ok(());
    }
    let late = |reason: &String| LATE.iter().any(|words| reason.contains(words));
    let only_slow = !report.reasons.is_empty() && report.reasons.iter().all(late);
    Err(format!("{}{}", if only_slow { format!("{SLOW}: ") } else { String::new() }, report.reasons.join("; ")))
}

/// Whether a run found nothing to complain of, and was more than an empty one.
fn well(report: Report) -> Result<(), String> {
    let (requests, connections) = (&report.requests, &report.connections);
    let served = requests.completed > 0 && requests.failed == 0 && connections.broken == 0;
    if !served {
        return Err(format!(
            "{} completed, {} failed, {} broken; {}",
            requests.completed,
            requests.failed,
            connections.broken,
            report.reasons.join("; ")
        ));
    }
    sound(&report)
}

/// Each CPU has a quarter of the flows at least, by its own count and by the card's queues.
fn even(report: &Report) -> Result<(), String> {
    let least = |name: &str, counts: Vec<u64>| {
        let all: u64 = counts.iter().sum();
        match counts.len() == 2 && all >= 1_000 && counts.iter().all(|count| count * 4 >= all) {
            true => Ok(()),
            false => Err(format!("{name} by CPU: {counts:?}")),
        }
    };
    least("flows", report.cpus.iter().map(|cpu| cpu.flows).collect())?;
    least("packets", report.cpus.iter().map(|cpu| cpu.packets).collect())?;
    least("frames", report.nic.rx_queues.clone())
}

/// Between the two answers to `locks` the box forwarded 100,000 frames, and no site had a count that grew.
fn no_lock_taken(report: &Report) -> Result<(), String> {
    let replies: Vec<&str> = report.console.iter().filter_map(|exchange| exchange.reply.as_deref()).collect();
    let [before, stats, after] = replies[..] else { return Err(format!("{} of 3 answers", replies.len())) };
    let counter =
        |name: &str| Some(stats.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok()?);
    let then = counter("lb.forwarded ").ok_or("the balancer did not say what it had forwarded")?;
    let now = report.domains.get("lb").and_then(|lb| lb.counters.get("forwarded").copied()).unwrap_or(0);
    if now - then.min(now) < 100_000 {
        return Err(format!("{then} frames at first, {now} in the end"));
    }
    if before.is_empty() {
        return Err("no thread ever took a lock: they are not counted".into());
    }
    match before == after {
        true => Ok(()),
        false => Err(format!("locks taken in {} frames: before\n{before}\nafter\n{after}", now - then)),
    }
}

/// Nothing was left unchecked.
fn all_checked(report: &Report) -> Result<(), String> {
    match report.checks.iter().find(|check| check.holds != Some(true)) {
        Some(check) => Err(format!("{}: {}", check.name, check.detail)),
        None => Ok(()),
    }
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

    /// One run for all that is a matter of numbers: shares by weight (10 %), probes through each UDP VIP, flows by CPU (a quarter of them at least), and
    /// locks by site (none in 100,000 forwarded frames), with a kernel that counts them.
    fn five_backends(&self) -> Result<(), String> {
        let lines = ["--console", "locks@6s", "--console", "stats lb@6s", "--console", "locks@43s"];
        let report = self.report(FIVE_BACKENDS, &[&["--debug-kernel", "--duration", "44s"][..], &lines].concat())?;
        let udp = report.vips.iter().filter(|(_, vip)| vip.probes_sent > 0);
        if udp.clone().count() != 2 {
            return Err(format!("probes through {} of 2 UDP VIPs", udp.count()));
        }
        for (name, vip) in udp {
            // A busy host may keep the emulated box from taking some.
            if vip.probes_received * 10 < vip.probes_sent * 9 {
                return Err(format!("{name}: {} of {} probes", vip.probes_received, vip.probes_sent));
            }
        }
        for (name, vip) in &report.vips {
            // At a tenth of 10,000 flows, chance alone is off by 3 % once in three times.
            let off = vip.worst_share.unwrap_or(1.0);
            if vip.flows < 10_000 || off > 0.1 {
                return Err(format!(
                    "{name}: {} flows, the worst share off by {off:.3}: {:?}",
                    vip.flows, vip.backends
                ));
            }
        }
        even(&report)?;
        no_lock_taken(&report)?;
        well(report)
    }

    /// The sums are judged in the run itself; here, that it was rubbish enough, and got deep enough.
    fn rubbish(&self) -> Result<(), String> {
        let report = self.report(MANIFEST, &["--duration", "12s", "--rubbish", "1000:20240229"])?;
        let rubbish = report.rubbish.clone().ok_or("no rubbish was sent")?;
        let counters = report.domains.get("lb").map(|lb| lb.counters.clone()).unwrap_or_default();
        let reasons = counters.iter().filter(|(name, count)| name.starts_with("drop.") && **count > 0).count();
        if rubbish.sent < 8_000 || rubbish.refused > 0 || rubbish.by_sort.len() < 13 || reasons < 10 {
            return Err(format!("{} sent, dropped for {reasons} reasons: {:?}", rubbish.sent, rubbish.by_sort));
        }
        all_checked(&report)?;
        well(report)
    }

    /// Death and return of `b2`, then a drain of `b1`; whoever had nothing to do with either keeps its connections.
    fn backends_come_and_go(&self) -> Result<(), String> {
        let drained_at = 18.0;
        let arguments = ["--duration", "24s", "--outage", "b2:6s@4s", "--console", "backend b1 drain@18s"];
        let report = self.report(MANIFEST, &arguments)?;
        let outage = report.outages.first().cloned().unwrap_or_default();
        // Once a second it is asked, four times a quarter of a second later: then it is dead. One answer brings it back.
        let given_up = outage.given_up_after_ms.unwrap_or(f64::MAX);
        let found = outage.found_again_after_ms.unwrap_or(f64::MAX);
        if !(500.0..4_000.0).contains(&given_up) || found > 4_000.0 {
            return Err(format!("{outage:?}"));
        }
        let connections = &report.connections;
        if outage.broken == 0
            || connections.broken != outage.broken
            || connections.moved != connections.moved_from_the_dead
        {
            return Err(format!("{outage:?}; {connections:?}; {}", report.reasons.join("; ")));
        }
        let b1 = report.backends.get("b1").cloned().unwrap_or_default();
        let since_drain = |at: Option<f64>| at.unwrap_or(0.0) / 1e3 - drained_at;
        // A busy host may type the line late; who isn't drained gets connections for six seconds.
        if since_drain(b1.last_connection_ms) > 2.0 || since_drain(b1.last_frame_ms) < 5.0 {
            return Err(format!("drained at {drained_at} s: {b1:?}"));
        }
        if !report.ok() || report.requests.failed != outage.failed {
            return Err(format!("{} failed, {outage:?}; {}", report.requests.failed, report.reasons.join("; ")));
        }
        Ok(())
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

    /// The driver in several ways, the shadow, and the balancer above it; then the card itself. That it hangs is found in seconds: longer than the balancer
    /// waits for its backends' answers.
    fn shadow(&self) -> Result<(), String> {
        let crashes = ["ixgbe0:panic@3s", "ixgbe0:page-fault@6s", "ixgbe0:killed@9s", "shadow@12s", "lb@15s"];
        let faults = ["nic:link-flap@18s", "nic:rx-length@21s", "nic:tx-hang@24s"];
        let mut arguments = vec!["--duration", "38s"];
        arguments.extend(crashes.iter().flat_map(|crash| ["--crash", crash]));
        arguments.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
        let report = self.report(SHADOW, &arguments)?;
        if report.faults.len() != faults.len() || report.connections.moved > 0 {
            return Err(format!("{:?}; {} connections moved", report.faults, report.connections.moved));
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
    fn service_crashes(&self, manifest: &str, arguments: &[&str]) -> Result<Report, String> {
        let report = self.report(manifest, arguments)?;
        if report.crashes.len() != 2 || report.connections.broken == 0 {
            let (crashes, broken) = (report.crashes.len(), report.connections.broken);
            return Err(format!("{crashes} crashes, {broken} broken; {}", report.reasons.join("; ")));
        }
        sound(&report).map(|()| report)
    }

    /// Beside its own addresses the box is told who knows names, and asks there: each thread of the service, in each life of the stack, whichever queue the answers come to.
    fn told(&self) -> Result<(), String> {
        let arguments =
            ["--duration", "15s", "--crash", "stack@3s", "--crash", "ixgbe0@7s", "--console", "log echo@14s"];
        let report = self.service_crashes(TOLD, &arguments)?;
        let answer = report.console.iter().find(|exchange| exchange.line == "log echo");
        let log = answer.and_then(|exchange| exchange.reply.as_deref()).ok_or("the log was not shown")?;
        let lab = lab::LabFile::default();
        let addresses = [
            "router.lab is 10.0.1.254".to_owned(),
            "router.lab is 2001:db8:1:0:ffff:ffff:ffff:fffe".to_owned(),
            format!("client.lab is {}", lab.client.address),
            format!("client.lab is {}", lab.client.address6),
        ];
        for wanted in (0..2).flat_map(|thread| addresses.iter().map(move |found| format!("thread {thread}: {found}"))) {
            let found = log.lines().filter(|line| line.trim_end().ends_with(&wanted)).count();
            if found != 2 {
                return Err(format!("{found} times of 2 the log says `{wanted}`: {log}"));
            }
        }
        Ok(())
    }

    /// Below the store nobody notices a crash; the store itself comes back with what its log says, in time; and when QEMU is killed in the midst of it all, the box has in its next life
    /// all that was acknowledged: the lab holds every answer, before and after, against those of one store that forgets nothing.
    fn durable_store(&self) -> Result<(), String> {
        let crashes = ["--crash", "nvme0@3s", "--crash", "disk:page-fault@6s", "--crash", "kv@9s"];
        let report =
            self.report(KV_DURABLE, &[&["--duration", "18s", "--power-loss", "13s"][..], &crashes].concat())?;
        let of_kv = |name: &str| report.domains.get("kv").and_then(|kv| kv.counters.get(name).copied()).unwrap_or(0);
        let (commits, recovered) = (of_kv("log.commits"), of_kv("log.recovered-changes"));
        let back = report.power_losses.iter().filter(|loss| loss.back_after_ms.is_some()).count();
        if report.crashes.len() != 3 || back != 1 || commits == 0 || recovered == 0 {
            return Err(format!(
                "{} crashes, {commits} commits, {recovered} changes recovered after {back} power losses; {}",
                report.crashes.len(),
                report.reasons.join("; ")
            ));
        }
        sound(&report)
    }

    /// Every domain of the box with all services crashes under load from clients of each: what is below the network stack costs nothing; in the stack and above it, only connections that
    /// are open.
    fn appliance(&self) -> Result<(), String> {
        // The store first: it is back when it has read its log, which grows all the while.
        let domains = ["kv", "ixgbe0", "nic", "sort", "nvme0", "disk", "lb", "stack", "web"];
        let crashes: Vec<String> =
            domains.iter().enumerate().map(|(at, domain)| format!("{domain}@{}s", 4 + 4 * at)).collect();
        let duration = format!("{}s", 4 * domains.len() + 8);
        let mut arguments = vec!["--duration", &duration];
        arguments.extend(crashes.iter().flat_map(|crash| ["--crash", crash]));
        let report = self.report(APPLIANCE, &arguments)?;
        let crashed: Vec<&str> = report.crashes.iter().map(|crash| crash.domain.as_str()).collect();
        if crashed != domains {
            return Err(format!("asked for {domains:?}, reported {crashed:?}"));
        }
        if report.connections.moved > 0 {
            return Err(format!("{} connections moved", report.connections.moved));
        }
        sound(&report)
    }

    /// What the manifest asks of the card holds across generations. (An IOMMU: the kernel starts no box that lacks the one that its manifest requires, and rings and buffers
    /// stay within the card's reach. A VLAN: without its tag nothing that the box sends reaches anybody, and with it nothing that it receives is understood.)
    fn across_generations(&self, manifest: &str) -> Result<(), String> {
        let crashes = ["--duration", "10s", "--crash", "ixgbe0@3s", "--crash", "lb@6s"];
        let report = self.report(manifest, &crashes)?;
        match report.crashes.len() {
            2 => well(report),
            other => Err(format!("{other} crashes of 2")),
        }
    }

    /// The card writes to buffers that it has given back, and is refused; nothing else is the worse for it, nor for what comes and goes with the driver's generations.
    fn strict(&self) -> Result<(), String> {
        let happens = [
            "--duration",
            "12s",
            "--fault",
            "nic:rx-late@3s",
            "--crash",
            "ixgbe0@5s",
            "--crash",
            "ixgbe0:page-fault@8s",
        ];
        let report = self.report(STRICT, &happens)?;
        match (report.crashes.len(), report.nic.dma_refused) {
            (2, 1..) => well(report),
            (crashes, refused) => {
                Err(format!("{crashes} crashes of 2; {refused} accesses refused; {}", report.reasons.join("; ")))
            }
        }
    }

    /// Clients of balanced backends and of the box's own service send packets as long as their links take, in segments and datagrams, and the box what it has of that length: none of them is lost, whoever
    /// drives the card.
    fn jumbo(&self, manifest: &str) -> Result<(), String> {
        let crashes = ["--duration", "12s", "--crash", "ixgbe0@4s", "--crash", "ixgbe0:page-fault@8s"];
        let report = self.report(manifest, &crashes)?;
        let (received, sent) = (report.nic.rx_longest, report.nic.tx_longest);
        // With Ethernet's header: the balancer's clients fill every segment but the last; of a service's, whose questions are of any length, many do.
        if (received, sent) != (9_014, 9_014) || report.crashes.len() != 2 {
            return Err(format!(
                "{} crashes of 2; the longest frames: {received} in, {sent} out",
                report.crashes.len()
            ));
        }
        well(report)
    }

    /// The lab judges the answers about shared keys, too; here, that clients of every kind were served, and that every crash came to pass.
    fn store_crashes(&self) -> Result<(), String> {
        let crashes =
            ["--crash", "kv@3s", "--crash", "ixgbe0@6s", "--crash", "stack@9s", "--crash", "kv:page-fault@12s"];
        let report = self.report(KV_ALL, &[&["--duration", "15s"][..], &crashes].concat())?;
        let served = ["service_keep_alive", "service_short", "service_datagram"]
            .iter()
            .all(|kind| report.requests.by_kind.get(*kind).is_some_and(|counts| counts.completed > 20));
        if report.crashes.len() != 4 || report.connections.broken == 0 || !served {
            return Err(format!(
                "{} crashes, {} broken, {:?}; {}",
                report.crashes.len(),
                report.connections.broken,
                report.requests.by_kind,
                report.reasons.join("; ")
            ));
        }
        sound(&report)
    }

    /// With no domain between a service and the card's driver or its shadow: what crashes below costs no connection, and the service's own crash only those that are open, whose peers are
    /// told so. It is back with its stack, and shows what that has counted.
    fn stack_in_its_service(&self, manifest: &str, service: &str, below: &str) -> Result<(), String> {
        let own = format!("{service}:page-fault@10s");
        let (driver, next) = ("ixgbe0:panic@3s", format!("{below}@6s"));
        let arguments = ["--duration", "14s", "--crash", driver, "--crash", &next, "--crash", &own];
        let report = self.report(manifest, &arguments)?;
        let failures: Vec<&String> = report.requests.failures.keys().collect();
        let silence = failures.iter().find(|failure| SILENCE.iter().any(|words| failure.contains(words)));
        let reset = failures.iter().any(|failure| failure.contains("reset by peer"));
        if report.crashes.len() != 3 || report.connections.broken == 0 || !reset || silence.is_some() {
            return Err(format!(
                "{} crashes, {} broken: {failures:?}; {}",
                report.crashes.len(),
                report.connections.broken,
                report.reasons.join("; ")
            ));
        }
        let counters = report.domains.get(service).map(|domain| domain.counters.clone()).unwrap_or_default();
        if counters.get("stack.tcp.accepted").is_none_or(|accepted| *accepted == 0) {
            return Err(format!("the stack's counters are not the service's: {counters:?}"));
        }
        sound(&report)
    }

    /// Half-open connections give way to each other, and what is no frame to nobody: clients are served all the while.
    fn floods(&self) -> Result<(), String> {
        let report = self.report(ECHO, &["--duration", "8s", "--rubbish", "1000:1:syn"])?;
        let counter =
            |name: &str| report.domains.get("stack").and_then(|stack| stack.counters.get(name)).copied().unwrap_or(0);
        let given_way = counter("tcp.displaced") + counter("tcp.refused");
        if given_way < 1_000 {
            return Err(format!("{given_way} half-open connections gave way: that was no flood"));
        }
        well(report)?;
        let report = self.report(ECHO, &["--duration", "8s", "--rubbish", "1000:20240229"])?;
        let rubbish = report.rubbish.clone().ok_or("no rubbish was sent")?;
        if rubbish.sent < 5_000 || rubbish.refused > 0 || rubbish.by_sort.len() < 14 {
            return Err(format!("{} sent: {:?}", rubbish.sent, rubbish.by_sort));
        }
        well(report)
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
        match blocked {
            2_900.0..3_600.0 => Ok(()),
            // The host's own doing, perhaps.
            3_600.0.. => Err(format!("{SLOW}: blocked for {blocked} ms")),
            _ => Err(format!("blocked for {blocked} ms")),
        }
    }

    /// A domain stopped and started; what the operator had told it before, it is told again; a line that is refused fails the run.
    fn console(&self) -> Result<(), String> {
        let lines =
            ["domains@2s", "backend b3 down@3s", "stop lb@4s", "start lb@6s", "stats lb@9s", "backend b9 down@9500ms"];
        let typed = lines.iter().flat_map(|line| ["--console", line]);
        let report = self.report(MANIFEST, &["--duration", "12s"].into_iter().chain(typed).collect::<Vec<_>>())?;
        let unanswered = report.console.iter().find(|exchange| exchange.reply.is_none());
        let replies: Vec<&str> = report.console.iter().filter_map(|exchange| exchange.reply.as_deref()).collect();
        let [listed, _, _, _, stats, refused] = replies[..] else {
            let unanswered = unanswered.map_or("", |exchange| &exchange.line);
            return Err(format!("{} of {} lines, no answer to `{unanswered}`", replies.len(), lines.len()));
        };
        if !(listed.contains("ixgbe0") && listed.contains("lb")) {
            return Err(format!("`domains` said: {listed}"));
        }
        if !stats.lines().any(|line| line.trim() == "lb.backend.b3.down 1") {
            return Err(format!("b3 was up again after a restart: {stats}"));
        }
        if !refused.starts_with("error:") || !report.reasons.iter().any(|reason| reason.contains("b9")) {
            return Err(format!("`backend b9 down` was answered by {refused}, and the run said {:?}", report.reasons));
        }
        if report.requests.completed == 0 { Err("nothing completed".into()) } else { Ok(()) }
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
