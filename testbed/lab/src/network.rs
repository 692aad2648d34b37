//! The lab's network: client – router – segment with backends and the box's port.
//!
//! ```text
//! client ── router ──┐
//!                    ├─ segment (bridge) ── box port (the NIC model's wire: `switch_port`)
//! backend … backend ─┘
//! ```
//!
//! The client is never in a VIP's subnet: with a backend's ARP it could otherwise reach the VIP with no balancer running. The router has
//! each VIP on link on the segment, so whoever answers ARP for it (the box) gets its frames. Backends carry the VIPs on their loopback, don't
//! speak for them (`arp_ignore=1`, `arp_announce=2`), and answer the client by way of the router: direct server return.

use crate::error::Error;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::offload;
use crate::options::{BoxAddress6, RunOptions};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// The interface of every host on the segment, and of the client.
pub const PORT: &str = "eth0";
/// The router's interface towards the client.
const CLIENT_SIDE: &str = "eth1";
const BRIDGE: &str = "segment";
/// The bridge's port to the box: the second host on the segment.
pub const NIC_SEGMENT_PORT: &str = "port1";

/// Ports that the kernel gives to the connections of whoever is in the client's place.
pub const KERNEL_PORTS: RangeInclusive<u16> = 10_000..=39_999;

pub struct Network {
    pub client: Namespace,
    pub router: Namespace,
    pub segment: Namespace,
    /// Holds one end of the box's port, for the NIC model.
    pub nic: Namespace,
    /// In the order of the options' backends.
    pub backends: Vec<Namespace>,
    /// Of the box's own cable, which carries longer frames than the hosts send when rubbish is asked for.
    cable_mtu: u32,
}

/// By how much rubbish is longer than what the box's card takes.
pub const TOO_LONG_BY: u32 = 2400;

/// MTU of the box's own cable: frames too long for the box's card are to reach it where rubbish is asked for.
pub fn cable_mtu(options: &RunOptions) -> u32 {
    let own = u32::from(options.box_settings.mtu);
    options.mtu().max(if options.rubbish.is_some() { own + TOO_LONG_BY } else { own })
}

impl Network {
    pub fn build(options: &RunOptions) -> Result<Self, Error> {
        let network = Self {
            client: Namespace::create("client")?,
            router: Namespace::create("router")?,
            segment: Namespace::create("segment")?,
            nic: Namespace::create("nic")?,
            backends: options
                .backends
                .iter()
                .map(|backend| Namespace::create(&backend.name))
                .collect::<Result<_, _>>()?,
            cable_mtu: cable_mtu(options),
        };
        let mtu = options.mtu();
        for host in network.hosts() {
            host.run(|| quiet(host.name()))?;
        }
        if options.box_settings.ip6.is_some() {
            for host in [&network.client, &network.router] {
                host.run(speak_ipv6)?;
            }
        }
        network.lay_segment(mtu)?;
        network.set_up_client(options, mtu)?;
        network.set_up_router(options, mtu)?;
        for (number, backend) in options.backends.iter().enumerate() {
            let vips: Vec<Ipv4Addr> = vip_addresses(options, &backend.name);
            network.backends[number].run(|| {
                let link = host_port(mac_of_backend(number), mtu)?;
                for vip in vips {
                    link.address("lo", vip, 32)?;
                }
                link.address(PORT, backend.ip, options.box_settings.prefix)?;
                link.default_route(router_on_segment(options))
            })?;
        }
        // The model speaks for the box here; the interface itself must stay silent, so it gets no address.
        network.nic.run(|| host_port(mac(2), network.cable_mtu).map(drop))?;
        Ok(network)
    }

    /// Joins the box's port to the segment. Only once its NIC watches the wire: every frame that came before would be missed by nobody.
    pub fn plug_in(&self) -> Result<(), Error> {
        let mtu = self.cable_mtu;
        self.segment.run(|| Netlink::open()?.up(NIC_SEGMENT_PORT, Some(mtu)))
    }

    /// Cuts the router off the segment: what it has sent to a VIP until now is all that it will have sent.
    pub fn cut_router(&self) -> Result<(), Error> {
        self.router.run(|| Netlink::open()?.down(PORT))
    }

    /// Pulls a backend's cable at the segment's end, or puts it back. The backend itself keeps its addresses and routes, as a host does whose switch
    /// has gone.
    pub fn connect_backend(&self, number: usize, connected: bool) -> Result<(), Error> {
        let port = port_of_backend(number);
        self.segment.run(|| {
            let link = Netlink::open()?;
            if connected { link.up(&port, None) } else { link.down(&port) }
        })
    }

    /// Cuts the box off.
    pub fn unplug(&self) -> Result<(), Error> {
        self.segment.run(|| Netlink::open()?.down(NIC_SEGMENT_PORT))
    }

