//! What the network tells a box of its place in it: by DHCP (RFC 2131, smoltcp's client), and by the advertisements of IPv6's routers (RFC 4862).
//!
//! One instance learns for all of them: what is for it comes from whichever queue the card gives it to. There is no look for another box with the same address
//! (RFC 4862 §5.4): the address is made of the card's own, which is unique as long as cards are.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use interfaces::net::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};
use smoltcp::{
    iface::{Interface, PollResult, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, TxToken},
    socket::dhcpv4,
    time::{Duration, Instant},
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress, Icmpv6Packet, Icmpv6Repr,
        IpProtocol, Ipv6Packet, Ipv6Repr, NdiscPrefixInfoFlags, NdiscRepr,
    },
};

use crate::{
    addresses::{Addresses, at_prefix, link_local},
    config::{Address4, Address6, Config},
    flow::Flow,
    outbox::{Outbox, Wire},
};

const SECOND: u64 = 1_000_000_000;
/// RFC 4861 §10: how often a router is asked for, and how far apart.
const MOST_SOLICITATIONS: u32 = 3;
const SOLICITATION_INTERVAL: u64 = 4 * SECOND;
/// RFC 4862 §5.5.3 (e): a remaining lifetime is not shortened below this by an advertisement, which anybody on the link may send.
const SHORTEST_LIFETIME: u64 = 2 * 3600 * SECOND;
/// The first question for an address may be sent before the link is up.
const ASK_AGAIN: Duration = Duration::from_secs(3);

pub struct Learner {
    mac: MacAddress,
    /// What the manifest says, which holds where nothing was learned.
    given: Addresses,
    dhcp: Option<Dhcp>,
    routers: Option<Routers>,
    known: Addresses,
    /// When `output` is to be called again.
    pub due: u64,
}

struct Dhcp {
    set: SocketSet<'static>,
    handle: SocketHandle,
}

#[derive(Default)]
struct Routers {
    asked: u32,
    ask_at: u64,
    /// The station's address, and until when.
    prefix: Option<(Ipv6Addr, u64)>,
    router: Option<(Ipv6Addr, u64)>,
}

impl Learner {
    /// None if the manifest says everything.
    pub fn new(config: &Config, mac: MacAddress, now: u64) -> Option<Learner> {
        let dhcp = (config.address == Some(Address4::Dhcp)).then(|| {
            let mut socket = dhcpv4::Socket::new();
            let mut retry = socket.get_retry_config();
            (retry.discover_timeout, retry.initial_request_timeout) = (ASK_AGAIN, ASK_AGAIN);
            socket.set_retry_config(retry);
            let mut set = SocketSet::new(Vec::new());
            let handle = set.add(socket);
            Dhcp { set, handle }
        });
        let routers = (config.address6 == Some(Address6::Auto)).then(|| Routers { ask_at: now, ..Routers::default() });
        let given = Addresses::of(config);
        let known = given.clone();
        (dhcp.is_some() || routers.is_some()).then_some(Learner { mac, given, dhcp, routers, known, due: now })
    }

    /// Whether a datagram is from a DHCP server to its client (RFC 2131 §4.1).
    pub fn is_dhcp(flow: &Flow) -> bool {
        flow.remote_port == 67 && flow.local_port == 68
    }

    /// A datagram of a DHCP server's.
    pub fn input_dhcp(&mut self, interface: &mut Interface, outbox: &mut Outbox, frame: &[u8], now: u64) {
        if let Some(dhcp) = &mut self.dhcp {
            let mut wire = Wire::new(Some(frame), outbox);
            interface.poll_ingress_single(instant(now), &mut wire, &mut dhcp.set);
            self.due = now;
        }
    }

    /// Whether a neighbour's message is a router's advertisement.
    pub fn is_advertisement(frame: &[u8]) -> bool {
        advertisement(frame).is_some()
    }

    /// A router's advertisement, if the frame is a valid one.
    pub fn input_advertisement(&mut self, frame: &[u8], now: u64) {
        let Some(routers) = &mut self.routers else { return };
        let Some((from, NdiscRepr::RouterAdvert { router_lifetime, prefix_info, .. })) = advertisement(frame) else {
            return;
        };
        routers.asked = MOST_SOLICITATIONS;
        let lifetime = router_lifetime.total_micros().saturating_mul(1_000);
        if lifetime > 0 {
            routers.router = Some((from, now.saturating_add(lifetime)));
        } else if routers.router.is_some_and(|(router, _)| router == from) {
            routers.router = None;
        }
        self.due = now;
        // RFC 4862 §5.5.3 (a) to (d).
        let Some(prefix) = prefix_info.filter(|info| {
            info.flags.contains(NdiscPrefixInfoFlags::ADDRCONF)
                && info.prefix_len == 64
                && info.valid_lifetime >= info.preferred_lifetime
                && !info.prefix.is_unicast_link_local()
                && !info.prefix.is_multicast()
        }) else {
            return;
        };
        let (address, told) =
            (at_prefix(prefix.prefix, self.mac), prefix.valid_lifetime.total_micros().saturating_mul(1_000));
        let remaining =
            routers.prefix.filter(|(known, _)| *known == address).map(|(_, until)| until.saturating_sub(now));
        let lifetime = match remaining {
            Some(remaining) if told <= SHORTEST_LIFETIME && told <= remaining => {
                remaining.min(SHORTEST_LIFETIME.max(told))
            }
            _ => told,
        };
        if lifetime > 0 {
            routers.prefix = Some((address, now.saturating_add(lifetime)));
        }
    }

