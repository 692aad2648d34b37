//! One run, from an empty namespace to a report: build the lab, boot the box, load it, do to it what was asked, let it settle, judge.

use crate::authority;
use crate::backend;
use crate::clock::Moment;
use crate::console::Console;
use crate::control::{News, Order};
use crate::error::Error;
use crate::facts::{Facts, Turn};
use crate::feed::{self, Heard, NicFacts};
use crate::judge::{self, Asked, Evidence};
use crate::load::{self, Load};
use crate::machine::{self, Lines, Machine};
use crate::network::{Network, cable_mtu};
use crate::nic::Nic;
use crate::options::{Boot, Protocol, RunOptions, Vip};
use crate::probe::Probe;
use crate::programs::Programs;
use crate::report::{Exchange, NicReport, Report};
use crate::rubbish::Rubbish;
use crate::schedule::{Deed, Schedule};
use crate::server::Server;
use crate::service::Customers;
use crate::spread::Spread;
use crate::status::Status;
use crate::watch::Watch;
use crate::witness::{self, Witness};
use model::Mishap;
use std::io::Write;
use std::net::SocketAddrV4;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// How long the lab runs without a box, and nothing may come through.
const QUIET: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(10);
/// How long a console command's prompt may take to come back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer than the load was asked to last its programs may run.
const PROGRAMS_PATIENCE: Duration = Duration::from_secs(300);
/// How long the feed may take to bring the last statistics.
const LAST_STATS: Duration = Duration::from_secs(5);
/// How long a domain gets to come back after a crash that the end of the load found under way.
const LAST_RECOVERY: Duration = Duration::from_secs(3);

/// A typed line that has been answered, or given up on.
struct Typed {
    at: Moment,
    line: String,
    reply: Option<String>,
}

/// Everybody who wants something of the box for the whole time under load.
struct Crowd {
    /// Clients of the VIPs.
    load: Option<Load>,
    /// Clients of what the box serves itself.
    customers: Option<Customers>,
}

impl Crowd {
    /// Begins nothing more; what is under way may end.
    fn stop(&self) {
        if let Some(load) = &self.load {
            load.stop();
        }
        if let Some(customers) = &self.customers {
            customers.stop();
        }
    }

    fn ended(&self) -> bool {
        self.load.as_ref().is_none_or(Load::ended) && self.customers.as_ref().is_none_or(Customers::ended)
    }
}

struct Session<'a> {
    options: &'a RunOptions,
    orders: Receiver<Order>,
    say: &'a (dyn Fn(News) + Sync),
    network: Network,
    servers: Vec<Server>,
    watch: Watch,
    heard: Receiver<Heard>,
    typist: Sender<String>,
    typed: Receiver<Typed>,
    keyboard: std::os::unix::net::UnixStream,
    machine: Machine,
    nic: Option<Nic>,
    /// What the box's lines are given to, whichever life of it they are of.
    wires: Wires,
    facts: Facts,
    exchanges: Vec<Typed>,
    asked: Vec<Asked>,
    /// Begin and end of each pause that was made.
    pauses: Vec<(Moment, Option<Moment>)>,
    /// When the power was cut, and when all services had answered again.
    dark: Vec<(Moment, Option<Moment>)>,
    mishaps: Vec<(Moment, String)>,
    reasons: Vec<String>,
    programs: Option<Programs>,
    stopped_early: bool,
    /// Frames that the NIC had sent just before and just after it was unplugged.
    sent: Option<(u64, u64)>,
}

/// Where what comes over the box's lines goes.
struct Wires {
    text: Sender<String>,
    heard: Sender<Heard>,
    typed: Sender<Typed>,
}

/// The typing end of a box's lines.
struct Desk {
    keyboard: std::os::unix::net::UnixStream,
    typist: Sender<String>,
    tail: Box<dyn Fn(usize) -> Vec<String>>,
}

impl Wires {
    /// Listens to a box's lines until they are closed.
    fn attach(&self, lines: Lines) -> Result<Desk, Error> {
        let keyboard = lines.console.try_clone().map_err(Error::io("console"))?;
        let text = self.text.clone();
        let console = Console::listen(lines.console, move |piece| {
            // Whoever no longer listens has ended the run.
            let _ = text.send(piece.to_owned());
        })
        .map_err(Error::io("console"))?;
        let (typist, lines_to_type) = mpsc::channel();
        let typed = self.typed.clone();
        let tail = Box::new(console.tail_reader());
        thread::spawn(move || type_lines(console, &lines_to_type, &typed));
        feed::listen(lines.feed, self.heard.clone());
        Ok(Desk { keyboard, typist, tail })
    }
}

