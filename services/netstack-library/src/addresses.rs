//! Where the box is: its own addresses, who leads off its segments, and who knows names.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use interfaces::net::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};
use smoltcp::{iface::Interface, wire::IpCidr};

use crate::config::{Address4, Address6, Config};

/// What an instance goes by, as the manifest says it or the network has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub ipv4: Option<Ipv4Net>,
    pub gateway: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Net>,
    pub gateway6: Option<Ipv6Addr>,
    /// Servers for names.
    pub dns: Vec<IpAddr>,
}

impl Addresses {
    /// What is known before the network has said anything.
    pub fn of(config: &Config) -> Addresses {
        Addresses {
            ipv4: config.address.and_then(|address| match address {
                Address4::Fixed(net) => Some(net),
                Address4::Dhcp => None,
            }),
            gateway: config.gateway,
            ipv6: config.address6.and_then(|address| match address {
                Address6::Fixed(net) => Some(net),
                Address6::Auto => None,
            }),
            gateway6: config.gateway6,
            dns: config.dns.clone(),
        }
    }

    /// Whether the box can be spoken to there.
    pub fn has(&self, address: IpAddr, mac: MacAddress) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|net| net.addr() == address),
            IpAddr::V6(address) => self.ipv6.is_some_and(|net| net.addr() == address) || address == link_local(mac),
        }
    }

    /// Has an interface go by them. One that speaks IPv6 has an address for its link besides (RFC 4291 §2.8).
    pub fn give(&self, interface: &mut Interface, mac: MacAddress, speaks_ipv6: bool) {
        interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // Never more than three, of the four that there is place for.
            if let Some(net) = self.ipv4 {
                let _ = addresses.push(IpCidr::new(net.addr().into(), net.prefix_len()));
            }
            if let Some(net) = self.ipv6 {
                let _ = addresses.push(IpCidr::new(net.addr().into(), net.prefix_len()));
            }
            if speaks_ipv6 {
                let _ = addresses.push(IpCidr::new(link_local(mac).into(), 64));
            }
        });
        interface.routes_mut().update(|routes| routes.clear());
        // Likewise.
        if let Some(gateway) = self.gateway {
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        if let Some(gateway) = self.gateway6 {
            let _ = interface.routes_mut().add_default_ipv6_route(gateway);
        }
    }
}

/// The address for the link alone (RFC 4291 §2.5.6).
pub fn link_local(mac: MacAddress) -> Ipv6Addr {
    at_prefix(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), mac)
}

/// The station's address under a prefix of 64 bits: a modified EUI-64 (RFC 4291, appendix A).
pub fn at_prefix(prefix: Ipv6Addr, mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let station = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(prefix.to_bits() >> 64 << 64 | u128::from(station))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 4291, appendix A, with its global bit.
    #[test]
    fn a_stations_address_is_made_of_its_prefix_and_its_link_address() {
        let mac = MacAddress([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(link_local(mac), "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
        let prefix = "2001:db8:1:2:3::".parse().unwrap();
        assert_eq!(at_prefix(prefix, mac), "2001:db8:1:2:3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
    }
}
