//! What the `config` table of a Maglev domain in the manifest may hold, and what is wrong with one that has the right shape.
//!
//! ```toml
//! address = "10.0.1.2/24"                       # the box's own
//! vips = [{ name = "web", address = "10.0.1.100", port = 80, protocol = "tcp", backends = [{ name = "b1" }, { name = "b2", weight = 2 }] }]
//! backends = [{ name = "b1", address = "10.0.1.11" }, { name = "b2", address = "10.0.1.12" }]
//! ```

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::net::Ipv4Addr;

use interfaces::config::{Configuration, Duration, Fault};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{frame::Protocol, table::is_prime};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The box's own address with the length of its segment's prefix. ARP requests come from it; it answers ARP and echo.
    pub address: Ipv4Net,
    pub vips: Vec<Vip>,
    pub backends: Vec<Backend>,
    /// Slots of the lookup table: a prime, at least a hundred times the number of backends so that shares are right within 1 %.
    #[serde(default = "default_table_size")]
    pub table_size: u32,
    /// Connections that each CPU remembers, at 16 bytes; rounded up to a power of two.
    #[serde(default = "default_connections")]
    pub connections: u32,
    #[serde(default)]
    pub lifetimes: Lifetimes,
    #[serde(default)]
    pub neighbours: Neighbours,
}

/// An address and port that clients know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vip {
    pub name: String,
    pub address: Ipv4Addr,
    /// Without it: every port that no other VIP of this address and protocol names.
    #[serde(default)]
    pub port: Option<u16>,
    pub protocol: Protocol,
    pub backends: Vec<Share>,
}

/// A backend's part in a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Share {
    pub name: String,
    #[serde(default = "default_weight")]
    pub weight: u16,
}

/// A server on the box's segment, which has the VIPs of its services on its loopback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Backend {
    pub name: String,
    pub address: Ipv4Addr,
}

/// How long a silent connection is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Lifetimes {
    /// After nothing but SYNs.
    pub opening: Duration,
    pub established: Duration,
    /// After a FIN of the client.
    pub closing: Duration,
    pub reset: Duration,
    /// Of UDP.
    pub datagram: Duration,
}

/// How backends are watched by ARP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Neighbours {
    /// A backend is asked this long after it was last heard.
    pub interval: Duration,
    /// And again after this long without an answer.
    pub retry: Duration,
    /// Dead after so many requests without an answer, unless nobody answers.
    pub attempts: u32,
    /// After a start: how long to wait for the others once one backend has answered.
    pub startup_wait: Duration,
}

fn default_table_size() -> u32 {
    65_537
}

fn default_connections() -> u32 {
    65_536
}

fn default_weight() -> u16 {
    1
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            opening: Duration::from_millis(30_000),
            established: Duration::from_millis(3_600_000),
            closing: Duration::from_millis(120_000),
            reset: Duration::from_millis(2_000),
            datagram: Duration::from_millis(120_000),
        }
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours {
            interval: Duration::from_millis(1_000),
            retry: Duration::from_millis(250),
            attempts: 4,
            startup_wait: Duration::from_millis(150),
        }
    }
}

/// Longest name: counters are called `backend.NAME.connections`, in 54 bytes.
const LONGEST_NAME: usize = 32;
/// More than fit on a segment that answers ARP in time; and far below what a `BackendId` counts to.
const MOST_BACKENDS: usize = 1_024;

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        self.check_box(&mut faults);
        self.check_backends(&mut faults);
        self.check_vips(&mut faults);
        self.check_sizes_and_times(&mut faults);
        faults.0
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: String, message: String) {
        self.0.push(Fault { path, message });
    }

    fn check_name(&mut self, path: String, name: &str, seen: &mut BTreeMap<String, usize>, index: usize, list: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            self.add(path, format!("a name is 1 to {LONGEST_NAME} letters, digits, '-' and '_'"));
        } else if let Some(first) = seen.insert(name.into(), index) {
            self.add(path, format!("the name \"{name}\" is already that of {list}[{first}]"));
            seen.insert(name.into(), first);
        }
    }
}

impl Config {
    fn check_box(&self, faults: &mut Faults) {
        if self.address.prefix_len() > 30 {
            faults.add(
                "address".into(),
                format!("a segment of prefix length {} has no place for backends", self.address.prefix_len()),
            );
        } else if !self.is_host(self.address.addr()) {
            faults.add(
                "address".into(),
                format!("{} is no host's address on {}", self.address.addr(), self.address.trunc()),
            );
        }
    }

    /// Whether a host may have this address on the box's segment.
    fn is_host(&self, address: Ipv4Addr) -> bool {
        self.address.contains(&address) && address != self.address.network() && address != self.address.broadcast()
    }

