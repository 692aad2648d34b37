//! `campaign NAME [--for TIME] [--count N] [--seed N] [--report FILE]` (`restarts` also `[--domain NAME]...`): a long randomised test in the rig (`./redleaf campaign restarts|graphs|points` runs it).
//!
//! The record is printed at the end; with `--report` it also stands in FILE after every leg, and one that stands there already is gone on with. Fails if
//! anything wasn't as promised. Each graph is a process of its own, since a process has one box.

use std::{
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use rig::{
    Rig, Settings,
    campaign::{self, Random, model, points, restarts},
    graphs,
};
use serde::{Serialize, de::DeserializeOwned};

/// What was asked for.
struct Question {
    until: Option<Instant>,
    count: u64,
    seed: u64,
    record: Option<PathBuf>,
    /// Of an appliance's domains, those that are restarted.
    domains: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, options)) = arguments.split_first() else { return usage() };
    match name.as_str() {
        "graph" => return graph(options),
        "points" => return in_a_child(options),
        _ => {}
    }
    let mut question = Question { until: None, count: u64::MAX, seed: 1, record: None, domains: vec![] };
    for pair in options.chunks(2) {
        let [flag, value] = pair else { return usage() };
        let number = value.parse::<u64>();
        match (flag.as_str(), number) {
            ("--for", Ok(seconds)) => question.until = Some(Instant::now() + Duration::from_secs(seconds)),
            ("--count", Ok(count)) => question.count = count,
            ("--seed", Ok(seed)) => question.seed = seed,
            ("--domain", _) if value == "all" => question.domains = graphs::APPLIANCE.map(String::from).into(),
            ("--domain", _) if graphs::APPLIANCE.contains(&value.as_str()) => question.domains.push(value.clone()),
            ("--domain", _) => {
                eprintln!("no domain {value}: there are {}, or all of them by `all`", graphs::APPLIANCE.join(", "));
                return ExitCode::from(2);
            }
            ("--report", _) => question.record = Some(value.into()),
            _ => return usage(),
        }
    }
    if question.count == u64::MAX && question.until.is_none() {
        question.count = 1_000;
    }
    match name.as_str() {
        "restarts" => {
            let chain = question.domains.is_empty();
            let rig = if chain { Rig::start(Settings::chain(|_| {})) } else { restarts::appliance() };
            let begin = restarts::Record { seed: question.seed, ..Default::default() };
            run(
                &question,
                begin,
                1_000,
                |record| record.restarts,
                restarts::Record::ok,
                |record, count| {
                    if chain {
                        restarts::leg(&rig, record, count)
                    } else {
                        restarts::leg_of(&rig, &question.domains, record, count)
                    }
                },
                |record| (record.ok(), record.render()),
            )
        }
        CHILD => {
            let begin = points::Record { seed: question.seed, ..Default::default() };
            let mut campaign = points::Campaign::start();
            let images = campaign.images();
            let stands = question.record.as_deref().map(campaign::read::<points::Record>);
            if let Some(Ok(Some(record))) = stands
                && (record.images != images || record.seed != question.seed)
            {
                eprintln!("the record is of another seed or of other images: name another file, or remove it");
                return ExitCode::from(2);
            }
            run(
                &question,
                begin,
                1_000,
                |record| record.activated,
                // An answer that came late is counted, and keeps nobody from the next crash.
                |record| record.faults.is_empty(),
                |record, count| campaign.leg(record, count),
                |record| (record.ok(), record.render()),
            )
        }
        "graphs" => {
            let begin = model::Record { schema_version: 1, seed: question.seed, ..Default::default() };
            run(
                &question,
                begin,
                1,
                |record| record.graphs,
                model::Record::ok,
                one_graph,
                |record| (record.ok(), record.render()),
            )
        }
        _ => usage(),
    }
}

/// The campaign of crash points, in the process that they may take along.
const CHILD: &str = "points-here";

/// Runs that campaign in a child: what isn't contained ends the child, and that goes into the record.
fn in_a_child(options: &[String]) -> ExitCode {
    let status = std::env::current_exe().and_then(|own| Command::new(own).arg(CHILD).args(options).status());
    let fault = match status {
        Ok(status) => match status.signal() {
            Some(signal) => format!("a crash was not contained: the rig died of signal {signal}"),
            None => return ExitCode::from(status.code().unwrap_or(1) as u8),
        },
        Err(error) => error.to_string(),
    };
    println!("FAULT: {fault}");
    let record = options.chunks(2).find(|pair| pair[0] == "--report").and_then(|pair| pair.get(1)).map(PathBuf::from);
    if let Some(path) = record
        && let Ok(Some(mut record)) = campaign::read::<points::Record>(&path)
    {
        record.faults.push(fault);
        if let Err(error) = campaign::write(&path, &record) {
            eprintln!("{}: {error}", path.display());
        }
    }
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    eprintln!(
        "campaign restarts|graphs|points [--for SECONDS] [--count N] [--seed N] [--report FILE]; restarts: [--domain NAME|all]..."
    );
    ExitCode::from(2)
}

/// Legs until enough is done, time is up, or there is a fault.
fn run<R: Serialize + DeserializeOwned>(
    question: &Question,
    begin: R,
    leg_size: u64,
    done: impl Fn(&R) -> u64,
    goes_on: impl Fn(&R) -> bool,
    mut leg: impl FnMut(R, u64) -> R,
    result: impl Fn(&R) -> (bool, String),
) -> ExitCode {
    let stands = question.record.as_deref().map_or(Ok(None), campaign::read);
    let mut record = match stands {
        Ok(record) => record.unwrap_or(begin),
        Err(error) => {
            eprintln!("{}: {error}", question.record.as_deref().unwrap_or("the record".as_ref()).display());
            return ExitCode::from(2);
        }
    };
    while done(&record) < question.count
        && question.until.is_none_or(|until| Instant::now() < until)
        && goes_on(&record)
    {
        let count = leg_size.min(question.count - done(&record));
        record = leg(record, count);
        if let Some(path) = &question.record
            && let Err(error) = campaign::write(path, &record)
        {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        eprintln!("{} done", done(&record));
    }
    let (ok, text) = result(&record);
    print!("{text}");
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Steps in each graph.
const STEPS: u64 = 300;

/// One graph, in a process of its own.
fn one_graph(mut record: model::Record, _: u64) -> model::Record {
    let seed = record.seed.wrapping_add(record.graphs);
    let output = std::env::current_exe().and_then(|own| Command::new(own).args(["graph", &seed.to_string()]).output());
    record.graphs += 1;
    record.steps += STEPS;
    match output {
        Ok(output) if output.status.success() => {
            let deaths = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
            record.deaths += deaths.unwrap_or_default();
        }
        Ok(output) => {
            let words = [output.stdout, output.stderr].concat();
            record.faults.push(format!("graph of seed {seed}: {}", String::from_utf8_lossy(&words)));
        }
        Err(error) => record.faults.push(error.to_string()),
    }
    record
}

/// `graph SEED`: prints how many deaths there were, or what differed from the model.
fn graph(options: &[String]) -> ExitCode {
    let [seed] = options else { return usage() };
    let Ok(seed) = seed.parse() else { return usage() };
    let mut random = Random(seed);
    let graph = model::Graph::draw(&mut random);
    let rig = Rig::start(graph.settings());
    let (deaths, faults) = model::walk(&rig, &graph, &mut random, STEPS);
    if faults.is_empty() {
        println!("{deaths}");
        return ExitCode::SUCCESS;
    }
    println!("{}", faults.join("\n"));
    ExitCode::FAILURE
}
