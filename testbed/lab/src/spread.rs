//! Datagrams to every UDP VIP, each from a port of its own: what shows how a VIP's flows are shared out among its backends.

use crate::clock::Moment;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::{Protocol, RunOptions};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A source port is used again only after all others have been.
const PORTS: std::ops::Range<u16> = 20_000..60_000;

pub struct Spread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spread {
    pub fn start(client: &Namespace, options: &RunOptions) -> Result<Self, Error> {
        let udp = options.vips.iter().filter(|vip| vip.protocol == Protocol::Udp);
        let targets: Vec<_> = udp.map(|vip| SocketAddrV4::new(vip.address, vip.port)).collect();
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

fn send(targets: &[SocketAddrV4], rate: u32, stop: &AtomicBool) {
    let start = Moment::now();
    for (turn, port) in PORTS.cycle().enumerate() {
        let due = start + Duration::from_secs_f64(turn as f64 / f64::from(rate));
        while Moment::now() < due {
            if stop.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(due.since(Moment::now()).min(Duration::from_millis(50)));
        }
        // A port that somebody else has is passed over, and a datagram that finds no room is lost: neither says anything about shares.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
            for target in targets {
                let _ = socket.send_to(b"spread", target);
            }
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
    }
}
