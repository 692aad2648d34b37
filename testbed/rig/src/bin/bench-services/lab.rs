//! The load generator where the lab's clients are: real connections, requests at a fixed rate whatever became of the earlier ones, a fixed number of them; and before each stretch
//! of load one of equal length without any, in the same life of the machine. What counts is how many instructions the machine in the box's place has executed meanwhile.
//!
//! `bench-services lab kv|httpd|maglev SIDE --server ADDRESS:PORT --counter FOLDER [--content FILE] [--rate N] [--requests N] [--report FILE]`

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use counter::Counter;
use rig::bench::{Row, median, percentile};

use crate::{
    FEWER,
    client::{Question, Wrong},
    workload::{self, Workload},
};

/// Connections that stay open; of those that don't, so many are there at most.
const CONNECTIONS: usize = 32;
/// Requests a second, and in one stretch of load, if the command line says nothing else; of long answers [`FEWER`] times fewer.
const RATE: u32 = 200;
const REQUESTS: usize = 600;
/// Stretches of load for each workload.
const SAMPLES: usize = 3;
/// Of what a store is asked natively: what takes no longer than there is time for.
const STORE: [&str; 3] = ["set-small", "get-small", "get-4k"];
/// From the threads' start to the first request.
const LEAD: Duration = Duration::from_millis(50);
/// What load leaves behind (acknowledgements that wait, polling that ends) is a part of it.
const SETTLE: Duration = Duration::from_millis(250);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Kv,
    Httpd,
    Maglev,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Kv => "kv",
            Service::Httpd => "httpd",
            Service::Maglev => "maglev",
        }
    }
}

pub struct Request {
    service: Service,
    /// What the rows call the one who is measured.
    side: String,
    server: SocketAddr,
    /// Where the counter's socket is.
    counter: PathBuf,
    /// What the balancer's backends serve.
    content: Option<PathBuf>,
    rate: u32,
    requests: usize,
    pub report: Option<PathBuf>,
}

impl Request {
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Option<Request> {
        let named = arguments.next()?;
        let service = [Service::Kv, Service::Httpd, Service::Maglev].into_iter().find(|one| one.name() == named)?;
        let side = arguments.next()?;
        let (mut server, mut counter, mut content, mut report) = (None, None, None, None);
        let (mut rate, mut requests) = (RATE, REQUESTS);
        while let Some(flag) = arguments.next() {
            let value = arguments.next()?;
            match flag.as_str() {
                "--server" => server = Some(value.parse().ok()?),
                "--counter" => counter = Some(value.into()),
                "--content" => content = Some(value.into()),
                "--rate" => rate = value.parse().ok().filter(|rate| *rate > 0)?,
                "--requests" => requests = value.parse().ok().filter(|count| *count > 0)?,
                "--report" => report = Some(value.into()),
                _ => return None,
            }
        }
        Some(Request { service, side, server: server?, counter: counter?, content, rate, requests, report })
    }
}

/// What is asked, and how.
struct Task {
    workload: Workload,
    /// Each request has a connection of its own.
    short: bool,
    rate: u32,
    requests: usize,
}

/// One stretch of load, and the one without load before it.
struct Sample {
    requests: usize,
    /// Instructions of all CPUs, and seconds.
    idle: (u64, f64),
    loaded: (u64, f64),
    /// From the moment when a request was due to its answer's last byte.
    latencies: Vec<Duration>,
}

impl Sample {
    /// All that the machine executed while it had load.
    fn whole(&self) -> f64 {
        self.loaded.0 as f64 / self.requests as f64
    }

    /// Instructions a second without load.
    fn idle_rate(&self) -> f64 {
        self.idle.0 as f64 / self.idle.1
    }

    /// Requests a second that were answered: fewer than were offered if the machine couldn't keep up.
    fn answered(&self) -> f64 {
        self.requests as f64 / (self.loaded.1 - (LEAD + SETTLE).as_secs_f64())
    }

    /// Without what it would have executed in the same time without load.
    fn beyond_idle(&self) -> f64 {
        (self.loaded.0 as f64 - self.idle_rate() * self.loaded.1) / self.requests as f64
    }
}

/// Connects, stores what will be asked for, and measures; the rows.
pub fn measure(request: &Request) -> Result<Vec<Row>, String> {
    let counter = Counter::at(&request.counter);
    let mut connections = (0..CONNECTIONS)
        .map(|_| connect(request.server))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| format!("{} takes no connection: {error}", request.server))?;
    let tasks = tasks(request, &mut connections)?;
    let mut rows = Vec::new();
    for task in tasks {
        let failed = |wrong: String| format!("{}: {wrong}", task.workload.name);
        let mut samples = Vec::new();
        for turn in 0..=SAMPLES {
            let sample = sample(&counter, request.server, &mut connections, &task).map_err(failed)?;
            // The first warms up: caches of translated code, windows of congestion.
            if turn > 0 {
                samples.push(sample);
            }
        }
        rows.extend(rows_of(request, &task, &samples));
    }
    Ok(rows)
}

