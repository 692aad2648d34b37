//! What the `config` table of a network stack in the manifest may hold.
//!
//! ```toml
//! address = "10.0.1.3/24"           # the box's own; and, or instead:
//! address6 = "2001:db8::3/64"
//! gateway = "10.0.1.1"
//! connections = 10000               # of each instance
//! receive-buffer = "8KiB"           # of each connection, as send-buffer
//! ```

use alloc::{format, string::String, vec::Vec};
use core::net::{Ipv4Addr, Ipv6Addr};

use interfaces::config::{Configuration, Duration, Fault, Size};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The box's own address with the length of its segment's prefix.
    #[serde(default)]
    pub address: Option<Ipv4Net>,
    #[serde(default)]
    pub address6: Option<Ipv6Net>,
    /// Whom everybody off the segment is reached by.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Sockets and connections that an instance has at most.
    #[serde(default = "default_connections")]
    pub connections: u32,
    /// What a connection holds of what its peer has sent, and of what is to be sent to it.
    #[serde(default = "default_buffer")]
    pub receive_buffer: Size,
    #[serde(default = "default_buffer")]
    pub send_buffer: Size,
    #[serde(default)]
    pub times: Times,
}

/// How long the stack waits for a silent peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Times {
    /// For a connection to be established.
    pub opening: Duration,
    /// Silent for so long, a peer is asked whether it is still there.
    pub keep_alive: Duration,
    /// And given up after so long without a word.
    pub silence: Duration,
    /// How long a connection that its service has closed may take to end.
    pub closing: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            opening: Duration::from_millis(5_000),
            keep_alive: Duration::from_millis(30_000),
            silence: Duration::from_millis(90_000),
            closing: Duration::from_millis(10_000),
        }
    }
}

fn default_connections() -> u32 {
    1_024
}

fn default_buffer() -> Size {
    Size(16 * 1024)
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut add = |path: &str, message: String| faults.push(Fault { path: path.into(), message });
        if self.address.is_none() && self.address6.is_none() {
            add("address", "the box needs an address: `address`, `address6` or both".into());
        }
        if let Some(net) = self.address
            && (net.addr().is_multicast() || net.addr().is_unspecified() || net.addr().is_broadcast())
        {
            add("address", format!("{} is no host's address", net.addr()));
        }
        if let Some(net) = self.address6
            && (net.addr().is_multicast() || net.addr().is_unspecified())
        {
            add("address6", format!("{} is no host's address", net.addr()));
        }
        match (self.gateway, self.address) {
            (Some(gateway), Some(net)) if !net.contains(&gateway) || gateway == net.addr() => {
                add("gateway", format!("{gateway} is no neighbour of the box on {}", net.trunc()))
            }
            (Some(gateway), None) => add("gateway", format!("{gateway} can't be reached without an `address`")),
            _ => {}
        }
        if self.gateway6.is_some() && self.address6.is_none() {
            add("gateway6", "it can't be reached without an `address6`".into());
        }
        if !(16..=1 << 20).contains(&self.connections) {
            add("connections", format!("{} is not between 16 and {}", self.connections, 1 << 20));
        }
        for (path, size) in [("receive-buffer", self.receive_buffer), ("send-buffer", self.send_buffer)] {
            if !(2048..=1 << 20).contains(&size.0) {
                add(path, format!("{size} is not between 2KiB and 1MiB"));
            }
        }
        let times = [
            ("times.opening", self.times.opening),
            ("times.keep-alive", self.times.keep_alive),
            ("times.silence", self.times.silence),
            ("times.closing", self.times.closing),
        ];
        for (path, time) in times {
            if !(100_000_000..=86_400_000_000_000).contains(&time.nanos()) {
                add(path, format!("{time} is not between 100ms and 24h"));
            }
        }
        if self.times.keep_alive >= self.times.silence {
            add("times.keep-alive", format!("a peer is asked before it is given up: less than {}", self.times.silence));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        config.validate().into_iter().map(|fault| fault.path).collect()
    }

    #[test]
    fn a_short_table_is_enough_and_every_fault_is_named() {
        assert!(faults("address = '10.0.1.3/24'").is_empty());
        assert_eq!(faults(""), ["address"]);
        assert_eq!(
            faults(
                "address = '224.0.0.1/24'\ngateway = '10.0.1.1'\ngateway6 = 'fe80::1'\nconnections = 1\nreceive-buffer = '1B'\ntimes = { \
                 keep-alive = '2h', opening = '1ns' }"
            ),
            ["address", "gateway", "gateway6", "connections", "receive-buffer", "times.opening", "times.keep-alive"]
        );
    }
}