/// Makes the run. An error means that there was none; whatever went wrong in it stands in the report.
pub fn conduct(options: RunOptions, orders: Receiver<Order>, say: &(dyn Fn(News) + Sync)) -> Result<Report, Error> {
    raise_file_limit();
    check(&options)?;
    let phase = |name: &str| say(News::Status(Box::new(Status { phase: name.into(), ..Status::default() })));
    phase("building the lab");
    let network = Network::build(&options)?;
    backend::write_content(&options)?;
    let mut servers = network
        .backends
        .iter()
        .enumerate()
        .map(|(number, host)| backend::start(&options, number, host))
        .collect::<Result<Vec<_>, _>>()?;
    servers.extend(authority::start(&options, &network.router)?);
    let vips = options.vips.iter().map(|vip| vip.address);
    let watch = Watch::start(&network, Witness::new(vips, options.box_settings.mac, options.backends.len()))?;
    let probed: Vec<witness::Service> =
        options.vips.iter().filter(|vip| vip.protocol == Protocol::Udp).map(offered).collect();
    watch.witness().stream = probed.first().copied();
    let probed: Vec<_> = probed.iter().map(|service| SocketAddrV4::new(service.address, service.port)).collect();
    let mut probe = match probed.is_empty() {
        true => None,
        false => Some(Probe::start(&network.client, probed, options.lab.load.probe_rate)?),
    };
    let passed_without_box = load::passes(&network.client, &options, QUIET)?;
    thread::sleep(QUIET);

    phase("booting");
    let nic = match options.boot {
        Boot::Program(_) => None,
        _ => Some(Nic::serve(&network.nic, &machine::nic_socket(), &options.box_settings, cable_mtu(&options))?),
    };
    let started = Moment::now();
    let (machine, lines) = Machine::start(&options, &network.nic)?;
    network.plug_in()?;
    let (tell_text, text) = mpsc::channel::<String>();
    let (to_session, typed) = mpsc::channel();
    let (tell_heard, heard) = mpsc::channel();
    let wires = Wires { text: tell_text, heard: tell_heard, typed: to_session };
    let Desk { keyboard, typist, tail } = wires.attach(lines)?;

    let mut session = Session {
        options: &options,
        orders,
        say,
        network,
        servers,
        watch,
        heard,
        typist,
        typed,
        keyboard,
        machine,
        nic,
        wires,
        facts: Facts::default(),
        exchanges: Vec::new(),
        asked: Vec::new(),
        pauses: Vec::new(),
        dark: Vec::new(),
        mishaps: Vec::new(),
        reasons: Vec::new(),
        programs: None,
        stopped_early: false,
        sent: None,
    };
    let up = session.wait_for_box(started, &text, probe.is_some());
    let mut evidence = Evidence { passed_without_box, up, ..Evidence::new(started) };
    if let Some(up) = up {
        evidence.probe_begin = probe.as_ref().map_or(0, Probe::sent);
        let crowd = Crowd {
            load: Load::start(&session.network.client, &options)?,
            customers: Customers::start(&session.network.client, &options)?,
        };
        let mut spread = Spread::start(&session.network.client, &options)?;
        let mut rubbish = Rubbish::start(&session.network.segment, &options)?;
        session.programs = Programs::start(&session.network.client, &options)?;
        session.run(up, &crowd, &text);
        evidence.load_end = Moment::now();
        spread.stop();
        evidence.rubbish = rubbish.as_mut().map(Rubbish::stop);
        evidence.probe_sent = probe.as_ref().map_or(0, Probe::sent);
        // A box with two lives has counted in each of them from 0.
        evidence.settled = session.settle(&crowd, probe.as_mut(), &text)? && session.dark.is_empty();
        evidence.tally = crowd.load.map(|load| load.tally().clone());
        evidence.dealings = crowd.customers.map(|customers| customers.dealings().clone());
    }
    evidence.nic = session.nic_report();
    evidence.nic_sent = session.sent.or(evidence.nic.as_ref().map(|nic| (nic.tx, nic.tx)));
    evidence.nic_detail = session.nic.as_ref().map(Nic::detail).unwrap_or_default();
    evidence.captures_missed = session.watch.stop();
    if let Some(reason) = session.nic.as_mut().and_then(Nic::stop) {
        session.reasons.push(format!("NIC model: {reason}"));
    }
    if up.is_none() {
        session.reasons.extend(session.servers.iter_mut().filter_map(Server::ended));
        session.reasons.extend(tail(12).into_iter().map(|line| format!("console: {line}")));
    }
    evidence.console = session.exchanges.iter().map(|typed| session.exchange(typed, up.unwrap_or(started))).collect();
    let Session { facts, asked, pauses, mishaps, dark, reasons, watch, programs, .. } = session;
    evidence.programs = programs.map(Programs::into_reports).unwrap_or_default();
    (evidence.facts, evidence.asked, evidence.pauses, evidence.reasons) = (facts, asked, pauses, reasons);
    evidence.dark = dark;
    evidence.mishaps = mishaps;
    let witness = watch.witness();
    Ok(judge::report(&options, &evidence, &witness))
}

