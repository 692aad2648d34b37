//! Clients of what the box serves at its own addresses: each checks every byte of every answer, and says what became of its connections.
//!
//! What is promised of a crash depends on whose it is, and is judged in `judge::services`.

mod history;
mod speech;

pub use history::History;

use crate::clock::Moment;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::{RunOptions, Service};
use history::Recorder;
use speech::Speaker;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(15);
/// Nor is an answer to a datagram that takes longer than this.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(2);
/// How long a box that is only just up may take.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
/// Pause before a lost connection is opened anew.
const REOPEN: Duration = Duration::from_millis(50);
/// Between two datagrams of a service's client.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(100);

/// What became of one connection, or of one attempt at it; or of a datagram that asked something.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub kind: Kind,
    /// By its place in the options.
    pub service: usize,
    pub begun: Moment,
    pub ended: Moment,
    /// None: every byte was right.
    pub failure: Option<String>,
    /// Whether it had been established before it failed.
    pub was_open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KeepAlive,
    Short,
    Datagram,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::KeepAlive => "service_keep_alive",
            Kind::Short => "service_short",
            Kind::Datagram => "service_datagram",
        }
    }
}

/// All that the clients have come by.
#[derive(Debug, Clone, Default)]
pub struct Dealings {
    pub opened: u64,
    pub exchanges: u64,
    pub outcomes: Vec<Outcome>,
    /// What was asked of shared keys, by service.
    pub histories: Vec<History>,
}

impl Dealings {
    pub fn failed(&self) -> u64 {
        self.outcomes.iter().filter(|one| one.failure.is_some()).count() as u64
    }

    pub fn broken(&self) -> u64 {
        self.outcomes.iter().filter(|one| one.failure.is_some() && one.was_open).count() as u64
    }
}

/// The running clients.
pub struct Customers {
    dealings: Arc<Mutex<Dealings>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// One of them.
#[derive(Clone)]
struct Customer {
    service: Service,
    number: usize,
    mtu: usize,
    dealings: Arc<Mutex<Dealings>>,
    stop: Arc<AtomicBool>,
}

impl Service {
    /// Where it is, for messages.
    pub fn at(&self) -> String {
        let at = |address: &IpAddr| SocketAddr::new(*address, self.port).to_string();
        self.addresses.iter().map(at).collect::<Vec<_>>().join(" and ")
    }

    /// Whether it answers, at each of its addresses, over links of that MTU.
    pub fn answers(&self, mtu: usize) -> bool {
        let mut random = fastrand::Rng::new();
        self.addresses.iter().all(|&address| {
            let mut attempt = || {
                let mut stream = connect(self, address, FIRST_PATIENCE)?;
                Speaker { kind: self.kind, history: None, mtu }.exchange(&mut stream, &mut random)?;
                finish(&mut stream)
            };
            attempt().is_ok()
        })
    }
}

impl Customers {
    /// Starts clients of all services in the client's namespace; `None` if there is no service.
    pub fn start(client: &Namespace, options: &RunOptions) -> Result<Option<Self>, Error> {
        if options.services.is_empty() {
            return Ok(None);
        }
        let histories = options.services.iter().map(|_| History::default()).collect();
        let dealings = Arc::new(Mutex::new(Dealings { histories, ..Dealings::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let load = &options.lab.load;
        for (number, service) in options.services.iter().enumerate() {
            let (dealings, stop) = (dealings.clone(), stop.clone());
            let one = Customer { service: service.clone(), number, mtu: options.mtu() as usize, dealings, stop };
            for turn in 0..load.keep_alive as usize {
                let (one, think) = (one.clone(), load.think_time);
                threads.push(client.spawn(&format!("keep{turn}"), move || one.keep_alive(turn, think))?);
            }
            if load.short_rate > 0 {
                let (one, pause) = (one.clone(), Duration::from_secs(1) / load.short_rate);
                threads.push(client.spawn("short", move || one.short(pause))?);
            }
            // Where the lab has no clients of its own there are none of this kind either: whoever brings some has the box to itself.
            let own = load.keep_alive > 0 || load.short_rate > 0;
            if let Some(port) = service.udp_port.filter(|_| own) {
                threads.push(client.spawn("datagrams", move || one.datagrams(port))?);
            }
        }
        Ok(Some(Self { dealings, stop, threads }))
    }

    pub fn dealings(&self) -> MutexGuard<'_, Dealings> {
        self.dealings.lock().expect("no client panics while counting")
    }

    /// Begins nothing more; what is under way may end, and does so within [`PATIENCE`] and a little.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn ended(&self) -> bool {
        self.threads.iter().all(thread::JoinHandle::is_finished)
    }
}

impl Customer {
    fn dealings(&self) -> MutexGuard<'_, Dealings> {
        self.dealings.lock().expect("no client panics while counting")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The addresses take turns.
    fn address(&self, turn: usize) -> IpAddr {
        self.service.addresses[turn % self.service.addresses.len()]
    }

