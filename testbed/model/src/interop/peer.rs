//! The far end of the guest's cable: a host that answers ping, echoes TCP on port 7, and keeps a file by TFTP.
//!
//! It checks every checksum of what the guest sends, so an offload that the model gets wrong
//! shows as loss.

use std::io;
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use crate::frame_socket::FrameSocket;
use crate::surroundings::Wire;

/// The peer's address; the guest is `.2`.
pub const ADDRESS: [u8; 4] = [10, 9, 0, 1];
const ECHO: u16 = 7;
const TFTP: u16 = 69;
/// Connections at once.
const CONNECTIONS: usize = 16;
const WINDOW: usize = 128 * 1024;

struct Port(FrameSocket);

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Send<'a>(&'a mut FrameSocket);

impl TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        frame.resize(length.max(60), 0);
        self.0.send(&frame);
        result
    }
}

impl Device for Port {
    type RxToken<'a> = Received;
    type TxToken<'a> = Send<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Send<'_>)> {
        let frame = self.0.receive()?.to_vec();
        Some((Received(frame), Send(&mut self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        Some(Send(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 9014;
        capabilities
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
    tcp::Socket::new(buffer(), buffer())
}

/// TFTP with one client and one file (RFC 1350): what was written last is what is read.
fn shelve(file: &mut Vec<u8>, request: &[u8]) -> Option<Vec<u8>> {
    const BLOCK: usize = 512;
    let (&[0, kind], rest) = request.split_first_chunk()? else {
        return None;
    };
    let block = rest.first_chunk().map(|number| usize::from(u16::from_be_bytes(*number)));
    let data = |number: usize| {
        let from = (number - 1) * BLOCK;
        let part = file.get(from..file.len().min(from + BLOCK))?;
        Some([&[0, 3], &(number as u16).to_be_bytes()[..], part].concat())
    };
    let acknowledge = |number: usize| Some([&[0, 4], &(number as u16).to_be_bytes()[..]].concat());
    match kind {
        1 => data(1),
        2 => {
            file.clear();
            acknowledge(0)
        }
        3 => {
            let number = block.filter(|number| *number > 0)?;
            // A repeated block is acknowledged again, and kept once.
            if file.len() == (number - 1) * BLOCK {
                file.extend_from_slice(&rest[2..]);
            }
            acknowledge(number)
        }
        4 => data(block? + 1),
        _ => None,
    }
}

/// Answers until the cable's other end goes.
pub fn answer(cable: FrameSocket) -> io::Result<()> {
    let began = Clock::now();
    let now = || Instant::from_micros(began.elapsed().as_micros() as i64);
    let mut port = Port(cable);
    let mut interface = Interface::new(Config::new(EthernetAddress([2, 0, 0, 0, 0, 0x10]).into()), &mut port, now());
    interface.update_ip_addrs(|addresses| {
        let [a, b, c, d] = ADDRESS;
        // The list is empty and has room for at least two.
        let _ = addresses.push(IpCidr::new(IpAddress::v4(a, b, c, d), 24));
    });
    let mut sockets = SocketSet::new(Vec::new());
    let connections: Vec<SocketHandle> = (0..CONNECTIONS).map(|_| sockets.add(tcp_socket())).collect();
    let datagrams = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; WINDOW]);
    let shelf = sockets.add(udp::Socket::new(datagrams(), datagrams()));
    let mut file = Vec::new();
    sockets.get_mut::<udp::Socket>(shelf).bind(TFTP).map_err(|error| io::Error::other(error.to_string()))?;
    loop {
        interface.poll(now(), &mut port, &mut sockets);
        for handle in &connections {
            let socket = sockets.get_mut::<tcp::Socket>(*handle);
            if !socket.is_open() {
                socket.listen(ECHO).map_err(|error| io::Error::other(error.to_string()))?;
            }
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let Ok(bytes) = socket.recv(|bytes| {
                    let taken = bytes.len().min(room);
                    (taken, bytes[..taken].to_vec())
                }) else {
                    break;
                };
                // There is room for all of it, so nothing is cut off.
                if socket.send_slice(&bytes).is_err() || bytes.is_empty() {
                    break;
                }
            }
            if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                socket.close();
            }
        }
        let socket = sockets.get_mut::<udp::Socket>(shelf);
        while let Ok((bytes, from)) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from)) {
            if let Some(reply) = shelve(&mut file, &bytes) {
                // No room: the datagram is lost, and asked for again.
                let _ = socket.send_slice(&reply, from);
            }
        }
        interface.poll(now(), &mut port, &mut sockets);
        let wait = interface.poll_delay(now(), &sockets).map_or(Duration::from_millis(100), |delay| {
            Duration::from_micros(delay.total_micros()).min(Duration::from_millis(100))
        });
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
        poll(&mut [PollFd::new(&port.0, PollFlags::IN)], Some(&wait))?;
        if port.0.closed() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is put is got back, also when a block comes twice.
    #[test]
    fn tftp_round_trip() {
        let mut file = Vec::new();
        assert_eq!(shelve(&mut file, b"\0\x02f\0octet\0").unwrap(), [0, 4, 0, 0]);
        let first = [&[0, 3, 0, 1][..], &[7; 512]].concat();
        assert_eq!(shelve(&mut file, &first).unwrap(), [0, 4, 0, 1]);
        assert_eq!(shelve(&mut file, &first).unwrap(), [0, 4, 0, 1]);
        assert_eq!(shelve(&mut file, &[0, 3, 0, 2, 9, 9]).unwrap(), [0, 4, 0, 2]);
        assert_eq!(shelve(&mut file, b"\0\x01f\0octet\0").unwrap(), first);
        assert_eq!(shelve(&mut file, &[0, 4, 0, 1]).unwrap(), [0, 3, 0, 2, 9, 9]);
        assert_eq!(shelve(&mut file, &[0, 4, 0, 2]), None);
        assert_eq!(shelve(&mut file, &[0]), None);
    }
}
