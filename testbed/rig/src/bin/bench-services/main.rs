//! What a request costs in the key-value store and in the web server, natively, with memcached and nginx beside them; asked by the same load generator ([`client`]).
//!
//! `redleaf bench kv` and `redleaf bench httpd` run this and show what comes out. By hand:
//!
//! - `bench-services kv|httpd ours|ours-library [--requests N] [--report FILE]`: the service above stack, driver and the 82599's model on shared memory ([`appliance`]), and where its
//!   cycles go ([`split`]). The stack is in a domain of its own, or linked into the service.
//! - `bench-services kv|httpd peer [--requests N] [--report FILE] -- PROGRAM [ARGUMENT]...`: memcached or nginx on Linux, behind a TAP device ([`linux`]). Exit status 3 if
//!   the machine can't.
//!
//! - `bench-services lab kv|httpd|maglev SIDE --server ADDRESS:PORT …`: whoever is in the box's place of the lab, counted from outside ([`lab`]).
//!
//! Rows are printed, and written as a JSON list of `{"row", "metric", "median", "unit"}`. A wrong answer fails the run.

mod appliance;
mod client;
mod lab;
mod link;
mod linux;
mod split;
mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::available_parallelism,
};

use rig::{
    Start,
    bench::{self, Row, median, percentile, rate},
    pin,
};

use crate::{
    appliance::Place,
    client::{Client, Cost},
    link::Link,
    linux::{Lack, Tap},
    workload::Workload,
};

const KV: Start = Start { name: "kv", package: "kv", path: "kv::start" };
const HTTPD: Start = Start { name: "httpd", package: "httpd", path: "httpd::start" };
const KV_PORT: u16 = 11211;
const HTTPD_PORT: u16 = 80;

/// Connections of the generator.
const CONNECTIONS: usize = 64;
/// Samples of each workload, in so many passes over all of them; and requests of one, if the command line says nothing else.
const PASSES: usize = 25;
const REQUESTS: usize = 4_096;
/// A 64 KiB file is a long answer: so many times fewer of it.
const FEWER: usize = 8;
const USAGE: &str = "bench-services kv|httpd ours|ours-library [--requests N] [--report FILE]
bench-services kv|httpd peer [--requests N] [--report FILE] -- PROGRAM [ARGUMENT]...
bench-services lab kv|httpd|maglev SIDE --server ADDRESS:PORT --counter FOLDER [--content FILE] [--rate N] [--requests N] [--report FILE]
bench-services site FOLDER";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    Kv,
    Httpd,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours(Place),
    Peer,
}

struct Question {
    service: Service,
    side: Side,
    requests: usize,
    report: Option<PathBuf>,
    program: Vec<String>,
}

impl Question {
    fn read(mut arguments: impl Iterator<Item = String>) -> Option<Question> {
        let service = match arguments.next()?.as_str() {
            "kv" => Service::Kv,
            "httpd" => Service::Httpd,
            _ => return None,
        };
        let side = match arguments.next()?.as_str() {
            "ours" => Side::Ours(Place::OwnDomain),
            "ours-library" => Side::Ours(Place::Library),
            "peer" => Side::Peer,
            _ => return None,
        };
        let mut question = Question { service, side, requests: REQUESTS, report: None, program: vec![] };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--requests" => question.requests = arguments.next()?.parse().ok().filter(|count| *count > 0)?,
                "--report" => question.report = Some(arguments.next()?.into()),
                "--" => question.program = arguments.by_ref().collect(),
                _ => return None,
            }
        }
        // A peer is a program, and only that.
        ((question.side == Side::Peer) != question.program.is_empty()).then_some(question)
    }

    /// What rows call the service, and who is measured.
    fn names(&self) -> (&'static str, &'static str) {
        let (service, peer) = match self.service {
            Service::Kv => ("kv", "memcached"),
            Service::Httpd => ("httpd", "nginx"),
        };
        let side = match self.side {
            Side::Ours(Place::OwnDomain) => "ours",
            Side::Ours(Place::Library) => "ours-library",
            Side::Peer => peer,
        };
        (service, side)
    }
}

/// Why there are no rows.
enum Failure {
    Lack(String),
    Wrong(String),
}

