//! A run of an appliance that serves by itself: clients connect to the box's own address, check every byte of every answer, and say what became of their connections.
//!
//! What is promised of a crash depends on whose it is. Below the network stack (a driver, a shadow, a classifier) nothing may fail or break. In the stack or above it the connections that are open
//! break, and new ones fail for no longer than [`BACK_AFTER`]; each is counted.

use crate::clock::Moment;
use crate::console::Console;
use crate::control::{News, Order};
use crate::error::Error;
use crate::facts::{Facts, Turn};
use crate::feed;
use crate::machine::{self, Machine};
use crate::network::Network;
use crate::nic::Nic;
use crate::options::{RunOptions, Service, ServiceKind};
use crate::report::{Connections, CrashReport, DomainReport, KindReport, Report, Requests, SCHEMA_VERSION};
use crate::schedule::{Deed, Schedule};
use crate::status::Status;
use model::Mishap;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// After a crash of the stack or of what is above it new connections are served again within this.
const BACK_AFTER: Duration = Duration::from_millis(500);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(10);
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What became of one connection, or of one attempt at it.
struct Outcome {
    kind: &'static str,
    begun: Moment,
    ended: Moment,
    /// None: every byte was right.
    failure: Option<String>,
    /// Whether it had been established before it failed.
    was_open: bool,
}

#[derive(Default)]
struct Tally {
    opened: u64,
    exchanges: u64,
    outcomes: Vec<Outcome>,
}