    fn check_backends(&self, faults: &mut Faults) {
        if self.backends.is_empty() || self.backends.len() > MOST_BACKENDS {
            faults.add(
                "backends".into(),
                format!("1 to {MOST_BACKENDS} backends are needed, here are {}", self.backends.len()),
            );
        }
        let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for (i, backend) in self.backends.iter().enumerate() {
            faults.check_name(format!("backends[{i}].name"), &backend.name, &mut names, i, "backends");
            let path = format!("backends[{i}].address");
            if backend.address == self.address.addr() {
                faults.add(path, format!("{} is the box's own address", backend.address));
            } else if !self.is_host(backend.address) {
                let segment = self.address.trunc();
                faults.add(
                    path,
                    format!(
                        "{} is no host's address on the box's segment {segment}: frames reach backends at layer 2",
                        backend.address
                    ),
                );
            } else if let Some(first) = addresses.insert(backend.address, i) {
                faults.add(path, format!("{} is already the address of backends[{first}]", backend.address));
            }
        }
    }

    fn check_vips(&self, faults: &mut Faults) {
        if self.vips.is_empty() {
            faults.add("vips".into(), "at least one VIP is needed".into());
        }
        let (mut names, mut services) = (BTreeMap::new(), BTreeMap::new());
        for (i, vip) in self.vips.iter().enumerate() {
            faults.check_name(format!("vips[{i}].name"), &vip.name, &mut names, i, "vips");
            let address = vip.address;
            let path = format!("vips[{i}].address");
            if address == self.address.addr() {
                faults.add(path, format!("{address} is the box's own address"));
            } else if let Some(backend) = self.backends.iter().position(|backend| backend.address == address) {
                faults.add(path, format!("{address} is the address of backends[{backend}]"));
            } else if address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
            {
                faults.add(path, format!("{address} is no host's address"));
            } else if let Some(first) = services.insert((address, vip.protocol, vip.port), i) {
                faults.add(path, format!("vips[{first}] has the same address, port and protocol"));
            }
            if vip.port == Some(0) {
                faults.add(
                    format!("vips[{i}].port"),
                    "port 0 doesn't exist; leave `port` out to serve every port".into(),
                );
            }
            self.check_shares(i, vip, faults);
        }
    }

    fn check_shares(&self, i: usize, vip: &Vip, faults: &mut Faults) {
        if vip.backends.is_empty() {
            faults.add(format!("vips[{i}].backends"), "a VIP needs at least one backend".into());
        }
        let mut seen = BTreeMap::new();
        for (j, share) in vip.backends.iter().enumerate() {
            let path = format!("vips[{i}].backends[{j}].name");
            if !self.backends.iter().any(|backend| backend.name == share.name) {
                let known: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
                faults.add(path, format!("no backend is named \"{}\"; there are: {}", share.name, known.join(", ")));
            } else if let Some(first) = seen.insert(&share.name, j) {
                faults.add(path, format!("\"{}\" is already backends[{first}] of this VIP", share.name));
            }
            if share.weight == 0 {
                let path = format!("vips[{i}].backends[{j}].weight");
                faults
                    .add(path, "a weight is at least 1; the console's `backend NAME drain` takes a backend out".into());
            }
        }
    }

    fn check_sizes_and_times(&self, faults: &mut Faults) {
        let size = self.table_size;
        let least = 100 * self.backends.len().min(MOST_BACKENDS) as u32;
        if !is_prime(size) || size > 16_777_259 {
            let next = (size.min(16_777_213)..).find(|&n| is_prime(n)).unwrap_or(65_537);
            faults.add("table-size".into(), format!("{size} is not a prime up to 16777259; the next is {next}"));
        } else if size < least {
            faults.add(
                "table-size".into(),
                format!("for shares right within 1 %, {} backends need {least} slots or more", self.backends.len()),
            );
        }
        if !(64..=1 << 26).contains(&self.connections) {
            faults.add("connections".into(), format!("{} is not between 64 and {}", self.connections, 1 << 26));
        }
        let times = [
            ("lifetimes.opening", self.lifetimes.opening),
            ("lifetimes.established", self.lifetimes.established),
            ("lifetimes.closing", self.lifetimes.closing),
            ("lifetimes.reset", self.lifetimes.reset),
            ("lifetimes.datagram", self.lifetimes.datagram),
            ("neighbours.interval", self.neighbours.interval),
            ("neighbours.retry", self.neighbours.retry),
            ("neighbours.startup-wait", self.neighbours.startup_wait),
        ];
        for (path, time) in times {
            if !(1_000_000..=180 * 24 * 3_600_000_000_000).contains(&time.nanos()) {
                faults.add(path.into(), format!("{time} is not between 1ms and 180 days (4320h)"));
            }
        }
        if !(1..=100).contains(&self.neighbours.attempts) {
            faults.add("neighbours.attempts".into(), format!("{} is not between 1 and 100", self.neighbours.attempts));
        }
    }
}
