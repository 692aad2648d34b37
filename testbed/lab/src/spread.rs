//! Short flows to every VIP, each from a port of its own: what shows how a VIP's flows are shared out among its backends.
//!
//! To a UDP VIP a flow is one datagram. To a TCP VIP it is a connect that is given up at once: the SYN passes the box, the backend answers the client, and
//! the client, which knows of no such connection any more, refuses with a RST.

use crate::clock::Moment;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::network::KERNEL_PORTS;
use crate::options::{Protocol, RunOptions};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A source port is used again only after all others have been. None is one that a connection of the load has or had: by its port a broken connection
/// is found among what the backends saw.
const PORTS: RangeInclusive<u16> = *KERNEL_PORTS.end() + 1..=65_000;

pub struct Spread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spread {
    pub fn start(client: &Namespace, options: &RunOptions) -> Result<Self, Error> {
        let targets: Vec<_> =
            options.vips.iter().map(|vip| (SocketAddrV4::new(vip.address, vip.port), vip.protocol)).collect();
        let rate = options.lab.load.spread_rate;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let wanted = rate > 0 && !targets.is_empty();
        let thread = wanted.then(|| client.spawn("spread", move || send(&targets, rate, &stopped))).transpose()?;
        Ok(Self { stop, thread })
    }

    /// Ends it; returns when the last datagram is out.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It only sends; if it panicked the shares tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.stop();
    }
}

fn send(targets: &[(SocketAddrV4, Protocol)], rate: u32, stop: &AtomicBool) {
    let start = Moment::now();
    for (turn, port) in PORTS.cycle().enumerate() {
        let due = start + Duration::from_secs_f64(turn as f64 / f64::from(rate));
        while Moment::now() < due {
            if stop.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(due.since(Moment::now()).min(Duration::from_millis(50)));
        }
        for (target, protocol) in targets {
            // A port that somebody else has is passed over, and what finds no room is lost: neither says anything about shares.
            let _ = match protocol {
                Protocol::Udp => datagram(port, *target),
                Protocol::Tcp => connect_and_give_up(port, *target),
            };
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
    }
}

fn datagram(port: u16, target: SocketAddrV4) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?.send_to(b"spread", target).map(drop)
}

fn connect_and_give_up(port: u16, target: SocketAddrV4) -> io::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    match connect(socket.as_raw_fd(), &SockaddrIn::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that broke keeps its port to itself: a short flow from there would be taken for it, and so another backend for the dead one.
    #[test]
    fn no_port_is_a_connections() {
        assert!(PORTS.clone().all(|port| !KERNEL_PORTS.contains(&port)));
    }
}
