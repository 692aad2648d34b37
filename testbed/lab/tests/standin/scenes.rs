//! What the lab must say of each kind of stand-in.

use crate::director::{MISBEHAVIOUR, RESTART};
use lab::{
    Backend, Boot, BoxSettings, Command as Line, Crash, Format, LabFile, Outage, Pause, Program, Protocol, Report,
    Rubbish, RunOptions, Tool, Tools, Vip,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Marks a process that makes one run, to be killed or interrupted; its value is the report's path.
pub const VICTIM: &str = "LAB_TEST_VICTIM";

fn nginx() -> Tool {
    if let Some(tool) = std::env::var_os(NGINX) {
        return serde_json::from_str(tool.to_str().unwrap()).unwrap();
    }
    let prefix = prefix::Prefix::ensure(&[prefix::Tool::Nginx]).expect("nginx unpacked into the cache");
    Tool::of(&prefix.command("nginx").unwrap())
}

/// Set for a process that can't read this user's cache: the nginx to use instead.
const NGINX: &str = "LAB_TEST_NGINX";

fn options(misbehaviour: Option<&str>, seconds: u64) -> RunOptions {
    let backends: Vec<_> =
        (1..=3).map(|n| Backend { name: format!("b{n}"), ip: [10, 9, 0, 10 + n].into(), weight: 1 }).collect();
    let names: Vec<_> = backends.iter().map(|backend| backend.name.clone()).collect();
    let vip = |port, protocol| Vip {
        address: [203, 0, 113, 10].into(),
        port,
        protocol,
        backends: names.clone(),
        weights: BTreeMap::new(),
    };
    let env: BTreeMap<_, _> = misbehaviour.map(|how| (MISBEHAVIOUR.to_owned(), how.to_owned())).into_iter().collect();
    let mut lab = LabFile::default();
    lab.load.think_time = Duration::from_millis(500);
    lab.load.upload_size = 256 << 10;
    lab.load.download_size = 1 << 20;
    RunOptions {
        name: "stand-in".into(),
        boot: Boot::Program(Program { program: std::env::current_exe().unwrap(), args: Vec::new(), env }),
        vips: vec![vip(80, Protocol::Tcp), vip(53, Protocol::Udp), vip(54, Protocol::Udp)],
        backends,
        services: Vec::new(),
        box_settings: BoxSettings {
            ip: [10, 9, 0, 2].into(),
            prefix: 24,
            ip6: None,
            told: lab::Told::default(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            vlan: None,
            cpus: 1,
            memory: 0,
            iommu: false,
            drivers: Vec::new(),
            watchdogs: Default::default(),
        },
        disks: Vec::new(),
        keep_disks: None,
        lab,
        duration: Some(Duration::from_secs(seconds)),
        crashes: Vec::new(),
        commands: Vec::new(),
        pauses: Vec::new(),
        outages: Vec::new(),
        power_losses: Vec::new(),
        faults: Vec::new(),
        rubbish: None,
        programs: Vec::new(),
        counter: Vec::new(),
        report: None,
        format: Format::Human,
        live: false,
        tools: Tools { nginx: nginx(), ..Tools::default() },
    }
}

fn run(options: RunOptions) -> Report {
    let report = lab::run(options).unwrap_or_else(|error| panic!("no report: {error}"));
    eprintln!("{}", lab::render(&report));
    report
}

fn blames(report: &Report, what: &str) {
    assert!(!report.ok());
    assert!(
        report.reasons.iter().any(|reason| reason.contains(what)),
        "nobody mentions \"{what}\": {:#?}",
        report.reasons
    );
}

pub fn right() {
    let report = run(options(None, 6));
    assert!(report.ok(), "{:#?}", report.reasons);
    assert!(report.checks.iter().all(|check| check.holds == Some(true)), "{:#?}", report.checks);
    assert_eq!((report.requests.failed, report.connections.broken, report.connections.moved), (0, 0, 0));
    // 100 keep-alive connections, twice a second for 6 s, less a start and what a busy machine takes.
    assert!(report.requests.completed > 500, "{}", report.requests.completed);
    for kind in ["keep_alive", "short", "download", "upload"] {
        assert!(report.requests.by_kind[kind].completed > 0, "no {kind}");
    }
    assert_eq!(report.probe.sent, report.probe.received);
    assert!((5_500..7_000).contains(&report.probe.sent), "{} probes in 6 s", report.probe.sent);
    assert!(report.backends.values().all(|backend| backend.connections > 0 && backend.requests > 0));
    assert!(report.first_packet_ms.is_some() && report.boot_ms.is_some());
    for name in ["203.0.113.10:53/udp", "203.0.113.10:54/udp", "203.0.113.10:80/tcp"] {
        let vip = &report.vips[name];
        assert!(vip.flows > 90 && vip.backends.values().all(|flows| *flows > 10), "{name}: {vip:?}");
        assert!(vip.worst_share.unwrap() < 0.5, "{name}: {vip:?}");
    }
    let other = &report.vips["203.0.113.10:54/udp"];
    assert!(other.probes_sent > 500 && other.probes_received == other.probes_sent, "{other:?}");
}

/// Rubbish costs a right box nothing, and the sums hold to the frame: also with tags, frames too long, and pauses.
pub fn rubbish() {
    let mut options = options(None, 6);
    options.rubbish = Some(Rubbish { rate: 1500, seed: 11, only: None });
    let report = run(options);
    assert!(report.ok(), "{:#?}", report.reasons);
    assert!(report.checks.iter().all(|check| check.holds == Some(true)), "{:#?}", report.checks);
    let rubbish = report.rubbish.unwrap();
    assert!(rubbish.sent > 5_000 && rubbish.refused == 0 && rubbish.by_sort.len() == 14, "{rubbish:#?}");
    assert!((1_000..rubbish.sent).contains(&rubbish.to_vips), "{rubbish:#?}");
}

/// One backend goes and returns: only its own connections break, and the run is well nevertheless.
pub fn outage() {
    let mut options = options(None, 10);
    options.outages = vec![Outage { backend: "b2".into(), at: Duration::from_secs(3), length: Duration::from_secs(4) }];
    let report = run(options);
    assert!(report.ok(), "{:#?}", report.reasons);
    let [outage] = report.outages.as_slice() else { panic!("{:?}", report.outages) };
    let given_up = outage.given_up_after_ms.unwrap();
    assert!((300.0..1_500.0).contains(&given_up), "given up after {given_up} ms");
    assert!(outage.found_again_after_ms.unwrap() < 2_000.0, "{outage:?}");
    assert!(outage.broken > 5, "{outage:?}");
    assert_eq!(report.connections.broken, outage.broken);
    assert_eq!(report.connections.moved, report.connections.moved_from_the_dead);
}

/// A connection lost to anybody else than the backend that is gone is still a fault.
pub fn outage_and_moves() {
    let mut options = options(Some("move"), 8);
    options.outages = vec![Outage { backend: "b2".into(), at: Duration::from_secs(2), length: Duration::from_secs(1) }];
    let report = run(options);
    assert!(report.connections.moved > report.connections.moved_from_the_dead, "{:?}", report.connections);
    blames(&report, "moved to another backend");
    blames(&report, "connections were broken");
}

pub fn growing() {
    let mut options = options(Some("grow"), 6);
    options.crashes = vec![Crash { domain: "ixgbe0".into(), kind: None, at: Duration::from_secs(2) }];
    blames(&run(options), "ixgbe0 has 42 pages after its crash, and had 40 at most before");
}

/// Each refusal that a box may give to a line by the clock, and no other answer.
pub fn refusing() {
    let mut options = options(None, 5);
    let line = |line: &str, at| Line { line: line.into(), at: Duration::from_secs(at) };
    options.commands = vec![line("dance", 1), line("domains", 2), line("backend b1 drain", 3)];
    let report = run(options);
    blames(&report, "\"dance\": error: no such command");
    assert_eq!(report.reasons.len(), 1, "{:#?}", report.reasons);
}

pub fn crash() {
    let mut options = options(None, 8);
    let crash = |domain: &str, kind: Option<&str>, at| Crash {
        domain: domain.into(),
        kind: kind.map(str::to_owned),
        at: Duration::from_secs(at),
    };
    options.crashes = vec![crash("ixgbe0", None, 3), crash("lb", Some("stack-overflow"), 5)];
    let report = run(options);
    assert!(report.ok(), "{:#?}", report.reasons);
    let told: Vec<_> =
        report.crashes.iter().map(|crash| (crash.domain.as_str(), crash.reason.as_str(), crash.generation)).collect();
    assert_eq!(told, [("ixgbe0", "panic", 1), ("lb", "stack-overflow", 1)]);
    for crash in &report.crashes {
        let (blocked, away) = (crash.blocked_ms.unwrap(), RESTART.as_secs_f64() * 1e3);
        let noise = report.probe.max_gap_before_ms + 30.0;
        assert!((away - 10.0..away + noise).contains(&blocked), "{blocked} ms for {away} ms away, noise {noise}");
        assert_eq!((crash.pages_before, crash.pages_after), (Some(40), Some(40)));
    }
    assert!((report.crashes[0].at_ms - 3_000.0).abs() < 300.0, "{}", report.crashes[0].at_ms);
    assert_eq!(report.domains["ixgbe0"].restarts, 1);
    assert_eq!(report.domains["ixgbe0"].blocked_ms, report.crashes[0].blocked_ms);
    assert_eq!(report.probe.sent, report.probe.received, "what waits in the NIC isn't lost");
}

pub fn pause() {
    let mut options = options(None, 9);
    options.pauses = vec![Pause { at: Duration::from_secs(2), length: Duration::from_secs(3) }];
    let report = run(options);
    let [pause] = report.pauses.as_slice() else { panic!("{:?}", report.pauses) };
    let blocked = pause.blocked_ms.unwrap();
    // A busy host may let the stop last longer than asked for, or begin late; it is measured, too.
    assert!((2_900.0..4_000.0).contains(&pause.length_ms), "{} ms", pause.length_ms);
    assert!(
        (blocked - pause.length_ms).abs() < 150.0 + report.probe.max_gap_before_ms,
        "{blocked} ms for {} ms",
        pause.length_ms
    );
    // TCP outlives it.
    assert_eq!((report.connections.broken, report.connections.moved), (0, 0));
}

pub fn losing() {
    let report = run(options(Some("lose"), 5));
    blames(&report, "NIC received = forwarded + answered + drops by reason");
}

pub fn moving() {
    let report = run(options(Some("move"), 8));
    assert!(report.connections.moved > 50, "{}", report.connections.moved);
    blames(&report, "moved to another backend");
    // Another backend knows nothing of the connection, and resets it.
    assert!(report.connections.broken > 0);
}

pub fn corrupting() {
    let report = run(options(Some("corrupt"), 6));
    blames(&report, "the backend stored other bytes than were sent");
}

pub fn slow() {
    let mut options = options(Some("slow"), 6);
    options.crashes = vec![Crash { domain: "ixgbe0".into(), kind: None, at: Duration::from_secs(2) }];
    let report = run(options);
    blames(&report, "ixgbe0's crash blocked forwarding");
    assert!(report.crashes[0].blocked_ms.unwrap() > 950.0);
}

pub fn crashing() {
    let mut options = options(Some("crash"), 6);
    options.crashes = vec![Crash { domain: "nobody".into(), kind: None, at: Duration::from_secs(1) }];
    let report = run(options);
    blames(&report, "ixgbe0 crashed, which nobody had asked for: page-fault");
    blames(&report, "the box reported no crash of nobody");
    blames(&report, "there is no domain \"nobody\"");
    assert!(!report.crashes[0].asked_for);
}

pub fn dying() {
    let begun = Instant::now();
    let report = run(options(Some("die"), 60));
    blames(&report, "exit status 7: the stand-in has had enough");
    assert!(begun.elapsed() < Duration::from_secs(55), "it went on without a box");
}

pub fn beside() {
    let other = thread::spawn(|| run(options(None, 5)));
    let mine = run(options(None, 5));
    let other = other.join().unwrap();
    for report in [mine, other] {
        // Two loads on a small machine may crowd each other out of time, not out of truth.
        assert!(report.checks.iter().all(|check| check.holds == Some(true)), "{:#?}", report.checks);
        assert_eq!((report.requests.failed, report.connections.moved), (0, 0), "{:#?}", report.reasons);
    }
}

/// How long a victim's run is to last, if not a minute.
const SECONDS: &str = "LAB_TEST_SECONDS";

/// What a process does that is killed, interrupted, or somebody else's.
pub fn victim() -> ! {
    let seconds = std::env::var(SECONDS).map_or(60, |seconds| seconds.parse().unwrap());
    let mut options = options(None, seconds);
    options.report = std::env::var_os(VICTIM).map(PathBuf::from);
    let code = match lab::run(options) {
        Ok(report) => {
            eprintln!("{:#?}", report.reasons);
            i32::from(!report.ok())
        }
        Err(error) => {
            eprintln!("no report: {error}");
            9
        }
    };
    std::process::exit(code)
}

struct Victim {
    process: Child,
    report: PathBuf,
    _folder: tempfile::TempDir,
}

impl Victim {
    /// Starts a run in a process of its own and waits until its load runs.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.json");
        let process =
            Command::new(std::env::current_exe().unwrap()).env(VICTIM, &report).stderr(Stdio::piped()).spawn().unwrap();
        let mut victim = Self { process, report, _folder: folder };
        let mut stderr = victim.process.stderr.take().unwrap();
        let mut seen = String::new();
        while !seen.contains("under load") {
            let mut piece = [0; 256];
            let read = std::io::Read::read(&mut stderr, &mut piece).unwrap();
            assert!(read > 0, "ended early: {seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        // Somebody must go on reading.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        victim
    }

    /// Processes of the run, known by the environment that they all inherit.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{VICTIM}={}\0", self.report.display());
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(|path| {
            fs::read(path.join("environ"))
                .is_ok_and(|environment| environment.windows(mark.len()).any(|part| part == mark.as_bytes()))
        });
        let named = processes.filter_map(|path| {
            let name = fs::read_to_string(path.join("comm")).ok()?;
            // A process that has ended and isn't yet waited for has no memory left.
            let lives = fs::read_to_string(path.join("statm")).is_ok_and(|memory| !memory.starts_with("0 "));
            lives.then(|| format!("{} {}", path.display(), name.trim()))
        });
        named.collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }
}

pub fn killed() {
    let mut victim = Victim::start();
    // The command, outer, inner, the stand-in, three nginx.
    let before = victim.processes();
    assert!(before.len() >= 7, "{before:#?}");
    victim.signal(Signal::SIGKILL);
    victim.process.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !victim.processes().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:#?}", victim.processes());
        thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<_> = fs::read_dir(victim.report.parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // The run's files were on a tmpfs that only its own mount namespace had.
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(" /run/lab"));
    assert!(fs::metadata("/run/lab").is_err());
}

pub fn interrupted() {
    let mut victim = Victim::start();
    thread::sleep(Duration::from_secs(2));
    victim.signal(Signal::SIGINT);
    let status = victim.process.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let report: Report = serde_json::from_slice(&fs::read(&victim.report).unwrap()).unwrap();
    blames(&report, "interrupted");
    assert!(report.requests.completed > 0 && report.requests.failed == 0, "{:#?}", report.reasons);
    assert!(victim.processes().is_empty(), "{:#?}", victim.processes());
}

/// Nobody in particular, on any machine.
const STRANGER: u32 = 54_321;

/// As root: the same run as somebody who may do nothing. As an ordinary user every scene is this one.
pub fn unprivileged() {
    if !nix::unistd::geteuid().is_root() {
        return right();
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        let copied = Command::new("cp").arg("-r").arg(from).arg(&to).status().unwrap();
        assert!(copied.success());
        to
    };
    let prefix = prefix::Prefix::ensure(&[prefix::Tool::Nginx]).unwrap();
    let tree = prefix.tree(prefix::Tool::Nginx).unwrap();
    let there = copy(tree, "nginx");
    let program = copy(&std::env::current_exe().unwrap(), "program");
    let moved =
        |text: &OsStr| OsString::from(text.to_str().unwrap().replace(tree.to_str().unwrap(), there.to_str().unwrap()));
    let mut tool = nginx();
    tool.program = moved(tool.program.as_os_str()).into();
    tool.args = tool.args.iter().map(|argument| moved(argument)).collect();
    let tool = serde_json::to_string(&tool).unwrap();
    let report = folder.path().join("report.json");
    chown(folder.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    let mut command = Command::new(program);
    command.env(VICTIM, &report).env(SECONDS, "5").env(NGINX, tool).current_dir("/").uid(STRANGER).gid(STRANGER);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert!(report.ok() && report.requests.completed > 300, "{:#?}", report.reasons);
}