    fn speaker(&self) -> Speaker<'_> {
        let history = Some(Recorder { dealings: &self.dealings, service: self.number });
        Speaker { kind: self.service.kind, history, mtu: self.mtu }
    }

    fn count(&self, kind: Kind, begun: Moment, was_open: bool, failure: Option<String>) {
        let outcome = Outcome { kind, service: self.number, begun, ended: Moment::now(), failure, was_open };
        self.dealings().outcomes.push(outcome);
    }

    /// One connection after the other, each kept as long as it lives.
    fn keep_alive(&self, turn: usize, think: Duration) {
        let mut random = fastrand::Rng::new();
        while !self.stopped() {
            let (begun, mut was_open) = (Moment::now(), false);
            let failure = self.converse(self.address(turn), &mut random, Some(think), &mut was_open).err();
            let failed = failure.is_some();
            self.count(Kind::KeepAlive, begun, was_open, failure);
            if failed {
                thread::sleep(REOPEN);
            }
        }
    }

    /// A connection for one exchange, or for exchange after exchange with `think` in between.
    fn converse(
        &self,
        address: IpAddr,
        random: &mut fastrand::Rng,
        think: Option<Duration>,
        was_open: &mut bool,
    ) -> Result<(), String> {
        let mut stream = connect(&self.service, address, PATIENCE)?;
        *was_open = true;
        self.dealings().opened += 1;
        loop {
            self.speaker().exchange(&mut stream, random)?;
            self.dealings().exchanges += 1;
            match think {
                Some(think) if !self.stopped() => thread::sleep(think),
                _ => return finish(&mut stream),
            }
        }
    }

    /// A new connection every `pause`, for one exchange, whatever became of the earlier ones: so each has a thread of its own, in this one's namespace.
    fn short(self, pause: Duration) {
        let customer = Arc::new(self);
        let mut under_way: Vec<thread::JoinHandle<()>> = Vec::new();
        for turn in 0.. {
            if customer.stopped() {
                break;
            }
            let one = customer.clone();
            under_way.push(thread::spawn(move || {
                let (begun, mut was_open) = (Moment::now(), false);
                let failure = one.converse(one.address(turn), &mut fastrand::Rng::new(), None, &mut was_open).err();
                one.count(Kind::Short, begun, was_open, failure);
            }));
            under_way.retain(|one| !one.is_finished());
            thread::sleep(pause);
        }
        for one in under_way {
            // A client that panicked has been heard of by its message.
            let _ = one.join();
        }
    }

    /// One datagram after the other, each with its answer.
    fn datagrams(&self, port: u16) {
        let mut random = fastrand::Rng::new();
        for turn in 0.. {
            if self.stopped() {
                return;
            }
            let begun = Moment::now();
            let failure = self.ask_by_datagram((self.address(turn), port).into(), &mut random).err();
            if failure.is_none() {
                self.dealings().exchanges += 1;
            }
            self.count(Kind::Datagram, begun, false, failure);
            thread::sleep(DATAGRAM_PAUSE);
        }
    }

    fn ask_by_datagram(&self, to: SocketAddr, random: &mut fastrand::Rng) -> Result<(), String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {}", error.kind());
        let here: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
        let socket = UdpSocket::bind((here, 0)).map_err(failed("datagram socket"))?;
        socket.connect(to).map_err(failed("datagram socket"))?;
        socket.set_read_timeout(Some(DATAGRAM_PATIENCE)).map_err(failed("datagram socket"))?;
        let (question, wanted) = self.service.kind.datagram(self.mtu, random);
        socket.send(&question).map_err(failed("send a datagram"))?;
        let mut answer = vec![0; wanted.len() + 1];
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == wanted => Ok(()),
            Ok(_) => Err("the answer to a datagram isn't what is due".into()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err("a datagram was not answered".into())
            }
            Err(error) => Err(failed("receive a datagram")(error)),
        }
    }
}

fn connect(service: &Service, address: IpAddr, patience: Duration) -> Result<TcpStream, String> {
    let address = SocketAddr::new(address, service.port);
    let stream = TcpStream::connect_timeout(&address, patience).map_err(|error| format!("connect: {error}"))?;
    let set = stream.set_read_timeout(Some(patience)).and(stream.set_write_timeout(Some(patience)));
    set.and(stream.set_nodelay(true)).map_err(|error| format!("socket: {error}"))?;
    Ok(stream)
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