fn tasks(request: &Request, connections: &mut [TcpStream]) -> Result<Vec<Task>, String> {
    let task = |workload: Workload, short| {
        let long =
            [&workload.questions[0].answer, &workload.questions[0].request].iter().any(|bytes| bytes.len() > 16 << 10);
        let (rate, requests) = match long {
            true => (request.rate.div_ceil(FEWER as u32), request.requests.div_ceil(FEWER)),
            false => (request.rate, request.requests),
        };
        Task { workload, short, rate, requests }
    };
    match request.service {
        Service::Kv => {
            let mut workloads = workload::of_store();
            for stores in &workloads[..2] {
                let all: Vec<&Question> = stores.questions.iter().collect();
                ask_all(request.server, connections, &all, None, false)?;
            }
            workloads.retain(|workload| STORE.contains(&workload.name));
            Ok(workloads.into_iter().map(|workload| task(workload, false)).collect())
        }
        Service::Httpd => {
            let workloads = workload::of_site(&mut |asked, complete| first(&mut connections[0], asked, complete))?;
            Ok(workloads.into_iter().map(|workload| task(workload, false)).collect())
        }
        Service::Maglev => {
            let file = request.content.as_ref().ok_or("what the backends serve isn't said")?;
            let content = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let asked = |name, question: &Question| Workload { name, questions: vec![question.clone()] };
            let question =
                workload::of_backends(&mut |asked, complete| first(&mut connections[0], asked, complete), &content)?;
            Ok(vec![task(asked("keep-alive", &question), false), task(asked("short", &question), true)])
        }
    }
}

fn sample(counter: &Counter, server: SocketAddr, connections: &mut [TcpStream], task: &Task) -> Result<Sample, String> {
    let questions: Vec<&Question> = task.workload.sequence().take(task.requests).collect();
    let (idle, ()) = counted(counter, || {
        thread::sleep(Duration::from_secs(task.requests as u64) / task.rate);
        Ok(())
    })?;
    let (loaded, latencies) =
        counted(counter, || ask_all(server, connections, &questions, Some(task.rate), task.short))?;
    Ok(Sample { requests: questions.len(), idle, loaded, latencies })
}

/// How many instructions were executed meanwhile, in how many seconds.
fn counted<T>(counter: &Counter, work: impl FnOnce() -> Result<T, String>) -> Result<((u64, f64), T), String> {
    let read = || counter.read().map(|cpus| cpus.iter().sum::<u64>()).map_err(|error| error.to_string());
    let (before, begun) = (read()?, Instant::now());
    let result = work()?;
    thread::sleep(SETTLE);
    let (after, took) = (read()?, begun.elapsed());
    Ok(((after - before, took.as_secs_f64()), result))
}