    fn hosts(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.router, &self.segment, &self.nic].into_iter().chain(&self.backends)
    }

    fn lay_segment(&self, mtu: u32) -> Result<(), Error> {
        self.segment.run(|| {
            let link = Netlink::open()?;
            link.bridge(BRIDGE)?;
            link.up(BRIDGE, Some(mtu))?;
            let hosts = [&self.router, &self.nic].into_iter().chain(&self.backends);
            for (number, host) in hosts.enumerate() {
                let port = segment_port(number);
                link.veth(&port, PORT, host.raw_fd())?;
                offload::switch_off(&port)?;
                link.attach(&port, BRIDGE)?;
                if port != NIC_SEGMENT_PORT {
                    link.up(&port, Some(mtu))?;
                }
            }
            Ok(())
        })
    }

    fn set_up_client(&self, options: &RunOptions, mtu: u32) -> Result<(), Error> {
        self.router.run(|| {
            let link = Netlink::open()?;
            link.veth(CLIENT_SIDE, PORT, self.client.raw_fd())?;
            offload::switch_off(CLIENT_SIDE)?;
            link.up(CLIENT_SIDE, Some(mtu))?;
            link.address(CLIENT_SIDE, options.lab.router.client_side, options.lab.client.prefix)?;
            if options.box_settings.ip6.is_some() {
                link.address(CLIENT_SIDE, options.lab.router.client_side6, options.lab.client.prefix6)?;
            }
            Ok(())
        })?;
        self.client.run(|| {
            let link = host_port(mac(1), mtu)?;
            link.address(PORT, options.lab.client.address, options.lab.client.prefix)?;
            link.default_route(options.lab.router.client_side)?;
            if options.box_settings.ip6.is_some() {
                link.address(PORT, options.lab.client.address6, options.lab.client.prefix6)?;
                link.default_route6(options.lab.router.client_side6)?;
            }
            // Open-loop load must not run out of ports while old connections linger.
            let ports = KERNEL_PORTS;
            set("net/ipv4/ip_local_port_range", &format!("{} {}", ports.start(), ports.end()))
        })
    }

    fn set_up_router(&self, options: &RunOptions, mtu: u32) -> Result<(), Error> {
        self.router.run(|| {
            let link = host_port(mac(0), mtu)?;
            link.address(PORT, router_on_segment(options), options.box_settings.prefix)?;
            let mut vips: Vec<_> = options.vips.iter().map(|vip| vip.address).collect();
            vips.sort();
            vips.dedup();
            for vip in vips {
                link.route_on_link(vip, PORT)?;
            }
            if let Some(own) = options.box_settings.ip6 {
                link.address(PORT, router_on_segment6(&own), own.prefix)?;
                set("net/ipv6/conf/all/forwarding", "1")?;
            }
            set("net/ipv4/ip_forward", "1")
        })
    }
}

/// The router's address on the segment: as configured, else the subnet's last host address.
pub fn router_on_segment(options: &RunOptions) -> Ipv4Addr {
    options.lab.router.segment_side.unwrap_or_else(|| {
        let host_bits = u32::MAX.checked_shr(u32::from(options.box_settings.prefix)).unwrap_or(0);
        Ipv4Addr::from((u32::from(options.box_settings.ip) | host_bits) - 1)
    })
}

/// The same in IPv6: where the box's manifest looks for it.
pub fn router_on_segment6(own: &BoxAddress6) -> Ipv6Addr {
    own.gateway.unwrap_or_else(|| {
        let host_bits = u128::MAX.checked_shr(u32::from(own.prefix)).unwrap_or(0);
        Ipv6Addr::from((u128::from(own.ip) | host_bits) - 1)
    })
}

/// The bridge's port to the segment's host of that number: router, box, backends.
fn segment_port(host: usize) -> String {
    format!("port{host}")
}

fn port_of_backend(number: usize) -> String {
    segment_port(2 + number)
}

/// The VIPs that a backend serves, each once.
fn vip_addresses(options: &RunOptions, backend: &str) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<_> = options
        .vips
        .iter()
        .filter(|vip| vip.backends.iter().any(|name| name == backend))
        .map(|vip| vip.address)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The address of a backend's port, by the backend's number in the options: the router's and others' come before.
pub fn mac_of_backend(number: usize) -> [u8; 6] {
    // A run has far fewer than 65,000 backends.
    mac(0x10 + number as u16)
}

/// A locally administered address of the lab's own.
fn mac(host: u16) -> [u8; 6] {
    let [high, low] = host.to_be_bytes();
    [0x02, 0x4c, 0x41, 0x42, high, low]
}

/// Opens the host's port: named, addressed, without offloads, up; and its loopback.
fn host_port(mac: [u8; 6], mtu: u32) -> Result<Netlink, Error> {
    let link = Netlink::open()?;
    link.set_mac(PORT, mac)?;
    offload::switch_off(PORT)?;
    link.up(PORT, Some(mtu))?;
    link.up("lo", None)?;
    Ok(link)
}

/// A host that says nothing of its own accord: no IPv6, no ARP for what it merely carries, no redirects, no filter on the way back.
fn quiet(host: &str) -> Result<(), Error> {
    for (name, value) in [
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
    ] {
        match set(name, value) {
            // A kernel without IPv6 has nothing to switch off.
            Err(Error::Io { source, .. })
                if name.starts_with("net/ipv6") && source.kind() == std::io::ErrorKind::NotFound => {}
            outcome => {
                outcome.map_err(|error| Error::Network { step: format!("set {host} up"), reason: error.to_string() })?
            }
        }
    }
    Ok(())
}

/// Takes back what [`quiet`] said of IPv6. Addresses are given by the lab alone, and are good at once.
fn speak_ipv6() -> Result<(), Error> {
    for place in ["all", "default"] {
        for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "0")] {
            set(&format!("net/ipv6/conf/{place}/{name}"), value)?;
        }
    }
    Ok(())
}

fn set(name: &str, value: &str) -> Result<(), Error> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(Error::io(format!("setting {name}")))
}
