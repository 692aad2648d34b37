//! The box's feed: facts on its second serial port, one JSON object a line.
//!
//! Events and fields that are unknown here are no error: the box may say more than this lab reads. What isn't JSON is kept for the report.

use crate::clock::Moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Booted(Booted),
    Domain(DomainFacts),
    Crash(CrashFacts),
    Recovered(Recovered),
    Stats(Stats),
    /// Only from a stand-in: what a NIC model would have counted.
    Nic(NicFacts),
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Booted {
    #[serde(default)]
    pub at_ns: u64,
    pub boot_ms: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainFacts {
    pub name: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub pages: u64,
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct CrashFacts {
    pub domain: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub at_ns: u64,
    #[serde(default)]
    pub cpu: Option<u32>,
    #[serde(default)]
    pub chain: Vec<String>,
    #[serde(default)]
    pub last_words: String,
    #[serde(default)]
    pub pages_before: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Recovered {
    pub domain: String,
    #[serde(default)]
    pub generation: u64,
    #[serde(default)]
    pub at_ns: u64,
    #[serde(default)]
    pub pages_after: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Stats {
    #[serde(default)]
    pub at_ns: u64,
    #[serde(default)]
    pub domains: Vec<DomainFacts>,
    #[serde(default)]
    pub cpus: Vec<CpuFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuFacts {
    #[serde(default)]
    pub packets: u64,
    /// Connections that began there.
    #[serde(default)]
    pub flows: u64,
    /// Whatever else the box says of a CPU.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct NicFacts {
    pub rx: u64,
    #[serde(default)]
    pub missed: u64,
    pub tx: u64,
}

/// A line of the feed, with the moment when its last byte was here.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Event(Moment, Event),
    /// A line that isn't JSON of a known shape.
    Garbled(String),
    Closed,
}

/// Reads one line.
pub fn parse(at: Moment, line: &str) -> Heard {
    match serde_json::from_str(line) {
        Ok(event) => Heard::Event(at, event),
        Err(_) => Heard::Garbled(line.to_owned()),
    }
}

/// Reads the feed to its end on a thread of its own.
pub fn listen(socket: UnixStream, to: Sender<Heard>) {
    thread::spawn(move || {
        let mut input = BufReader::new(socket);
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            // Whoever no longer listens has ended the run.
            if !text.is_empty() && to.send(parse(Moment::now(), text)).is_err() {
                return;
            }
        }
        let _ = to.send(Heard::Closed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        match parse(Moment(0), line) {
            Heard::Event(_, event) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_events_that_a_box_sends() {
        assert_eq!(
            event(r#"{"event":"booted","at_ns":5,"boot_ms":120}"#),
            Event::Booted(Booted { at_ns: 5, boot_ms: 120.0 })
        );
        let Event::Crash(crash) = event(
            r#"{"event":"crash","domain":"ixgbe0","reason":"stack-overflow","generation":3,"at_ns":9,"cpu":1,"chain":["lb","ixgbe0"],"last_words":"","pages_before":70}"#,
        ) else {
            panic!()
        };
        assert_eq!((crash.domain.as_str(), crash.generation, crash.pages_before), ("ixgbe0", 3, Some(70)));
        let Event::Stats(stats) = event(
            r#"{"event":"stats","at_ns":9,"domains":[{"name":"lb","state":"running","generation":1,"restarts":0,"pages":4,"counters":{"forwarded":17}}],"cpus":[{"packets":9,"idle":3}]}"#,
        ) else {
            panic!()
        };
        assert_eq!(stats.domains[0].counters["forwarded"], 17);
        assert_eq!(stats.cpus[0].packets, 9);
    }

    #[test]
    fn a_box_may_say_more_than_the_lab_reads() {
        assert_eq!(event(r#"{"event":"weather","sun":true}"#), Event::Unknown);
        assert!(matches!(event(r#"{"event":"recovered","domain":"lb","mood":"good"}"#), Event::Recovered(_)));
    }

    #[test]
    fn a_broken_line_is_kept() {
        assert_eq!(parse(Moment(0), "{\"event\":\"sta"), Heard::Garbled("{\"event\":\"sta".into()));
    }
}