/// Asks these, in turn by each connection: one after the other, or each when it is due; how long each took from then on.
fn ask_all(
    server: SocketAddr,
    connections: &mut [TcpStream],
    questions: &[&Question],
    rate: Option<u32>,
    short: bool,
) -> Result<Vec<Duration>, String> {
    let begin = Instant::now() + LEAD;
    let wrong = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let count = connections.len();
    let ask_own = |own: usize, stream: &mut TcpStream| {
        let mut latencies = Vec::new();
        for at in (own..questions.len()).step_by(count) {
            let due = rate.map_or_else(Instant::now, |rate| begin + Duration::from_secs(at as u64) / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let answered = match short {
                true => by_itself(server, questions[at]),
                false => exchange(stream, questions[at]),
            };
            if failed.load(Relaxed) {
                break;
            }
            if let Err(reason) = answered {
                failed.store(true, Relaxed);
                *wrong.lock().expect("nobody panics with it") = Some(reason);
                break;
            }
            latencies.push(due.elapsed());
        }
        latencies
    };
    let latencies = thread::scope(|scope| {
        let ask_own = &ask_own;
        let asking: Vec<_> =
            connections.iter_mut().enumerate().map(|(own, stream)| scope.spawn(move || ask_own(own, stream))).collect();
        asking.into_iter().flat_map(|one| one.join().expect("who asks doesn't panic")).collect()
    });
    match wrong.into_inner().expect("nobody panics with it") {
        None => Ok(latencies),
        Some(reason) => Err(reason),
    }
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection for one request, ended in good order.
fn by_itself(server: SocketAddr, question: &Question) -> Result<(), String> {
    let failed = |error: io::Error| format!("a connection of its own: {error}");
    let mut stream = connect(server).map_err(failed)?;
    exchange(&mut stream, question)?;
    stream.shutdown(Shutdown::Write).map_err(failed)?;
    match stream.read(&mut [0]).map_err(failed)? {
        0 => Ok(()),
        _ => Err("more than the answer".into()),
    }
}

/// A request, and its answer byte by byte.
fn exchange(stream: &mut TcpStream, question: &Question) -> Result<(), String> {
    let silent = |at| move |error: io::Error| format!("no answer after byte {at}: {error}");
    stream.write_all(&question.request).map_err(silent(0))?;
    let mut bytes = vec![0; question.answer.len().min(64 << 10)];
    let mut got = 0;
    while got < question.answer.len() {
        let length = stream.read(&mut bytes).map_err(silent(got))?;
        if length == 0 {
            return Err(Wrong { request: question.request.clone(), at: got, given: vec![] }.to_string());
        }
        question.check(got, &bytes[..length]).map_err(|wrong| wrong.to_string())?;
        got += length;
    }
    Ok(())
}

/// A request whose answer isn't known yet.
fn first(stream: &mut TcpStream, request: &[u8], complete: &dyn Fn(&[u8]) -> bool) -> Result<Vec<u8>, Wrong> {
    let mut got = Vec::new();
    let wrong = |got: &[u8]| Wrong { request: request.to_vec(), at: got.len(), given: vec![] };
    stream.write_all(request).map_err(|_| wrong(&[]))?;
    let mut bytes = vec![0; 64 << 10];
    while !complete(&got) {
        match stream.read(&mut bytes) {
            Ok(length @ 1..) => got.extend_from_slice(&bytes[..length]),
            _ => return Err(wrong(&got)),
        }
    }
    Ok(got)
}

fn rows_of(request: &Request, task: &Task, samples: &[Sample]) -> Vec<Row> {
    let name = format!("{}.{}.{}", request.service.name(), task.workload.name, request.side);
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
    let latencies = || -> Vec<f64> {
        samples.iter().flat_map(|sample| &sample.latencies).map(|took| took.as_secs_f64() * 1e6).collect()
    };
    [
        ("instructions", of(Sample::whole), "instructions/request"),
        ("instructions_beyond_idle", of(Sample::beyond_idle), "instructions/request"),
        ("instructions_idle", of(Sample::idle_rate), "instructions/s"),
        ("offered", f64::from(task.rate), "requests/s"),
        ("answered", of(Sample::answered), "requests/s"),
        ("requests", samples.iter().map(|sample| sample.requests as f64).sum(), "requests"),
        ("latency", median(latencies()), "us"),
        ("latency_p90", percentile(latencies(), 90), "us"),
        ("latency_p99", percentile(latencies(), 99), "us"),
    ]
    .map(|(metric, value, unit)| Row::new(name.clone(), metric, value, unit))
    .into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each request of three bytes with the next of `answers`, on each connection from the first on.
    fn server(answers: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut request = [0; 3];
                    let mut answers = answers.iter();
                    while stream.read_exact(&mut request).is_ok() {
                        let Some(answer) = answers.next() else { return };
                        stream.write_all(answer).unwrap();
                    }
                });
            }
        });
        address
    }

    fn ask(answers: &'static [&'static [u8]], short: bool) -> Result<Vec<Duration>, String> {
        let address = server(answers);
        let mut connections = vec![connect(address).unwrap(), connect(address).unwrap()];
        let question = Question::new(b"ask".to_vec(), b"answer".to_vec());
        ask_all(address, &mut connections, &[&question; 6], Some(1000), short)
    }

    /// Each answer has its latency; one that is wrong in one byte, one that ends early and one too many leave no figure at all.
    #[test]
    fn a_wrong_answer_gives_no_figures() {
        assert_eq!(ask(&[b"answer", b"answer", b"answer"], false).unwrap().len(), 6);
        assert_eq!(ask(&[b"answer"], true).unwrap().len(), 6);
        assert!(ask(&[b"answer", b"answeR", b"answer"], false).unwrap_err().contains("wrong from byte 0 on"));
        assert!(ask(&[b"answer", b"answer"], false).unwrap_err().contains("no answer"));
        assert!(ask(&[b"answer!"], true).is_err());
    }

    /// What a machine executes without load is told apart from what the load costs, whatever the lengths of both stretches.
    #[test]
    fn idling_is_told_apart() {
        let sample = Sample { requests: 100, idle: (4_000, 2.0), loaded: (106_000, 3.0), latencies: vec![] };
        assert_eq!((sample.whole(), sample.idle_rate(), sample.beyond_idle()), (1_060.0, 2_000.0, 1_000.0));
    }
}
