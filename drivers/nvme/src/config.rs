//! What the `config` table of an nvme domain may hold; all of it has defaults.
//!
//! ```toml
//! depth = 128                    # requests in flight, per queue
//! volatile-cache = true          # let the device keep writes in its cache until a flush; false: it has none
//! time-out = "8s"                # then a request is aborted; after as long again the controller is reset
//! health-interval = "60s"        # between two looks at the SMART log
//! ```

use alloc::{format, string::String, vec::Vec};

use interfaces::{
    block::InFlight,
    config::{Configuration, Duration, Fault},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    pub depth: u16,
    pub volatile_cache: bool,
    pub time_out: Duration,
    pub health_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            depth: 128,
            volatile_cache: true,
            time_out: Duration::from_millis(8_000),
            health_interval: Duration::from_millis(60_000),
        }
    }
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut wrong = |path: &str, message: String| faults.push(Fault { path: path.into(), message });
        if self.depth == 0 || usize::from(self.depth) > InFlight::CAPACITY {
            wrong("depth", format!("{} requests: a queue has 1 to {}", self.depth, InFlight::CAPACITY));
        }
        if self.time_out < Duration::from_millis(100) {
            wrong("time-out", format!("{}: no device is that fast at its worst; at least 100ms", self.time_out));
        }
        if self.health_interval < Duration::from_millis(1_000) {
            wrong("health-interval", format!("{}: at least 1s", self.health_interval));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    /// All faults are shown at once, each under the key that is written in the manifest.
    #[test]
    fn every_fault_is_named() {
        let config = Config { depth: 0, time_out: Duration(1), health_interval: Duration(1), ..Config::default() };
        let paths: Vec<_> = config.validate().into_iter().map(|fault| fault.path).collect();
        assert_eq!(paths, ["depth", "time-out", "health-interval"]);
    }
}
