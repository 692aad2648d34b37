//! Which rules match a packet, and whether it passes.

use alloc::{boxed::Box, vec::Vec};

use ipnet::Ipv4Net;

use crate::{
    config::{Action, Config, Direction, MOST_RULES, Ports, Protocol, RuleConfig},
    headers::{self, Headers},
};

/// What becomes of a packet: the rules that matched, one bit each, and whether the last of them drops it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub matched: u64,
    pub dropped: bool,
}

/// The rules of one direction, in order, with their numbers in the configuration.
type Ordered = Box<[(usize, Rule)]>;

#[derive(Debug)]
pub struct Rules {
    count: usize,
    receive: Ordered,
    send: Ordered,
}

#[derive(Clone, Debug)]
struct Rule {
    action: Action,
    protocol: Option<Protocol>,
    source: Option<Prefix>,
    destination: Option<Prefix>,
    source_port: Option<Ports>,
    destination_port: Option<Ports>,
    vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    bits: u32,
    mask: u32,
}

impl From<Ipv4Net> for Prefix {
    fn from(net: Ipv4Net) -> Prefix {
        Prefix { bits: net.network().to_bits(), mask: net.netmask().to_bits() }
    }
}

impl Prefix {
    fn contains(self, address: u32) -> bool {
        address & self.mask == self.bits
    }
}

impl Rules {
    /// Of a validated configuration.
    pub fn new(config: &Config) -> Rules {
        let of = |direction| -> Ordered {
            config
                .rules
                .iter()
                .take(MOST_RULES)
                .enumerate()
                .filter(|(_, rule)| rule.direction == direction || rule.direction == Direction::Both)
                .map(|(i, rule)| (i, Rule::new(rule)))
                .collect::<Vec<_>>()
                .into()
        };
        Rules { count: config.rules.len().min(MOST_RULES), receive: of(Direction::Receive), send: of(Direction::Send) }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn judge_received(&self, frame: &[u8]) -> Judgement {
        judge(&self.receive, frame)
    }

    pub fn judge_sent(&self, frame: &[u8]) -> Judgement {
        judge(&self.send, frame)
    }
}

fn judge(rules: &Ordered, frame: &[u8]) -> Judgement {
    let mut judgement = Judgement::default();
    if rules.is_empty() {
        // Not even a look at the packet: its cache line may still be on the way.
        return judgement;
    }
    let headers = Headers::of(frame);
    for (i, rule) in rules {
        if rule.matches(&headers) {
            judgement.matched |= 1 << i;
            if rule.action == Action::Drop {
                judgement.dropped = true;
                break;
            }
        }
    }
    judgement
}

impl Rule {
    fn new(config: &RuleConfig) -> Rule {
        Rule {
            action: config.action,
            protocol: config.protocol,
            source: config.source.map(Prefix::from),
            destination: config.destination.map(Prefix::from),
            source_port: config.source_port,
            destination_port: config.destination_port,
            vlan: config.vlan,
        }
    }

    fn matches(&self, headers: &Headers) -> bool {
        let ipv4 = headers.ipv4;
        let is = |number| ipv4.is_some_and(|ipv4| ipv4.protocol == number);
        let protocol = self.protocol.is_none_or(|protocol| match protocol {
            Protocol::Arp => headers.ethertype == Some(headers::ARP),
            Protocol::Ipv4 => headers.ethertype == Some(headers::IPV4),
            Protocol::Ipv6 => headers.ethertype == Some(headers::IPV6),
            Protocol::Icmp => is(headers::ICMP),
            Protocol::Tcp => is(headers::TCP),
            Protocol::Udp => is(headers::UDP),
        });
        let ports = ipv4.and_then(|ipv4| ipv4.ports);
        protocol
            && self.vlan.is_none_or(|vlan| headers.vlan == Some(vlan))
            && self.source.is_none_or(|prefix| ipv4.is_some_and(|ipv4| prefix.contains(ipv4.source)))
            && self.destination.is_none_or(|prefix| ipv4.is_some_and(|ipv4| prefix.contains(ipv4.destination)))
            && self.source_port.is_none_or(|wanted| ports.is_some_and(|(source, _)| wanted.contains(source)))
            && self
                .destination_port
                .is_none_or(|wanted| ports.is_some_and(|(_, destination)| wanted.contains(destination)))
    }
}
