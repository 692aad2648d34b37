//! A stand-in for the box: answers ARP for the VIPs and itself, gives each connection to a backend by a hash, rewrites MACs. It keeps the
//! box's manners on console and feed, and misbehaves in one way if `LAB_MISBEHAVIOUR` says so.

use crate::wire::Wire;
use lab::{Protocol, RunOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::time::{Duration, Instant};

/// How a stand-in errs.
pub const MISBEHAVIOUR: &str = "LAB_MISBEHAVIOUR";

/// How long a domain of the stand-in is away after a crash.
pub const RESTART: Duration = Duration::from_millis(80);

/// Without its check sequence.
const LONGEST: usize = 1514;
/// Between two questions to each backend.
const PACE: Duration = Duration::from_millis(200);
/// A backend is believed to be there until so many questions have had no answer: time in which the stand-in itself stood still counts for nothing.
const PATIENCE: u32 = 4;

type Mac = [u8; 6];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Misbehaviour {
    None,
    /// Loses one frame in five hundred and doesn't count it.
    Lose,
    /// Gives connections to other backends after some seconds.
    Move,
    /// Exchanges two words of a long segment, so that all checksums stay right.
    Corrupt,
    /// Takes a second to come back from a crash.
    Slow,
    /// Crashes of its own accord.
    Crash,
    /// Ends of its own accord.
    Die,
    /// Has a page more after each crash.
    Grow,
}

#[derive(Default)]
struct Counts {
    received: u64,
    missed: u64,
    sent: u64,
    forwarded: u64,
    answered: u64,
    learned: u64,
    strange: u64,
}

struct Director {
    options: RunOptions,
    misbehaviour: Misbehaviour,
    wire: Wire,
    feed: UnixStream,
    console: UnixStream,
    started: Instant,
    /// By backend: its link address, and how often it was asked since it was last heard.
    macs: HashMap<Ipv4Addr, (Mac, u32)>,
    /// By flow: the backend that it was given to.
    flows: HashMap<u64, Ipv4Addr>,
    counts: Counts,
    generations: HashMap<String, u64>,
    /// The domain that is down, since when, and until when.
    down: Option<(String, Instant)>,
    moved: bool,
    /// Frames that could have been spoilt.
    tempted: u32,
}

pub fn play() -> ! {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the lab"));
    let options: RunOptions = serde_json::from_slice(&std::fs::read(variable("LAB_OPTIONS")).unwrap()).unwrap();
    let misbehaviour = match std::env::var(MISBEHAVIOUR).as_deref() {
        Ok("lose") => Misbehaviour::Lose,
        Ok("move") => Misbehaviour::Move,
        Ok("corrupt") => Misbehaviour::Corrupt,
        Ok("slow") => Misbehaviour::Slow,
        Ok("crash") => Misbehaviour::Crash,
        Ok("die") => Misbehaviour::Die,
        Ok("grow") => Misbehaviour::Grow,
        Ok(other) => panic!("no such misbehaviour: {other}"),
        Err(_) => Misbehaviour::None,
    };
    let mut director = Director {
        options,
        misbehaviour,
        wire: Wire::open(&variable("LAB_NIC")).unwrap(),
        feed: UnixStream::connect(variable("LAB_FEED")).unwrap(),
        console: UnixStream::connect(variable("LAB_CONSOLE")).unwrap(),
        started: Instant::now(),
        macs: HashMap::new(),
        flows: HashMap::new(),
        counts: Counts::default(),
        generations: [("lb".to_owned(), 1), ("ixgbe0".to_owned(), 1)].into(),
        down: None,
        moved: false,
        tempted: 0,
    };
    director.serve();
    exit(0)
}

impl Director {
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64 + 1
    }

    fn tell(&mut self, event: serde_json::Value) {
        // A lab that is gone takes the stand-in with it.
        let _ = self.feed.write_all(format!("{event}\n").as_bytes());
    }

    fn serve(&mut self) {
        self.console.set_nonblocking(true).unwrap();
        self.console.write_all(b"stand-in\r\nredleaf> ").unwrap();
        let mut booted = false;
        let mut asked = None::<Instant>;
        let mut told = Instant::now();
        let mut line = String::new();
        loop {
            let mut fds = [
                PollFd::new(self.wire.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.console.as_fd(), PollFlags::POLLIN),
            ];
            // A frame wakes us; while a domain is down frames wait in the socket, as they would in the NIC.
            let waited = if self.down.is_some() {
                poll(&mut fds[1..], PollTimeout::from(5u8))
            } else {
                poll(&mut fds, PollTimeout::from(20u8))
            };
            waited.unwrap();
            self.type_in(&mut line);
            self.come_back();
            if self.down.is_none() {
                self.take_frames();
            }
            // What is sent before the cable is plugged in, or after it has been pulled out, would be counted and reach nobody.
            if asked.is_none_or(|at| at.elapsed() > PACE) && self.wire.plugged_in() {
                asked = Some(Instant::now());
                for backend in self.options.backends.clone() {
                    self.ask_for(backend.ip);
                }
            }
            if !booted && self.macs.len() >= self.options.backends.len() {
                booted = true;
                let at_ns = self.now_ns();
                self.tell(serde_json::json!({"event": "booted", "at_ns": at_ns, "boot_ms": at_ns as f64 / 1e6}));
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                self.tell_statistics();
                self.misbehave();
            }
        }
    }

    fn tell_statistics(&mut self) {
        self.counts.missed += self.wire.missed();
        let c = &self.counts;
        let domain = |name: &str, counters: serde_json::Value| {
            let generation = self.generations[name];
            serde_json::json!({"name": name, "state": "live", "generation": generation, "restarts": generation - 1, "pages": 40, "counters": counters})
        };
        let counters = serde_json::json!({
            "received": c.received, "forwarded": c.forwarded, "answered": c.answered, "drop.learned": c.learned, "drop.not-served": c.strange,
        });
        let nic = serde_json::json!({"event": "nic", "rx": c.received, "missed": c.missed, "tx": c.sent});
        let domains = [domain("lb", counters), domain("ixgbe0", serde_json::json!({}))];
        let stats = serde_json::json!({"event": "stats", "at_ns": self.now_ns(), "domains": domains, "cpus": [{"packets": c.received}]});
        self.tell(nic);
        self.tell(stats);
    }

    /// Misdeeds that need no frame.
    fn misbehave(&mut self) {
        let age = self.started.elapsed();
        match self.misbehaviour {
            Misbehaviour::Move => self.moved = age > Duration::from_secs(4),
            Misbehaviour::Crash if age > Duration::from_secs(3) && self.generations["ixgbe0"] == 1 => {
                self.crash("ixgbe0", "page-fault");
            }
            Misbehaviour::Die if age > Duration::from_secs(3) => {
                eprintln!("the stand-in has had enough");
                exit(7);
            }
            _ => {}
        }
    }

    /// Whether this frame is one that the misbehaviour spoils.
    fn spoils(&mut self, length: usize) -> bool {
        self.tempted += 1;
        match self.misbehaviour {
            Misbehaviour::Lose => self.tempted.is_multiple_of(500),
            Misbehaviour::Corrupt => length > 1000 && self.tempted.is_multiple_of(100),
            _ => false,
        }
    }

    fn type_in(&mut self, line: &mut String) {
        let mut piece = [0; 256];
        while let Ok(read @ 1..) = self.console.read(&mut piece) {
            for byte in &piece[..read] {
                let _ = self.console.write_all(&[*byte]);
                if *byte != b'\n' {
                    line.push(char::from(*byte));
                    continue;
                }
                let reply = self.obey(&std::mem::take(line));
                let _ = self.console.write_all(format!("{reply}\r\nredleaf> ").as_bytes());
            }
        }
    }

    fn obey(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["crash", domain, kind @ ..] if self.generations.contains_key(*domain) => {
                self.crash(domain, kind.first().unwrap_or(&"panic"));
                format!("{domain} will crash at its next visit")
            }
            ["crash", domain, ..] => format!("error: there is no domain \"{domain}\""),
            ["domains"] => "lb running\r\nixgbe0 running".into(),
            ["backend", name, "drain"] => format!("{name} keeps its connections"),
            _ => "error: no such command".into(),
        }
    }

    fn crash(&mut self, domain: &str, reason: &str) {
        let at_ns = self.now_ns();
        let generation = self.generations[domain];
        self.tell(serde_json::json!({
            "event": "crash", "domain": domain, "reason": reason, "generation": generation, "at_ns": at_ns, "cpu": 0,
            "chain": ["lb", domain], "last_words": "as asked", "pages_before": 40,
        }));
        self.down = Some((domain.to_owned(), Instant::now()));
    }

    fn come_back(&mut self) {
        let away = if self.misbehaviour == Misbehaviour::Slow { Duration::from_secs(1) } else { RESTART };
        let Some((domain, _)) = self.down.take_if(|(_, since)| since.elapsed() >= away) else { return };
        let generation = self.generations.get_mut(&domain).unwrap();
        *generation += 1;
        let generation = *generation;
        let at_ns = self.now_ns();
        let pages = if self.misbehaviour == Misbehaviour::Grow { 40 + generation } else { 40 };
        self.tell(serde_json::json!({"event": "recovered", "domain": domain, "generation": generation, "at_ns": at_ns, "pages_after": pages}));
    }

    fn take_frames(&mut self) {
        let mut buffer = [0; 8192];
        for _ in 0..256 {
            let Some(length) = self.wire.receive(&mut buffer) else { return };
            self.counts.received += 1;
            self.direct(&mut buffer[..length]);
        }
    }

    fn direct(&mut self, frame: &mut [u8]) {
        match frame.get(12..14) {
            // What a card's MAC would not take.
            _ if frame.len() > LONGEST => self.counts.strange += 1,
            Some([0x08, 0x06]) if frame.len() >= 42 => self.arp(frame),
            Some([0x08, 0x00]) if frame.len() >= 34 => self.ip(frame),
            _ => self.counts.strange += 1,
        }
    }

    fn owns(&self, address: Ipv4Addr) -> bool {
        address == self.options.box_settings.ip || self.options.vips.iter().any(|vip| vip.address == address)
    }

    fn arp(&mut self, frame: &mut [u8]) {
        let (sender_mac, sender, target) = (mac(frame, 22), address(frame, 28), address(frame, 38));
        let possible = sender_mac[0] & 1 == 0 && sender_mac != [0; 6];
        if possible && self.options.backends.iter().any(|backend| backend.ip == sender) {
            self.macs.insert(sender, (sender_mac, 0));
        }
        if frame[21] == 1 && self.owns(target) {
            let reply = arp(2, (self.options.box_settings.mac, target), (sender_mac, sender), sender_mac);
            self.send(&reply);
            self.counts.answered += 1;
        } else {
            self.counts.learned += 1;
        }
    }

    fn ask_for(&mut self, backend: Ipv4Addr) {
        if let Some((_, unanswered)) = self.macs.get_mut(&backend) {
            *unanswered += 1;
        }
        let settings = &self.options.box_settings;
        let request = arp(1, (settings.mac, settings.ip), ([0; 6], backend), [0xff; 6]);
        self.send(&request);
    }

    fn ip(&mut self, frame: &mut [u8]) {
        if !is_sound(frame) {
            return self.counts.strange += 1;
        }
        let (source, destination) = (address(frame, 26), address(frame, 30));
        let ports = 14 + usize::from(frame[14] & 0xf) * 4;
        let protocol = match frame[23] {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return self.counts.strange += 1,
        };
        let Some(&[a, b, c, d]) = frame.get(ports..ports + 4) else { return self.counts.strange += 1 };
        let port = u16::from_be_bytes([c, d]);
        let vip =
            self.options.vips.iter().find(|vip| (vip.address, vip.port, vip.protocol) == (destination, port, protocol));
        let Some(vip) = vip else { return self.counts.strange += 1 };
        let mut hash = DefaultHasher::new();
        (source, a, b, destination, port, protocol).hash(&mut hash);
        let flow = hash.finish();
        let Some(to) = self.choose(flow, &vip.backends.clone()) else { return self.counts.strange += 1 };
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&self.options.box_settings.mac);
        if self.spoils(frame.len()) {
            if self.misbehaviour == Misbehaviour::Lose {
                return;
            }
            let end = frame.len() & !1;
            frame.swap(end - 4, end - 8);
            frame.swap(end - 3, end - 7);
        }
        self.counts.forwarded += 1;
        self.send(frame);
    }

    /// The backend that a flow has, while that is heard; else one by its hash of those that are.
    fn choose(&mut self, flow: u64, names: &[String]) -> Option<Mac> {
        let alive = |(mac, unanswered): &(Mac, u32)| (*unanswered < PATIENCE).then_some(*mac);
        let known = self.flows.get(&flow).and_then(|backend| self.macs.get(backend)).and_then(alive);
        if let Some(mac) = known.filter(|_| self.misbehaviour != Misbehaviour::Move) {
            return Some(mac);
        }
        let members = self.options.backends.iter().filter(|backend| names.contains(&backend.name));
        let living: Vec<_> =
            members.filter_map(|backend| Some((backend.ip, alive(self.macs.get(&backend.ip)?)?))).collect();
        let (backend, mac) = *living.get((flow as usize + usize::from(self.moved)) % living.len().max(1))?;
        self.flows.insert(flow, backend);
        Some(mac)
    }

    fn send(&mut self, frame: &[u8]) {
        self.counts.sent += u64::from(self.wire.send(frame));
    }
}

fn mac(frame: &[u8], at: usize) -> Mac {
    frame[at..at + 6].try_into().unwrap()
}

fn address(frame: &[u8], at: usize) -> Ipv4Addr {
    let octets: [u8; 4] = frame[at..at + 4].try_into().unwrap();
    octets.into()
}

/// Whether the IPv4 header is one that a bridge passes on: where the host filters bridged frames, it looks at them as a router would (RFC 1812 §5.2.2).
fn is_sound(frame: &[u8]) -> bool {
    let length = usize::from(frame[14] & 0xf) * 4;
    let Some(header) = frame.get(14..14 + length.max(20)) else { return false };
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[14] >> 4 == 4
        && length == 20
        && (20..=frame.len() - 14).contains(&total)
        && (folded & 0xffff) + (folded >> 16) == 0xffff
}

/// RFC 826.
fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr), to: Mac) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(sender.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    frame.resize(60, 0);
    frame
}
