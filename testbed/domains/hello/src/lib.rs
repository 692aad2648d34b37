//! The smallest domain that does something: it greets whoever asks at its `control` port, and counts how often. Told `fail`, it fails in the way that is
//! hardest to report.
//!
//! Tests of the runtime, of the builder and of the rig build it as they build every domain.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{boxed::Box, string::String};
use core::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use interfaces::{
    RRef,
    config::{Configuration, Fault},
    control::{Control, ControlError, Counters, Text},
};
use runtime::env::{Env, StartError};
use serde::{Deserialize, Serialize};

/// What the manifest says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// What is put before a name.
    pub greeting: String,
}

impl Configuration for Config {
    fn validate(&self) -> alloc::vec::Vec<Fault> {
        let empty = self.greeting.is_empty();
        let fault = Fault { path: "greeting".into(), message: "a greeting says something: it can't be empty".into() };
        empty.then_some(fault).into_iter().collect()
    }
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

/// Starts the domain.
pub fn start(env: Env, _imports: (), config: Config) -> Result<Exports, StartError> {
    log::info!("{} says {:?}, generation {}", env.name(), config.greeting, env.generation());
    Ok(Exports { control: Box::new(Greeter { greeting: config.greeting, greeted: AtomicU64::new(0) }) })
}

struct Greeter {
    greeting: String,
    greeted: AtomicU64,
}

impl Control for Greeter {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        if first == 0 {
            page.push("greeted", self.greeted.load(Relaxed));
        }
        Ok(page)
    }

    fn command(&self, mut line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        if line.as_str() == "fail" {
            panic!("{}", Unspeakable);
        }
        let name: String = line.as_str().strip_prefix("greet ").ok_or(ControlError::UnknownCommand)?.into();
        self.greeted.fetch_add(1, Relaxed);
        *line = Text::default();
        // An error means that the answer was cut off at what a line holds.
        let _ = write!(*line, "{}, {name}!", self.greeting);
        Ok(line)
    }
}

/// Panics when one wants to know what it says.
struct Unspeakable;

impl core::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("this can't be said")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_counts_and_leaks_nothing() {
        interfaces::host::connect();
        let exports = start(Env::new("hello", 1, &[0]), (), Config { greeting: "Good day".into() }).unwrap();
        let answer = exports.control.command(RRef::new(Text::new("greet box")).unwrap()).unwrap();
        assert_eq!(answer.as_str(), "Good day, box!");
        let unknown = exports.control.command(RRef::new(Text::new("dance")).unwrap());
        assert!(matches!(unknown, Err(ControlError::UnknownCommand)));
        let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
        assert_eq!((page.as_slice()[0].name.as_str(), page.as_slice()[0].value), ("greeted", 1));
        drop((answer, unknown, page));
        assert_eq!(interfaces::host::live_objects(), 0);
    }

    #[test]
    fn an_empty_greeting_is_refused() {
        assert_eq!(Config { greeting: String::new() }.validate()[0].path, "greeting");
    }
}
