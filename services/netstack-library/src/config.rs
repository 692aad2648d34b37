//! What the `config` table of a network stack in the manifest may hold.
//!
//! ```toml
//! address = "10.0.1.3/24"           # the box's own, or "dhcp"; and, or instead:
//! address6 = "2001:db8::3/64"       # or "auto": as a router says. The card's driver needs `multicast = true` for either
//! gateway = "10.0.1.1"
//! dns = ["10.0.1.1"]                # servers for names, before those that DHCP tells
//! connections = 10000               # of each instance
//! receive-buffer = "8KiB"           # of each connection, as send-buffer; more than two packets of the card's `mtu`, or peers don't send any so long
//! send-buffer = "64KiB"             # an answer that is longer costs the more work the shorter this is; an idle connection keeps it, too
//! ```

use alloc::{format, string::String, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use interfaces::config::{Configuration, Duration, Fault, Size};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::flow::is_host;

/// As many as smoltcp asks.
const MOST_SERVERS: usize = 4;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub address: Option<Address4>,
    #[serde(default)]
    pub address6: Option<Address6>,
    /// Whom everybody off the segment is reached by.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Servers for names.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
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

/// The box's own address, with the length of its segment's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address4 {
    Fixed(Ipv4Net),
    /// Whatever a DHCP server says.
    Dhcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address6 {
    Fixed(Ipv6Net),
    /// Made of the prefix that a router advertises.
    Auto,
}

impl TryFrom<String> for Address4 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.parse()) {
            ("dhcp", _) => Ok(Address4::Dhcp),
            (_, Ok(net)) => Ok(Address4::Fixed(net)),
            _ => {
                Err(format!("\"{text}\" is neither an address with its prefix, such as \"10.0.1.3/24\", nor \"dhcp\""))
            }
        }
    }
}

impl From<Address4> for String {
    fn from(address: Address4) -> String {
        match address {
            Address4::Fixed(net) => format!("{net}"),
            Address4::Dhcp => "dhcp".into(),
        }
    }
}

impl TryFrom<String> for Address6 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.parse()) {
            ("auto", _) => Ok(Address6::Auto),
            (_, Ok(net)) => Ok(Address6::Fixed(net)),
            _ => Err(format!(
                "\"{text}\" is neither an address with its prefix, such as \"2001:db8::3/64\", nor \"auto\""
            )),
        }
    }
}

impl From<Address6> for String {
    fn from(address: Address6) -> String {
        match address {
            Address6::Fixed(net) => format!("{net}"),
            Address6::Auto => "auto".into(),
        }
    }
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
        if let Some(Address4::Fixed(net)) = self.address
            && (net.addr().is_multicast() || net.addr().is_unspecified() || net.addr().is_broadcast())
        {
            add("address", format!("{} is no host's address", net.addr()));
        }
        if let Some(Address6::Fixed(net)) = self.address6
            && (net.addr().is_multicast() || net.addr().is_unspecified())
        {
            add("address6", format!("{} is no host's address", net.addr()));
        }
        match (self.gateway, self.address) {
            (Some(_), Some(Address4::Dhcp)) => add("gateway", "DHCP says who it is".into()),
            (Some(gateway), Some(Address4::Fixed(net))) if !net.contains(&gateway) || gateway == net.addr() => {
                add("gateway", format!("{gateway} is no neighbour of the box on {}", net.trunc()))
            }
            (Some(gateway), None) => add("gateway", format!("{gateway} can't be reached without an `address`")),
            _ => {}
        }
        if self.gateway6.is_some() && self.address6.is_none() {
            add("gateway6", "it can't be reached without an `address6`".into());
        }
        if self.dns.len() > MOST_SERVERS {
            add("dns", format!("more than {MOST_SERVERS} servers"));
        }
        if let Some(server) = self.dns.iter().find(|server| !is_host(**server)) {
            add("dns", format!("{server} is no host's address"));
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
        assert!(faults("address = 'dhcp'\naddress6 = 'auto'\ndns = ['10.0.1.1', '2001:db8::53']").is_empty());
        assert_eq!(faults("address = 'dhcp'\ngateway = '10.0.1.1'"), ["gateway"]);
        let wrong = format!("{}", toml::from_str::<Config>("address = '10.0.1.3'").unwrap_err());
        assert!(wrong.contains("10.0.1.3/24"), "{wrong}");
        assert_eq!(faults(""), ["address"]);
        assert_eq!(
            faults(
                "address = '224.0.0.1/24'\ngateway = '10.0.1.1'\ndns = ['0.0.0.0']\ngateway6 = 'fe80::1'\nconnections = 1\nreceive-buffer = '1B'\ntimes = { \
                 keep-alive = '2h', opening = '1ns' }"
            ),
            [
                "address",
                "gateway",
                "gateway6",
                "dns",
                "connections",
                "receive-buffer",
                "times.opening",
                "times.keep-alive"
            ]
        );
    }
}