fn check(options: &RunOptions) -> Result<(), Error> {
    let known = |name: &String| options.backends.iter().any(|backend| backend.name == *name);
    for vip in &options.vips {
        if let Some(name) = vip.backends.iter().find(|name| !known(name)) {
            return Err(Error::Options(format!(
                "VIP {}:{} names the backend \"{name}\", which isn't declared",
                vip.address, vip.port
            )));
        }
    }
    if let Some(outage) = options.outages.iter().find(|outage| !known(&outage.backend)) {
        return Err(Error::Options(format!("no backend is named \"{}\" that could be cut off", outage.backend)));
    }
    if let Some(fault) = options.faults.iter().find(|fault| Mishap::find(&fault.mishap).is_none()) {
        return Err(Error::Options(format!("nothing that could go wrong with a card is named \"{}\"", fault.mishap)));
    }
    if !options.power_losses.is_empty() && !options.vips.is_empty() {
        return Err(Error::Options(
            "a power loss breaks what is balanced, which is no fault of the box's: not with VIPs".into(),
        ));
    }
    if options.services.is_empty() && (options.vips.is_empty() || options.backends.is_empty()) {
        return Err(Error::Options("a lab needs a service, or at least one VIP and one backend".into()));
    }
    Ok(())
}

/// Hundreds of connections and captures need more than the usual 1,024 descriptors.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it can't be raised the load says what it lacks.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn type_lines(mut console: Console, lines: &Receiver<String>, done: &Sender<Typed>) {
    for line in lines {
        let at = Moment::now();
        let reply = console.ask(&line, PATIENCE);
        if done.send(Typed { at, line, reply }).is_err() {
            return;
        }
    }
}

