//! A small segment for tests: a box with two VIPs and three backends, and frames as its neighbours would send them. Checksums are left to
//! the device (`GOOD`), as on a card.
#![allow(dead_code, reason = "each test uses a part of the stage")]

use maglev::{
    Config,
    frame::{Checked, Checksums, Mac},
};

pub const BOX: Mac = [0x02, 0, 0, 0, 0, 0xb0];
pub const ROUTER: Mac = [0x02, 0, 0, 0, 0, 0x01];
pub const GOOD: Checksums = Checksums { ip: Checked::Good, transport: Checked::Good };

pub const OWN: u32 = address(2);
pub const WEB: u32 = address(100);
pub const DNS: u32 = address(101);

pub const fn address(host: u8) -> u32 {
    0x0a00_0100 | host as u32
}

/// The link address of backend `n` (1 to 3), whose address is `address(10 + n)`.
pub const fn backend_mac(n: u8) -> Mac {
    [0x02, 0, 0, 0, 1, n]
}

pub const CONFIG: &str = r#"
address = "10.0.1.2/24"
table-size = 5003
connections = 4096
vips = [
    { name = "web", address = "10.0.1.100", port = 80, protocol = "tcp", backends = [{ name = "b1" }, { name = "b2" }, { name = "b3", weight = 2 }] },
    { name = "dns", address = "10.0.1.101", protocol = "udp", backends = [{ name = "b1" }, { name = "b2" }] },
]
backends = [
    { name = "b1", address = "10.0.1.11" },
    { name = "b2", address = "10.0.1.12" },
    { name = "b3", address = "10.0.1.13" },
]
"#;

pub fn config() -> Config {
    toml::from_str(CONFIG).unwrap()
}

fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ipv4(source: u32, destination: u32, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend(payload);
    ethernet(BOX, ROUTER, 0x0800, &packet)
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 17;
pub const RST: u8 = 4;

/// A client of a number: one address and port.
pub fn client(n: u32) -> (u32, u16) {
    (0xc000_0200 + (n >> 12), 1024 + (n & 0xfff) as u16)
}

pub fn tcp(n: u32, destination: u32, port: u16, flags: u8) -> Vec<u8> {
    let (source, source_port) = client(n);
    let mut segment = source_port.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    ipv4(source, destination, 6, &segment)
}

pub fn udp(n: u32, destination: u32, port: u16) -> Vec<u8> {
    let (source, source_port) = client(n);
    let mut datagram = source_port.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    ipv4(source, destination, 17, &datagram)
}

fn internet_checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn icmp(source: u32, destination: u32, mut message: Vec<u8>) -> Vec<u8> {
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv4(source, destination, 1, &message)
}

pub fn echo(destination: u32) -> Vec<u8> {
    icmp(client(1).0, destination, vec![8, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9])
}

/// "Fragmentation needed", about a segment that a backend sent to client `n`.
pub fn too_big(n: u32, vip: u32, port: u16) -> Vec<u8> {
    let (source, source_port) = client(n);
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
    message.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 63, 6, 0, 0]);
    message.extend(vip.to_be_bytes());
    message.extend(source.to_be_bytes());
    message.extend(port.to_be_bytes());
    message.extend(source_port.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    icmp(0xc633_6401, vip, message)
}

/// `operation`: 1 asks, 2 answers.
pub fn arp(to: Mac, operation: u8, sender: (Mac, u32), target: u32) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    message.extend(sender.0);
    message.extend(sender.1.to_be_bytes());
    message.extend(to);
    message.extend(target.to_be_bytes());
    ethernet(to, sender.0, 0x0806, &message)
}

/// Backend `n` answers the box.
pub fn arp_answer(n: u8) -> Vec<u8> {
    arp(BOX, 2, (backend_mac(n), address(10 + n)), OWN)
}

/// Which backend (1 to 3) a forwarded frame is for; it must come from the box.
pub fn backend_of(frame: &[u8]) -> u8 {
    assert_eq!(frame[6..12], BOX, "the box writes its own source address");
    assert_eq!(frame[..5], backend_mac(0)[..5], "for a backend");
    frame[5]
}
