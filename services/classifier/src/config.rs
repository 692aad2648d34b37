//! What the `config` table of a classifier in the manifest may hold.
//!
//! ```toml
//! listed = ["10.0.1.2", "10.0.1.100", "10.0.1.101"]   # a balancer's own address and its VIPs
//! ```

use alloc::{format, vec, vec::Vec};
use core::net::Ipv4Addr;

use interfaces::config::{Configuration, Fault};
use serde::{Deserialize, Serialize};

/// More are looked up one by one, on every packet's way.
const MOST: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Frames to these addresses, and questions for them, go to port `listed`; all else goes to `others`.
    pub listed: Vec<Ipv4Addr>,
    /// Frames that wait for a client that is away or behind, by client and queue; what comes on top is dropped.
    #[serde(default = "default_waiting")]
    pub waiting: u32,
}

fn default_waiting() -> u32 {
    1024
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = vec![];
        if self.listed.is_empty() || self.listed.len() > MOST {
            let message = format!("{} addresses: 1 to {MOST} are listed", self.listed.len());
            faults.push(Fault { path: "listed".into(), message });
        }
        for (index, address) in self.listed.iter().enumerate() {
            if self.listed[..index].contains(address) {
                faults.push(Fault { path: format!("listed[{index}]"), message: format!("{address} is there already") });
            }
        }
        if !(32..=65_536).contains(&self.waiting) {
            faults.push(Fault { path: "waiting".into(), message: format!("{} frames: 32 to 65536", self.waiting) });
        }
        faults
    }
}