    /// Sends what is to be sent; comes back with the addresses if they have changed.
    pub fn output(&mut self, interface: &mut Interface, outbox: &mut Outbox, now: u64) -> Option<Addresses> {
        if self.due > now {
            return None;
        }
        let mut known = self.known.clone();
        self.due = u64::MAX;
        if let Some(dhcp) = &mut self.dhcp {
            let mut wire = Wire::new(None, outbox);
            while interface.poll_egress(instant(now), &mut wire, &mut dhcp.set) == PollResult::SocketStateChanged {}
            let socket: &mut dhcpv4::Socket = dhcp.set.get_mut(dhcp.handle);
            match socket.poll() {
                Some(dhcpv4::Event::Configured(lease)) => {
                    let prefix = lease.address.prefix_len();
                    known.ipv4 = Ipv4Net::new(lease.address.address(), prefix).ok();
                    known.gateway = lease.router;
                    // What the manifest says goes first.
                    known.dns = self.given.dns.clone();
                    known.dns.extend(lease.dns_servers.iter().map(|&server| IpAddr::V4(server)));
                    log::info!("DHCP: {} from {}", lease.address, lease.server.address);
                }
                Some(dhcpv4::Event::Deconfigured) => {
                    if known.ipv4.is_some() {
                        log::warn!("DHCP: the lease of {:?} is over", known.ipv4);
                    }
                    (known.ipv4, known.gateway, known.dns) = (None, None, self.given.dns.clone());
                }
                None => {}
            }
            if let Some(at) = interface.poll_at(instant(now), &dhcp.set) {
                self.due = (at.total_micros() as u64 * 1_000).max(now + 1);
            }
        }
        if let Some(routers) = &mut self.routers {
            if routers.asked < MOST_SOLICITATIONS && now >= routers.ask_at {
                solicit(outbox, self.mac);
                (routers.asked, routers.ask_at) = (routers.asked + 1, now + SOLICITATION_INTERVAL);
            }
            routers.prefix = routers.prefix.filter(|(_, until)| *until > now);
            routers.router = routers.router.filter(|(_, until)| *until > now);
            known.ipv6 = routers.prefix.and_then(|(address, _)| Ipv6Net::new(address, 64).ok());
            known.gateway6 = routers.router.map(|(router, _)| router).or(self.given.gateway6);
            if known.ipv6 != self.known.ipv6 {
                log::info!("router advertisement: {:?} by {:?}", known.ipv6, known.gateway6);
            }
            let ends = [routers.prefix, routers.router].into_iter().flatten().map(|(_, until)| until);
            let asks = (routers.asked < MOST_SOLICITATIONS).then_some(routers.ask_at);
            self.due = ends.chain(asks).fold(self.due, u64::min);
        }
        if known == self.known {
            return None;
        }
        self.known = known;
        Some(self.known.clone())
    }
}

/// A valid router's advertisement and who sent it (RFC 4861 §6.1.2).
fn advertisement(frame: &[u8]) -> Option<(Ipv6Addr, NdiscRepr<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    if ip.next_header() != IpProtocol::Icmpv6 || ip.hop_limit() != 255 || !from.is_unicast_link_local() {
        return None;
    }
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    if icmp.msg_code() != 0 {
        return None;
    }
    match Icmpv6Repr::parse(&from, &to, &icmp, &ChecksumCapabilities::default()).ok()? {
        Icmpv6Repr::Ndisc(repr @ NdiscRepr::RouterAdvert { .. }) => Some((from, repr)),
        _ => None,
    }
}

/// Asks all routers on the link to say what they have to say (RFC 4861 §6.3.7).
fn solicit(outbox: &mut Outbox, mac: MacAddress) {
    let (from, to) = (link_local(mac), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
    let station = EthernetAddress::from_bytes(&mac.0);
    let message =
        Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: Some(HardwareAddress::Ethernet(station).into()) });
    let len = message.buffer_len();
    let ip =
        Ipv6Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Icmpv6, payload_len: len, hop_limit: 255 };
    // RFC 2464 §7.
    let all_routers = EthernetAddress([0x33, 0x33, 0, 0, 0, 2]);
    let ethernet = EthernetRepr { src_addr: station, dst_addr: all_routers, ethertype: EthernetProtocol::Ipv6 };
    let header = ethernet.buffer_len() + ip.buffer_len();
    let mut wire = Wire::new(None, outbox);
    // No place on the way out: it is asked again.
    let Some(place) = wire.transmit(Instant::ZERO) else { return };
    place.consume(header + len, |frame| {
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut *frame));
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[ethernet.buffer_len()..]));
        let mut icmp = Icmpv6Packet::new_unchecked(&mut frame[header..]);
        message.emit(&from, &to, &mut icmp, &ChecksumCapabilities::default());
    });
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}