struct Client {
    service: Service,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

/// Makes the run.
pub fn conduct(options: &RunOptions, orders: &Receiver<Order>, say: &(dyn Fn(News) + Sync)) -> Result<Report, Error> {
    let phase = |name: &str| say(News::Status(Box::new(Status { phase: name.into(), ..Status::default() })));
    phase("building the lab");
    let network = Network::build(options)?;
    let mut nic = Nic::serve(&network.nic, &machine::nic_socket(), options.box_settings.mac, options.lab.segment.mtu)?;
    phase("booting");
    let started = Moment::now();
    let (mut machine, lines) = Machine::start(options, &network.nic)?;
    network.plug_in()?;
    let (tell_text, text) = mpsc::channel::<String>();
    let mut console = Console::listen(lines.console, move |piece| {
        // Whoever no longer listens has ended the run.
        let _ = tell_text.send(piece.to_owned());
    })
    .map_err(Error::io("console"))?;
    let tail = console.tail_reader();
    let (tell_heard, heard) = mpsc::channel();
    feed::listen(lines.feed, tell_heard);
    let mut facts = Facts::default();
    let mut reasons = Vec::new();
    let mut stopped = false;
    let mut pump = |facts: &mut Facts, machine: &mut Machine, reasons: &mut Vec<String>, up: Option<Moment>| {
        let new: String = text.try_iter().collect();
        if !new.is_empty() {
            say(News::Console(new));
        }
        while let Ok(one) = heard.try_recv() {
            let at = up.map_or_else(String::new, |up| format!("{:7.3} s  ", Moment::now().since(up).as_secs_f64()));
            match facts.take(one) {
                Turn::Crashed(crash) => {
                    say(News::Line(format!("{at}{} crashed: {} {}", crash.domain, crash.reason, crash.last_words)))
                }
                Turn::Recovered(one) => {
                    say(News::Line(format!("{at}{} is back, generation {}", one.domain, one.generation)))
                }
                Turn::Booted | Turn::Nothing => {}
            }
        }
        while let Ok(order) = orders.try_recv() {
            stopped |= matches!(order, Order::Stop);
        }
        if let Some(status) = machine.ended() {
            reasons.push(format!("the box's process ended by itself: {} {}", machine::describe(status), machine.log()));
            return false;
        }
        !stopped
    };

    // Up: booted, and every service has answered.
    let deadline = started + options.lab.limits.boot;
    let mut silent: Vec<&Service> = options.services.iter().collect();
    let mut up = None;
    while pump(&mut facts, &mut machine, &mut reasons, None) {
        if facts.booted.is_some() {
            silent.retain(|service| {
                network.client.run(|| Ok(attempt(service, Duration::from_millis(500)).is_err())).unwrap_or(true)
            });
        }
        if facts.booted.is_some() && silent.is_empty() {
            up = Some(Moment::now());
            break;
        }
        if Moment::now() > deadline {
            reasons.push(match silent.first() {
                Some(service) if facts.booted.is_some() => {
                    format!("{} did not answer at {}", service.domain, service.address)
                }
                _ => "the box was not up in time".to_owned(),
            });
            reasons.extend(tail(12).into_iter().map(|line| format!("console: {line}")));
            break;
        }
        thread::sleep(TICK);
    }
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut load_end = Moment::now();
    if let Some(up) = up {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = start_clients(options, &network, &tally, &stop)?;
        let mut schedule = Schedule::of(options);
        let mut shown = up;
        while pump(&mut facts, &mut machine, &mut reasons, Some(up)) {
            let elapsed = Moment::now().since(up);
            while let Some(deed) = schedule.due(elapsed, &facts) {
                match deed {
                    Deed::Type(line) | Deed::Crash { line, .. } => {
                        say(News::Line(format!("{:7.3} s  redleaf> {line}", elapsed.as_secs_f64())));
                        match console.ask(&line, Duration::from_secs(5)) {
                            None => reasons.push(format!("the console did not answer to \"{line}\"")),
                            Some(reply) if reply.starts_with("error") => reasons.push(format!("\"{line}\": {reply}")),
                            Some(_) => {}
                        }
                    }
                    Deed::Mishap(name) => {
                        let what = Mishap::find(&name).map_or("", |mishap| mishap.what);
                        say(News::Line(format!("{:7.3} s  nic: {what}", elapsed.as_secs_f64())));
                    }
                    Deed::Command(control) => {
                        if let Err(error) = nic.command(control) {
                            reasons.push(error.to_string());
                        }
                    }
                    // There are no backends here.
                    Deed::Freeze | Deed::Thaw | Deed::CutOff(_) | Deed::Connect(_) => {}
                }
            }
            if options.duration.is_some_and(|duration| elapsed >= duration) {
                break;
            }
            if Moment::now().since(shown) >= Duration::from_millis(500) {
                shown = Moment::now();
                say(News::Status(Box::new(status(&facts, &tally, elapsed, options.duration))));
            }
            thread::sleep(TICK);
        }
        if schedule.left() > 0 {
            reasons.push(format!("{} things that were asked for did not come to pass", schedule.left()));
        }
        load_end = Moment::now();
        stop.store(true, Ordering::Relaxed);
        let deadline = Moment::now() + PATIENCE + LAST_WORDS;
        while clients.iter().any(|client| !client.is_finished()) && Moment::now() < deadline {
            pump(&mut facts, &mut machine, &mut reasons, Some(up));
            thread::sleep(TICK);
        }
        let last = Moment::now() + LAST_WORDS;
        let stats = facts.stats_heard;
        while facts.stats_heard < stats + 2 && Moment::now() < last {
            pump(&mut facts, &mut machine, &mut reasons, Some(up));
            thread::sleep(TICK);
        }
    }
    let counted = nic.report();
    if let Some(reason) = nic.stop() {
        reasons.push(format!("NIC model: {reason}"));
    }
    let tally = tally.lock().expect("no client panics while counting");
    let up = up.unwrap_or(started);
    let mut report = judge(options, &facts, &tally, up, load_end, reasons);
    report.nic = counted;
    Ok(report)
}

fn status(facts: &Facts, tally: &Mutex<Tally>, elapsed: Duration, duration: Option<Duration>) -> Status {
    let tally = tally.lock().expect("no client panics while counting");
    let broken = tally.outcomes.iter().filter(|one| one.failure.is_some() && one.was_open).count() as u64;
    let failed = tally.outcomes.iter().filter(|one| one.failure.is_some()).count() as u64;
    Status {
        phase: "under load".into(),
        elapsed_s: elapsed.as_secs_f64(),
        duration_s: duration.map(|duration| duration.as_secs_f64()),
        domains: facts.domains.values().cloned().collect(),
        crashes: facts.crashes.len(),
        completed: tally.exchanges,
        failed,
        broken,
        ..Status::default()
    }
}

fn start_clients(
    options: &RunOptions,
    network: &Network,
    tally: &Arc<Mutex<Tally>>,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<thread::JoinHandle<()>>, Error> {
    let mut clients = Vec::new();
    let load = &options.lab.load;
    for service in &options.services {
        let client = || Client { service: service.clone(), tally: tally.clone(), stop: stop.clone() };
        for number in 0..load.keep_alive {
            let (client, think) = (client(), load.think_time);
            clients.push(network.client.spawn(&format!("keep{number}"), move || client.keep_alive(think))?);
        }
        if load.short_rate > 0 {
            let (client, pause) = (client(), Duration::from_secs(1) / load.short_rate);
            clients.push(network.client.spawn("short", move || client.short(pause))?);
        }
    }
    Ok(clients)
}

impl Client {
    /// One connection after the other, each kept as long as it lives.
    fn keep_alive(&self, think: Duration) {
        let mut random = fastrand::Rng::new();
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Moment::now();
            let mut was_open = false;
            let failure = self.converse(&mut random, think, &mut was_open).err();
            let failed = failure.is_some();
            self.count(Outcome { kind: "keep-alive", begun, ended: Moment::now(), failure, was_open });
            if failed {
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn converse(&self, random: &mut fastrand::Rng, think: Duration, was_open: &mut bool) -> Result<(), String> {
        let mut stream = connect(&self.service, PATIENCE)?;
        *was_open = true;
        self.tally.lock().expect("no client panics while counting").opened += 1;
        while !self.stop.load(Ordering::Relaxed) {
            self.service.kind.exchange(&mut stream, random)?;
            self.tally.lock().expect("no client panics while counting").exchanges += 1;
            thread::sleep(think);
        }
        finish(&mut stream)
    }

    /// A new connection every `pause`, for one exchange, whatever became of the earlier ones: so each has a thread of its own, in this one's namespace.
    fn short(self, pause: Duration) {
        let client = Arc::new(self);
        let mut under_way: Vec<thread::JoinHandle<()>> = Vec::new();
        while !client.stop.load(Ordering::Relaxed) {
            let one = client.clone();
            under_way.push(thread::spawn(move || {
                let (begun, mut was_open) = (Moment::now(), false);
                let failure = one.once(&mut fastrand::Rng::new(), &mut was_open).err();
                one.count(Outcome { kind: "short", begun, ended: Moment::now(), failure, was_open });
            }));
            under_way.retain(|one| !one.is_finished());
            thread::sleep(pause);
        }
        for one in under_way {
            // A client that panicked has been heard of by its message.
            let _ = one.join();
        }
    }

    fn once(&self, random: &mut fastrand::Rng, was_open: &mut bool) -> Result<(), String> {
        let mut stream = connect(&self.service, PATIENCE)?;
        *was_open = true;
        self.tally.lock().expect("no client panics while counting").opened += 1;
        self.service.kind.exchange(&mut stream, random)?;
        self.tally.lock().expect("no client panics while counting").exchanges += 1;
        finish(&mut stream)
    }

    fn count(&self, outcome: Outcome) {
        self.tally.lock().expect("no client panics while counting").outcomes.push(outcome);
    }
}

fn connect(service: &Service, patience: Duration) -> Result<TcpStream, String> {
    let address = SocketAddr::new(service.address.into(), service.port);
    let stream = TcpStream::connect_timeout(&address, patience).map_err(|error| format!("connect: {error}"))?;
    let set = stream.set_read_timeout(Some(patience)).and(stream.set_write_timeout(Some(patience)));
    set.and(stream.set_nodelay(true)).map_err(|error| format!("socket: {error}"))?;
    Ok(stream)
}

fn attempt(service: &Service, patience: Duration) -> Result<(), String> {
    let mut stream = connect(service, patience)?;
    service.kind.exchange(&mut stream, &mut fastrand::Rng::new())?;
    finish(&mut stream)
}

/// Finishes, and waits for the other side to do so.
fn finish(stream: &mut TcpStream) -> Result<(), String> {
    stream.shutdown(Shutdown::Write).map_err(|error| format!("shutdown: {error}"))?;
    match stream.read(&mut [0; 16]) {
        Ok(0) => Ok(()),
        Ok(more) => Err(format!("{more} bytes more than were asked for")),
        Err(error) => Err(format!("waiting for the end: {error}")),
    }
}

impl ServiceKind {
    /// One request and its answer, every byte of which is checked.
    fn exchange(self, stream: &mut TcpStream, random: &mut fastrand::Rng) -> Result<(), String> {
        match self {
            ServiceKind::Echo => {
                let sent: Vec<u8> = (0..random.usize(1..6_000)).map(|_| random.u8(..)).collect();
                stream.write_all(&sent).map_err(|error| format!("send: {error}"))?;
                let mut back = vec![0; sent.len()];
                stream.read_exact(&mut back).map_err(|error| format!("receive: {error}"))?;
                if back == sent { Ok(()) } else { Err("what came back isn't what was sent".to_owned()) }
            }
            ServiceKind::Memcached => {
                let key = format!("lab-{:016x}", random.u64(..));
                let value: String = (0..random.usize(1..4_000)).map(|_| random.alphanumeric()).collect();
                let set = format!("set {key} 0 60 {}\r\n{value}\r\n", value.len());
                say(stream, set.as_bytes())?;
                expect(stream, b"STORED\r\n")?;
                say(stream, format!("get {key}\r\n").as_bytes())?;
                expect(stream, format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len()).as_bytes())
            }
            ServiceKind::Http => {
                say(stream, b"GET / HTTP/1.1\r\nHost: box\r\n\r\n")?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).map_err(|error| format!("receive: {error}"))?;
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                if !head.starts_with("http/1.1 200 ") {
                    return Err(format!("answered {:?}", head.lines().next().unwrap_or_default()));
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                let mut body = vec![0; length.ok_or("an answer without its length")?];
                stream.read_exact(&mut body).map_err(|error| format!("receive: {error}"))?;
                // The page ends so; what is cut off, or out of step, doesn't.
                if body.ends_with(b"</html>\n") { Ok(()) } else { Err("the page isn't whole".to_owned()) }
            }
        }
    }
}

fn say(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).map_err(|error| format!("send: {error}"))
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> Result<(), String> {
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).map_err(|error| format!("receive: {error}"))?;
    if answer == expected { Ok(()) } else { Err("the answer isn't what is due".to_owned()) }
}

/// Whether a crash of that domain may break connections: the stack's, or a service's.
fn breaks(options: &RunOptions, domain: &str) -> bool {
    options.services.iter().any(|service| service.domain == domain || service.stack == domain)
}

fn judge(
    options: &RunOptions,
    facts: &Facts,
    tally: &Tally,
    up: Moment,
    load_end: Moment,
    mut reasons: Vec<String>,
) -> Report {
    let crashes: Vec<(Moment, &crate::feed::CrashFacts)> =
        facts.crashes.iter().map(|(heard, crash)| (facts.moment(crash.at_ns, *heard), crash)).collect();
    let mut requests = Requests::default();
    let mut connections = Connections { opened: tally.opened, ..Connections::default() };
    for one in &tally.outcomes {
        let entry = requests.by_kind.entry(one.kind.into()).or_default();
        let Some(failure) = &one.failure else {
            entry.completed += 1;
            continue;
        };
        entry.failed += 1;
        connections.broken += u64::from(one.was_open);
        *requests.failures.entry(failure.clone()).or_default() += 1;
        // Begun before the box was back, and ended after the crash: the crash's doing.
        let excused = crashes
            .iter()
            .any(|(at, crash)| breaks(options, &crash.domain) && one.ended >= *at && one.begun <= *at + BACK_AFTER);
        if !excused {
            let at = one.ended.since(up).as_secs_f64();
            reasons.push(format!("a {} connection failed at {at:.3} s: {failure}", one.kind));
        }
    }
    requests.completed = tally.exchanges;
    requests.failed = tally.outcomes.iter().filter(|one| one.failure.is_some()).count() as u64;
    if tally.exchanges == 0 {
        reasons.push("nothing was completed".to_owned());
    }
    for (kind, entry) in &mut requests.by_kind {
        latencies(tally, kind, entry);
    }
    let crash_reports = crashes.iter().map(|(at, crash)| {
        let recovery = facts.recovery_of(crash).map(|(_, one)| one);
        if recovery.is_none() {
            reasons.push(format!("{} did not come back after its crash", crash.domain));
        }
        CrashReport {
            at_ms: at.since(up).as_secs_f64() * 1e3,
            domain: crash.domain.clone(),
            reason: crash.reason.clone(),
            generation: crash.generation,
            blocked_ms: blocked(tally, *at),
            pages_before: crash.pages_before,
            pages_after: recovery.and_then(|one| one.pages_after),
            pages_at_first: facts.pages_at_first.get(&crash.domain).copied(),
            restart_ms: recovery.map(|one| one.at_ns.saturating_sub(crash.at_ns) as f64 / 1e6),
            cpu: crash.cpu,
            chain: crash.chain.clone(),
            last_words: crash.last_words.clone(),
            asked_for: options.crashes.iter().any(|asked| asked.domain == crash.domain)
                || options.faults.iter().any(|fault| fault.ends(options, &crash.domain)),
        }
    });
    let crash_reports: Vec<CrashReport> = crash_reports.collect();
    for crash in &crash_reports {
        let limit = BACK_AFTER.as_secs_f64() * 1e3;
        match crash.blocked_ms {
            Some(blocked) if breaks(options, &crash.domain) && blocked > limit => reasons.push(format!(
                "after {}'s crash the first new connection was served {blocked:.0} ms later",
                crash.domain
            )),
            _ => {}
        }
        if !crash.asked_for {
            reasons.push(format!("{} crashed by itself: {} {}", crash.domain, crash.reason, crash.last_words));
        }
    }
    let domains: BTreeMap<String, DomainReport> = facts
        .domains
        .iter()
        .map(|(name, domain)| {
            let report = DomainReport {
                state: domain.state.clone(),
                generation: domain.generation,
                restarts: domain.restarts,
                blocked_ms: None,
                pages: domain.pages,
                counters: domain.counters.clone(),
            };
            (name.clone(), report)
        })
        .collect();
    Report {
        schema_version: SCHEMA_VERSION,
        name: options.name.clone(),
        ok: reasons.is_empty(),
        reasons,
        duration_ms: load_end.since(up).as_secs_f64() * 1e3,
        boot_ms: facts.booted.as_ref().map(|(_, booted)| booted.boot_ms),
        requests,
        connections,
        domains,
        cpus: facts.cpus.clone(),
        crashes: crash_reports,
        ..Report::default()
    }
}

/// From a crash to the first new connection after it that was served.
fn blocked(tally: &Tally, at: Moment) -> Option<f64> {
    let served = tally.outcomes.iter().filter(|one| one.kind == "short" && one.failure.is_none() && one.begun >= at);
    served.map(|one| one.ended).min().map(|end| end.since(at).as_secs_f64() * 1e3)
}

fn latencies(tally: &Tally, kind: &str, entry: &mut KindReport) {
    if kind != "short" {
        return;
    }
    let good = tally.outcomes.iter().filter(|one| one.kind == kind && one.failure.is_none());
    let mut times: Vec<f64> = good.map(|one| one.ended.since(one.begun).as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).copied();
    entry.median_ms = at(0.5).unwrap_or_default();
    entry.p99_ms = at(0.99).unwrap_or_default();
    entry.max_ms = at(1.0).unwrap_or_default();
}
