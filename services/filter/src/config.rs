//! What the `config` table of a filter in the manifest may hold.
//!
//! ```toml
//! rules = [
//!     { name = "no-telnet", action = "drop", protocol = "tcp", destination-port = 23 },
//!     { name = "from-lab", action = "count", direction = "receive", source = "10.9.0.0/16", destination-port = "8000-8099" },
//! ]
//! ```

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::fmt;

use interfaces::config::{Configuration, Fault};
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Without rules everything passes, and is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// In order: the first matching rule that drops decides; those before it that count have counted.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

/// A rule: it matches a packet that has all that is named here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RuleConfig {
    pub name: String,
    pub action: Action,
    #[serde(default)]
    pub direction: Direction,
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// IPv4 addresses, as a prefix.
    #[serde(default)]
    pub source: Option<Ipv4Net>,
    #[serde(default)]
    pub destination: Option<Ipv4Net>,
    /// Ports of TCP and UDP: `80` or `"8000-8099"`.
    #[serde(default)]
    pub source_port: Option<Ports>,
    #[serde(default)]
    pub destination_port: Option<Ports>,
    #[serde(default)]
    pub vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Drop,
    Count,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Receive,
    Send,
    #[default]
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Arp,
    Ipv4,
    Ipv6,
    /// Of IPv4, as the next two.
    Icmp,
    Tcp,
    Udp,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn parse(text: &str) -> Option<Ports> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Ports { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
        (ports.first <= ports.last).then_some(ports)
    }
}

impl Serialize for Ports {
    /// As text for people, as two numbers in compiled manifests.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        } else {
            (self.first, self.last).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ports;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 80, or ports such as \"8000-8099\"")
            }
            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
                let port = u16::try_from(port).map_err(|_| E::invalid_value(de::Unexpected::Signed(port), &self))?;
                Ok(Ports { first: port, last: port })
            }
            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
                let port = u16::try_from(port).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(port), &self))?;
                Ok(Ports { first: port, last: port })
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                Ports::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor)
        } else {
            <(u16, u16)>::deserialize(deserializer).map(|(first, last)| Ports { first, last })
        }
    }
}

/// Rules that matched a packet are noted in the bits of a word.
pub const MOST_RULES: usize = 64;
/// Counters are called `rule.NAME.packets`, in 54 bytes.
const LONGEST_NAME: usize = 40;

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut add = |path: String, message: String| faults.push(Fault { path, message });
        if self.rules.len() > MOST_RULES {
            add(
                "rules".into(),
                format!(
                    "{MOST_RULES} rules at most, here are {}; a second filter may take the others",
                    self.rules.len()
                ),
            );
        }
        let mut names = BTreeMap::new();
        for (i, rule) in self.rules.iter().enumerate() {
            let path = |field: &str| format!("rules[{i}].{field}");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if rule.name.is_empty() || rule.name.len() > LONGEST_NAME || !rule.name.chars().all(plain) {
                add(path("name"), format!("a name is 1 to {LONGEST_NAME} letters, digits, '-' and '_'"));
            } else if let Some(first) = names.insert(&rule.name, i) {
                add(path("name"), format!("the name \"{}\" is already that of rules[{first}]", rule.name));
            }
            if let Some(vlan) = rule.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
                add(path("vlan"), format!("a VLAN's number is 1 to 4094, not {vlan}"));
            }
            let has_ports = matches!(rule.protocol, None | Some(Protocol::Tcp | Protocol::Udp | Protocol::Ipv4));
            for (field, ports) in [("source-port", rule.source_port), ("destination-port", rule.destination_port)] {
                if ports.is_some() && !has_ports {
                    add(path(field), "only TCP and UDP have ports: this rule would never match".into());
                }
            }
            let has_ipv4 = !matches!(rule.protocol, Some(Protocol::Arp | Protocol::Ipv6));
            for (field, prefix) in [("source", rule.source), ("destination", rule.destination)] {
                if prefix.is_some() && !has_ipv4 {
                    add(path(field), "only IPv4 packets have such an address: this rule would never match".into());
                }
                if let Some(prefix) = prefix.filter(|prefix| prefix.addr() != prefix.network()) {
                    add(path(field), format!("{prefix} has bits beyond its length; write {}", prefix.trunc()));
                }
            }
        }
        faults
    }
}