impl From<Lack> for Failure {
    fn from(Lack(what): Lack) -> Failure {
        Failure::Lack(what)
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Failure {
        Failure::Wrong(what)
    }
}

/// So many requests of a workload.
fn ask<L: Link>(client: &mut Client<L>, workload: &Workload, requests: usize) -> Result<Cost, String> {
    let mut questions = workload.sequence();
    client.take_cost();
    let rounds = requests.div_ceil(client.connections());
    for _ in 0..rounds {
        let round: Vec<_> = questions.by_ref().take(client.connections()).collect();
        client.round(&round).map_err(|wrong| format!("{}: {wrong}", workload.name))?;
    }
    Ok(client.take_cost())
}

/// Samples of all workloads.
fn measure<L: Link>(
    client: &mut Client<L>,
    workloads: &[Workload],
    question: &Question,
) -> Result<Vec<Vec<Cost>>, String> {
    let mut samples = vec![Vec::new(); workloads.len()];
    for pass in 0..=PASSES {
        // The first warms up: caches, windows of congestion, branch predictors.
        if pass % 5 == 1 {
            eprintln!("pass {pass} of {PASSES}");
        }
        for (workload, samples) in workloads.iter().zip(&mut samples) {
            let long = workload.questions[0].answer.len() > 16 << 10;
            let cost = ask(client, workload, if long { question.requests.div_ceil(FEWER) } else { question.requests })?;
            if pass > 0 {
                samples.push(cost);
            }
        }
    }
    Ok(samples)
}

/// The rows of one side, whose CPU time is called `busy`, and its cycles on the generator's CPU `receiving`, where there are any.
fn rows(question: &Question, workloads: &[Workload], samples: &[Vec<Cost>]) -> Vec<Row> {
    let (service, side) = question.names();
    let mut rows = Vec::new();
    for (workload, samples) in workloads.iter().zip(samples) {
        let name = format!("{service}.{}.{side}", workload.name);
        let each = |value: &dyn Fn(&Cost) -> f64| {
            median(samples.iter().map(|cost| value(cost) / cost.requests as f64).collect())
        };
        let (busy, receiving) = (|cost: &Cost| cost.busy as f64 * rate(), |cost: &Cost| cost.receiving as f64);
        let mut row = |name: String, metric: &str, median, unit| rows.push(Row::new(name, metric, median, unit));
        row(name.clone(), "cost", each(&|cost| busy(cost) + receiving(cost)), "cycles/request");
        if samples.iter().any(|cost| cost.receiving > 0) {
            row(format!("{name}.server"), "cost", each(&busy), "cycles/request");
            row(format!("{name}.receive"), "cost", each(&receiving), "cycles/request");
        }
        row(name.clone(), "frames_in", each(&|cost| cost.frames_in as f64), "frames/request");
        row(name.clone(), "frames_out", each(&|cost| cost.frames_out as f64), "frames/request");
        let latencies: Vec<f64> =
            samples.iter().flat_map(|cost| &cost.latencies).map(|cycles| *cycles as f64 / rate() / 1_000.0).collect();
        row(name.clone(), "latency", median(latencies.clone()), "us");
        row(name, "latency_p99", percentile(latencies, 99), "us");
    }
    rows
}

fn kv_config(library: Option<netstack::Config>) -> kv::Config {
    let mut config: kv::Config = toml::from_str("memory = '64MiB'").expect("a good table");
    config.stack = library;
    config
}

fn httpd_config(library: Option<netstack::Config>) -> httpd::Config {
    let mut config: httpd::Config = toml::from_str("content = 'site'\nrequests = 100000000").expect("a good table");
    config.content = interfaces::folder::Folder::packed(workload::archive());
    config.stack = library;
    config
}

/// Connects, stores what will be asked for, and measures.
fn conduct<L: Link>(link: L, question: &Question) -> Result<(Vec<Workload>, Vec<Row>), String> {
    pin(available_parallelism().map_or(0, |cpus| cpus.get() - 1));
    let mut client = Client::new(link);
    let port = match question.service {
        Service::Kv => KV_PORT,
        Service::Httpd => HTTPD_PORT,
    };
    client.connect(CONNECTIONS, port)?;
    let workloads = match question.service {
        Service::Kv => workload::of_store(),
        Service::Httpd => workload::of_site(&mut |request, complete| client.ask(request, complete))?,
    };
    if question.service == Service::Kv {
        for stores in &workloads[..2] {
            ask(&mut client, stores, stores.questions.len())?;
        }
    }
    let samples = measure(&mut client, &workloads, question)?;
    let rows = rows(question, &workloads, &samples);
    Ok((workloads, rows))
}

fn ours(question: &Question, place: Place) -> Result<Vec<Row>, String> {
    eprintln!("building and starting the domains");
    let stack = appliance::stack_config(question.service);
    let library = (place == Place::Library).then(|| stack.clone());
    let appliance = match question.service {
        Service::Kv => appliance::start(KV, "kv", &kv_config(library), stack, place),
        Service::Httpd => appliance::start(HTTPD, "httpd", &httpd_config(library), stack, place),
    };
    eprintln!("{}: {CONNECTIONS} connections", question.names().1);
    let (workloads, mut rows) = conduct(appliance, question)?;
    eprintln!("where the cycles go");
    let parts = match question.service {
        Service::Kv => split::of_store(&kv_config(None), &workloads, question.requests),
        Service::Httpd => split::of_site(&httpd_config(None), &workloads, question.requests),
    };
    let costs: Vec<(String, f64)> =
        rows.iter().filter(|row| row.metric == "cost").map(|row| (row.row.clone(), row.median)).collect();
    for ((name, cost), mut parts) in costs.into_iter().zip(parts) {
        parts.insert(0, ("stack", cost - parts.iter().map(|(_, cycles)| cycles).sum::<f64>()));
        let row = |(part, median)| Row::new(format!("{name}.{part}"), "cost", median, "cycles/request");
        rows.extend(parts.into_iter().map(row));
    }
    Ok(rows)
}

fn peer(question: &Question) -> Result<Vec<Row>, Failure> {
    let device = linux::enter()?;
    let folder = std::env::temp_dir().join(format!("redleaf-bench-{}", std::process::id()));
    let _folder = Folder::new(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut server = Command::new(&question.program[0]);
    server.args(&question.program[1..]);
    match question.service {
        Service::Kv => {
            server
                .args(["-u", "root", "-l", "10.0.1.3", "-U", "0", "-t", "1", "-m", "64", "-p"])
                .arg(KV_PORT.to_string());
        }
        Service::Httpd => {
            let written = workload::write_files(&folder)
                .and_then(|()| fs::write(folder.join("nginx.conf"), nginx_configuration(&folder)));
            written.map_err(|error| format!("{}: {error}", folder.display()))?;
            server.arg("-p").arg(&folder).args(["-e", "stderr", "-c"]).arg(folder.join("nginx.conf"));
        }
    }
    eprintln!("the peer: {CONNECTIONS} connections");
    let (_, rows) = conduct(Tap::start(device, server)?, question)?;
    Ok(rows)
}

/// One process, as for ours; with what is usual where nginx is to be fast.
fn nginx_configuration(folder: &Path) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("    {name}_temp_path {}/{name};\n", folder.display()))
        .collect();
    format!(
        r#"user root;
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    open_file_cache max=100;
    keepalive_timeout 1d;
    keepalive_requests 100000000;
    types {{ text/html html; }}
    default_type application/octet-stream;
{temporary}    server {{
        listen 10.0.1.3:{HTTPD_PORT} backlog=4096;
        root {};
    }}
}}
"#,
        folder.display()
    )
}