impl Session<'_> {
    fn line(&self, text: impl Into<String>) {
        (self.say)(News::Line(text.into()));
    }

    /// Takes in whatever has come; says whether the run may go on.
    fn pump(&mut self, text: &Receiver<String>, up: Option<Moment>) -> bool {
        let new: String = text.try_iter().collect();
        if !new.is_empty() {
            (self.say)(News::Console(new));
        }
        while let Ok(heard) = self.heard.try_recv() {
            match self.facts.take(heard) {
                Turn::Crashed(crash) => {
                    self.line(format!("{}{} crashed: {} {}", since(up), crash.domain, crash.reason, crash.last_words))
                }
                Turn::Recovered(one) => {
                    self.line(format!("{}{} is back, generation {}", since(up), one.domain, one.generation))
                }
                Turn::Booted | Turn::Nothing => {}
            }
        }
        for program in self.programs.as_mut().map(Programs::news).unwrap_or_default() {
            let status = program.status.map_or("no status".to_owned(), |status| format!("status {status}"));
            self.line(format!("{}{}: {status}\n{}", since(up), program.line, program.words.trim_end()));
        }
        while let Ok(typed) = self.typed.try_recv() {
            self.exchanges.push(typed);
        }
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => self.stopped_early = true,
                Order::Type(line) => {
                    self.asked.push(Asked { at: Moment::now(), line: line.clone(), by_hand: true });
                    // A box that is gone is noticed below.
                    let _ = self.keyboard.write_all(format!("{line}\n").as_bytes());
                }
                Order::Run(_) => {}
            }
        }
        if let Some(status) = self.machine.ended() {
            let mut reason = format!("{}the box's process ended by itself: {}", since(up), machine::describe(status));
            let log = self.machine.log();
            if !log.is_empty() {
                reason = format!("{reason}: {log}");
            }
            if !self.reasons.iter().any(|known| known.contains("ended by itself")) {
                self.reasons.push(reason);
            }
            return false;
        }
        !self.stopped_early
    }

    /// Waits until the box says that it is up, a probe came through, and each service has answered; `None` with reasons if it doesn't come to that.
    fn wait_for_box(&mut self, started: Moment, text: &Receiver<String>, probed: bool) -> Option<Moment> {
        let deadline = started + self.options.lab.limits.boot;
        let (mtu, mut silent) = (self.options.mtu() as usize, self.options.services.iter().collect::<Vec<_>>());
        while self.pump(text, None) {
            let booted = self.facts.booted.is_some();
            let arrived = !probed || !self.watch.witness().arrivals.is_empty();
            if booted {
                let client = &self.network.client;
                silent.retain(|one| !client.run(|| Ok(one.answers(mtu))).unwrap_or(false));
            }
            if booted && arrived && silent.is_empty() {
                return Some(Moment::now());
            }
            if Moment::now() > deadline {
                let limit = self.options.lab.limits.boot.as_secs_f64();
                self.reasons.push(match silent.first() {
                    _ if !booted => format!("the box was not up {limit} s after its start"),
                    _ if !arrived => {
                        format!("the box was up, and yet no probe had come through {limit} s after its start")
                    }
                    Some(one) => {
                        format!("{} did not answer at {} {limit} s after the box's start", one.domain, one.at())
                    }
                    None => format!("the box was up only when {limit} s were over"),
                });
                return None;
            }
            thread::sleep(TICK);
        }
        if self.stopped_early {
            self.reasons.push("interrupted while the box was booting".into());
        }
        None
    }

    /// The time under load.
    fn run(&mut self, up: Moment, crowd: &Crowd, text: &Receiver<String>) {
        let mut schedule = Schedule::of(self.options);
        let mut shown = (Moment(0), 0);
        while self.pump(text, Some(up)) {
            let elapsed = Moment::now().since(up);
            while let Some(deed) = schedule.due(elapsed, &self.facts) {
                match deed {
                    Deed::PowerLoss => self.lose_power(up, text),
                    deed => self.act(deed, up),
                }
            }
            // Without a duration a run is as long as its programs.
            let at_work = self.programs.as_ref().is_some_and(|programs| !programs.ended());
            let over = match self.options.duration {
                Some(duration) => elapsed >= duration,
                None => self.programs.is_some(),
            };
            let patience = self.options.duration.unwrap_or_default() + PROGRAMS_PATIENCE;
            if over && (!at_work || elapsed >= patience) {
                break;
            }
            if Moment::now().since(shown.0) >= Duration::from_millis(500) {
                shown = self.show(up, crowd, shown);
            }
            thread::sleep(TICK);
        }
        if let Some(programs) = &self.programs {
            programs.stop();
        }
        self.thaw();
        for name in self.options.outages.iter().map(|outage| outage.backend.clone()) {
            self.connect_if_cut(&name, up);
        }
        if schedule.left() > 0 {
            self.reasons.push(format!(
                "{} things that were asked for did not come to pass: the load ended before their time",
                schedule.left()
            ));
        }
        if self.stopped_early && self.options.duration.is_some() {
            self.reasons.push(format!("{}interrupted", since(Some(up))));
        }
    }

    fn act(&mut self, deed: Deed, up: Moment) {
        match deed {
            Deed::Type(line) | Deed::Crash { line, .. } => {
                self.asked.push(Asked { at: Moment::now(), line: line.clone(), by_hand: false });
                self.line(format!("{}redleaf> {line}", since(Some(up))));
                if self.typist.send(line).is_err() {
                    self.reasons.push("the console can't be typed at any more".into());
                }
            }
            Deed::Freeze => {
                self.pauses.push((Moment::now(), None));
                self.line(format!("{}box stopped", since(Some(up))));
                self.freeze(true);
            }
            Deed::Thaw => self.thaw(),
            // Done by `run`, which waits for what comes of it.
            Deed::PowerLoss => {}
            Deed::Mishap(name) => {
                let what = Mishap::find(&name).map_or("", |mishap| mishap.what);
                self.line(format!("{}nic: {what}", since(Some(up))));
                self.mishaps.push((Moment::now(), name));
            }
            Deed::Command(control) => {
                if let Some(Err(error)) = self.nic.as_ref().map(|nic| nic.command(control)) {
                    self.reasons.push(error.to_string());
                }
            }
            Deed::CutOff(name) => self.connect(&name, false, up),
            Deed::Connect(name) => self.connect(&name, true, up),
        }
    }

    /// Cuts the box's power in the midst of whatever it does, gives it back at once, and waits until it serves again.
    fn lose_power(&mut self, up: Moment, text: &Receiver<String>) {
        let lost = Moment::now();
        self.line(format!("{}power lost", since(Some(up))));
        self.dark.push((lost, None));
        if let Err(error) = self.boot_again() {
            return self.reasons.push(format!("{}the box did not boot again: {error}", since(Some(up))));
        }
        let deadline = lost + self.options.lab.limits.boot;
        let (mtu, mut silent) = (self.options.mtu() as usize, self.options.services.iter().collect::<Vec<_>>());
        while self.pump(text, Some(up)) {
            if self.facts.booted.is_some() {
                let client = &self.network.client;
                silent.retain(|one| !client.run(|| Ok(one.answers(mtu))).unwrap_or(false));
                if silent.is_empty() {
                    let back = Moment::now();
                    self.dark.pop();
                    self.dark.push((lost, Some(back)));
                    return self.line(format!("{}the box serves again", since(Some(up))));
                }
            }
            if Moment::now() > deadline {
                let what = silent.first().map_or("the box", |one| one.domain.as_str());
                return self.reasons.push(format!("{what} did not come back after the power was lost"));
            }
            thread::sleep(TICK);
        }
    }

    fn boot_again(&mut self) -> Result<(), Error> {
        self.machine.cut_power();
        // The card was a part of the box.
        let _ = self.nic.as_mut().and_then(Nic::stop);
        // What it has said to its end is of this life.
        while let Ok(heard) = self.heard.recv_timeout(LAST_STATS) {
            let last = matches!(heard, Heard::Closed);
            self.facts.take(heard);
            if last {
                break;
            }
        }
        self.facts.power_lost();
        let socket = machine::nic_socket();
        let _ = std::fs::remove_file(&socket);
        if !matches!(self.options.boot, Boot::Program(_)) {
            self.nic =
                Some(Nic::serve(&self.network.nic, &socket, &self.options.box_settings, cable_mtu(self.options))?);
        }
        let (machine, lines) = Machine::start(self.options, &self.network.nic)?;
        self.machine = machine;
        let desk = self.wires.attach(lines)?;
        (self.keyboard, self.typist) = (desk.keyboard, desk.typist);
        Ok(())
    }

    /// Pulls a backend's cable, or puts it back.
    fn connect(&mut self, name: &str, connected: bool, up: Moment) {
        let Some(number) = self.options.backends.iter().position(|backend| backend.name == name) else { return };
        let now = Moment::now();
        match connected {
            true => self.watch.witness().is_back(number, now),
            false => self.watch.witness().cut_off(number, now),
        }
        self.line(format!("{}{name} is {}", since(Some(up)), if connected { "back" } else { "cut off" }));
        if let Err(error) = self.network.connect_backend(number, connected) {
            self.reasons.push(error.to_string());
        }
    }

    /// What the end of the load found cut off.
    fn connect_if_cut(&mut self, name: &str, up: Moment) {
        let open = self.watch.witness().outages.iter().any(|outage| {
            outage.to.is_none() && self.options.backends.get(outage.backend).is_some_and(|backend| backend.name == name)
        });
        if open {
            self.connect(name, true, up);
        }
    }

    fn freeze(&mut self, frozen: bool) {
        if let Err(error) = self.machine.freeze(frozen) {
            self.reasons.push(error.to_string());
        }
    }

    /// Ends a pause under way, if there is one.
    fn thaw(&mut self) {
        if matches!(self.pauses.last(), Some((_, None))) {
            self.freeze(false);
            if let Some((_, end)) = self.pauses.last_mut() {
                *end = Some(Moment::now());
            }
        }
    }

    fn show(&self, up: Moment, crowd: &Crowd, before: (Moment, u64)) -> (Moment, u64) {
        let now = Moment::now();
        let witness = self.watch.witness();
        let forwarded: u64 = witness.backends.iter().map(|seen| seen.from_box).sum();
        let rate = (forwarded.saturating_sub(before.1)) as f64 / now.since(before.0).as_secs_f64().max(1e-3);
        let names = self.options.backends.iter().map(|backend| backend.name.clone());
        let mut status = Status {
            phase: "under load".into(),
            elapsed_s: now.since(up).as_secs_f64(),
            duration_s: self.options.duration.map(|duration| duration.as_secs_f64()),
            domains: self.facts.domains.values().cloned().collect(),
            packets_per_s: if before.0 == Moment(0) { 0.0 } else { rate },
            moved: witness.moves.len() as u64,
            connections: names.zip(witness.backends.iter().map(|seen| seen.connections)).collect(),
            crashes: self.facts.crashes.len(),
            ..Status::default()
        };
        drop(witness);
        if let Some(load) = &crowd.load {
            let tally = load.tally();
            (status.completed, status.failed, status.broken) = (tally.completed(), tally.failed(), tally.broken);
        }
        if let Some(customers) = &crowd.customers {
            let dealings = customers.dealings();
            status.completed += dealings.exchanges;
            status.failed += dealings.failed();
            status.broken += dealings.broken();
        }
        (self.say)(News::Status(Box::new(status)));
        (now, forwarded)
    }

    /// Lets what is under way end, then cuts the box off and takes its last statistics, so that all counts are of the same frames. False if the box
    /// didn't live so long.
    fn settle(&mut self, crowd: &Crowd, probe: Option<&mut Probe>, text: &Receiver<String>) -> Result<bool, Error> {
        (self.say)(News::Status(Box::new(Status { phase: "settling".into(), ..Status::default() })));
        // From here on an interruption would only cost the report.
        self.stopped_early = false;
        crowd.stop();
        let deadline = Moment::now() + load::STALLED + Duration::from_secs(10);
        while !crowd.ended() && self.pump(text, None) && Moment::now() < deadline {
            thread::sleep(TICK);
        }
        let deadline = Moment::now() + LAST_RECOVERY;
        while self.facts.crashes.iter().any(|(_, crash)| self.facts.recovery_of(crash).is_none())
            && Moment::now() < deadline
        {
            if !self.pump(text, None) {
                break;
            }
            thread::sleep(TICK);
        }
        if let Some(probe) = probe {
            probe.stop();
        }
        self.reasons.extend(self.servers.iter_mut().filter_map(Server::ended));
        // FINs and the last acknowledgements. Whatever is said after that is no matter of the box's.
        self.wait(Duration::from_millis(500), text);
        self.network.cut_router()?;
        self.wait(Duration::from_millis(100), text);
        // The box goes on asking for its neighbours: what it sends from here on reaches nobody.
        let before = self.nic.as_ref().map(|nic| nic.report().tx);
        self.network.unplug()?;
        self.sent = before.zip(self.nic.as_ref().map(|nic| nic.report().tx));
        let heard = self.facts.stats_heard;
        let deadline = Moment::now() + LAST_STATS;
        // The first after this moment may have been written before it.
        while self.facts.stats_heard < heard + 2 && Moment::now() < deadline && self.pump(text, None) {
            thread::sleep(TICK);
        }
        Ok(self.pump(text, None) && crowd.ended())
    }

    fn wait(&mut self, length: Duration, text: &Receiver<String>) {
        let end = Moment::now() + length;
        while Moment::now() < end && self.pump(text, None) {
            thread::sleep(TICK);
        }
    }

    fn nic_report(&self) -> Option<NicReport> {
        match &self.nic {
            Some(nic) => Some(nic.report()),
            None => {
                let told =
                    |nic: NicFacts| NicReport { rx: nic.rx, missed: nic.missed, tx: nic.tx, ..Default::default() };
                self.facts.nic.map(told)
            }
        }
    }

    fn exchange(&self, typed: &Typed, up: Moment) -> Exchange {
        Exchange { at_ms: judge::millis(typed.at.since(up)), line: typed.line.clone(), reply: typed.reply.clone() }
    }
}

fn offered(vip: &Vip) -> witness::Service {
    witness::Service { address: vip.address, port: vip.port, protocol: vip.protocol }
}

/// The run's clock, for lines that are shown.
fn since(up: Option<Moment>) -> String {
    up.map_or_else(String::new, |up| format!("{:7.3} s  ", Moment::now().since(up).as_secs_f64()))
}
