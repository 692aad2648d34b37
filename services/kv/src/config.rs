//! What the `config` table of a key-value store in the manifest may hold.
//!
//! ```toml
//! port = 11211
//! memory = "64MiB"
//! durable = true        # what is acknowledged survives; import `block` is the disk
//! log-size = "256MiB"   # of it: from the first block of the namespace
//!
//! [domains.kv.config.stack]  # if import `net` is wired, and `stack` isn't: the network stack in this domain
//! address = "10.0.1.3/24"
//! ```

use alloc::{format, string::String, vec::Vec};

use interfaces::config::{Configuration, Duration, Fault, Size};
use netstack_library::placement;
use serde::{Deserialize, Serialize};

use crate::store::Limits;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    #[serde(default = "default::port")]
    pub port: u16,
    /// Where requests by UDP are taken; 0 for nowhere. Who asks from a forged address makes the box answer somebody else: so it is off unless it is wanted.
    #[serde(default)]
    pub udp_port: u16,
    /// The longest answer by UDP.
    #[serde(default = "default::longest_datagrams")]
    pub longest_udp_answer: Size,
    /// For items, index included. The domain's own memory must hold this, `incoming` and `waiting` besides, and a stack's connections, if that is here.
    #[serde(default = "default::memory")]
    pub memory: Size,
    #[serde(default = "default::longest_value")]
    pub longest_value: Size,
    /// Of values that are on their way, of all connections.
    #[serde(default = "default::incoming")]
    pub incoming: Size,
    /// Of answers that wait to be sent, of all connections of a thread.
    #[serde(default = "default::incoming")]
    pub waiting: Size,
    /// Whether what is acknowledged survives crashes and power loss. Then nothing is evicted: a full store refuses.
    #[serde(default)]
    pub durable: bool,
    /// Which of the disk's namespaces, from 0.
    #[serde(default)]
    pub namespace: u16,
    /// Bytes of the disk that the log has, in two areas: each must hold all items, and some more.
    #[serde(default = "default::log_size")]
    pub log_size: Size,
    /// Connections of one thread at most.
    #[serde(default = "default::connections")]
    pub connections: u32,
    /// For a request, from its first byte to its last.
    #[serde(default = "default::request")]
    pub request_time: Duration,
    /// For taking an answer, as long as nothing of it is taken.
    #[serde(default = "default::request")]
    pub answer_time: Duration,
    /// Between requests: clients keep connections open for long.
    #[serde(default = "default::idle")]
    pub idle_time: Duration,
    /// Of the network stack, if it is in this domain.
    #[serde(default)]
    pub stack: Option<netstack_library::Config>,
}

mod default {
    use interfaces::config::{Duration, Size};

    pub fn port() -> u16 {
        11211
    }
    pub fn longest_datagrams() -> Size {
        Size(64 << 10)
    }
    pub fn memory() -> Size {
        Size(64 << 20)
    }
    pub fn longest_value() -> Size {
        Size(1 << 20)
    }
    pub fn incoming() -> Size {
        Size(8 << 20)
    }
    pub fn log_size() -> Size {
        Size(256 << 20)
    }
    pub fn connections() -> u32 {
        4096
    }
    pub fn request() -> Duration {
        Duration::from_millis(30_000)
    }
    pub fn idle() -> Duration {
        Duration::from_millis(24 * 3600 * 1000)
    }
}

/// What the log's import must be to `durable`.
pub const NO_DISK: &str = "`durable = true` wants a disk: wire import `block`";
pub const IDLE_DISK: &str = "import `block` is wired, and `durable` is not true";

/// What a shard needs to hold at least a few of the longest values.
const VALUES_OF_A_SHARD: u64 = 4;

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let longest = self.longest_value.0;
        let at_least = [
            ("port", u64::from(self.port), 1),
            ("connections", self.connections.into(), 1),
            ("longest-value", longest, 1),
            ("memory", self.memory.0, VALUES_OF_A_SHARD * (longest + 1024) * 5 / 4),
            ("incoming", self.incoming.0, longest + 4096),
            ("waiting", self.waiting.0, 64 << 10),
        ];
        let log_size = if self.durable { 3 * self.memory.0 + (16 << 20) } else { 0 };
        let at_least = at_least.into_iter().chain([("log-size", self.log_size.0, log_size)]);
        let fault =
            |(path, value, least)| Fault { path: String::from(path), message: format!("{value} is less than {least}") };
        let mut faults: Vec<Fault> = at_least.filter(|&(_, value, least)| value < least).map(fault).collect();
        if longest > 128 << 20 {
            faults.push(Fault { path: "longest-value".into(), message: "more than 128MiB".into() });
        }
        faults.extend(placement::faults(self.stack.as_ref()));
        faults
    }

    fn wiring_faults(&self, wired: &[&str]) -> Vec<String> {
        let disk = match (self.durable, wired.contains(&"block")) {
            (true, false) => Some(NO_DISK.into()),
            (false, true) => Some(IDLE_DISK.into()),
            _ => None,
        };
        disk.into_iter().chain(placement::wiring_fault(wired, self.stack.as_ref())).collect()
    }
}

impl Config {
    /// Limits of a store that `threads` threads use. It has as many shards as keep them out of each other's way, as long as each holds the longest values.
    pub fn limits(&self, threads: usize) -> Limits {
        let longest = self.longest_value.0;
        let most = (self.memory.0 / (VALUES_OF_A_SHARD * (longest + 1024) * 5 / 4)).max(1) as usize;
        Limits {
            memory: self.memory.0,
            longest_value: longest as usize,
            incoming: self.incoming.0 as usize,
            evict: !self.durable,
            shards: (4 * threads).min(most),
        }
    }
}