/// A folder that goes with the run.
struct Folder(PathBuf);

impl Folder {
    fn new(path: &Path) -> std::io::Result<Folder> {
        fs::create_dir_all(path)?;
        Ok(Folder(path.to_owned()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed lies where such things lie.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whatever the command line asks for.
enum Job {
    Native(Question),
    Lab(lab::Request),
    /// Writes the site that is asked for into a folder.
    Site(PathBuf),
}

impl Job {
    fn read(mut arguments: impl Iterator<Item = String> + Clone) -> Option<Job> {
        match arguments.clone().next()?.as_str() {
            "lab" => lab::Request::read(arguments.skip(1)).map(Job::Lab),
            "site" => arguments.nth(1).map(|folder| Job::Site(folder.into())),
            _ => Question::read(arguments).map(Job::Native),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let question = match Job::read(arguments.into_iter()) {
        Some(Job::Native(question)) => question,
        Some(Job::Lab(request)) => end(lab::measure(&request).map_err(Failure::Wrong), request.report.as_deref()),
        Some(Job::Site(folder)) => {
            let written = workload::write_files(&folder).map_err(|error| format!("{}: {error}", folder.display()));
            end(written.map(|()| vec![]).map_err(Failure::Wrong), None)
        }
        None => {
            eprintln!("{USAGE}");
            std::process::exit(2)
        }
    };
    let rows = match (available_parallelism().map_or(1, usize::from), question.side) {
        (1, _) => Err(Failure::Lack("two CPUs are needed: one for the server, one for the load".into())),
        (_, Side::Ours(place)) => ours(&question, place).map_err(Failure::Wrong),
        (_, Side::Peer) => peer(&question),
    };
    end(rows, question.report.as_deref())
}

/// Says what came out, and ends: the box's threads have no end of their own.
fn end(rows: Result<Vec<Row>, Failure>, report: Option<&Path>) -> ! {
    std::process::exit(match rows {
        Ok(rows) => i32::from(!bench::report(&rows, report)),
        Err(Failure::Lack(what)) => {
            eprintln!("{what}");
            3
        }
        Err(Failure::Wrong(what)) => {
            eprintln!("bench-services: {what}");
            1
        }
    })
}
