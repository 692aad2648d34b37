//! The probe: a stream of numbered datagrams to a UDP VIP at a fixed rate, sent by the clock; and a thinner one, by the same clock, to every other UDP
//! VIP. When they arrive is read from the captures.

use crate::clock::Moment;
use crate::error::Error;
use crate::frame::PROBE_MAGIC;
use crate::namespace::Namespace;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A running stream.
pub struct Probe {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// The stream goes to the first of the services, every tenth number also to each of the others, counted from 0 there.
    pub fn start(client: &Namespace, services: Vec<SocketAddrV4>, rate: u32) -> Result<Self, Error> {
        let socket = client.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("probe's socket"))?;
            // Waiting for room would shift all later probes; one that finds none is lost, and seen to be.
            socket.set_nonblocking(true).map_err(Error::io("probe's socket"))?;
            Ok(socket)
        })?;
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counter, stopped) = (sent.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("probe".into())
            .spawn(move || send(&socket, &services, rate, &counter, &stopped))
            .map_err(Error::io("probe's thread"))?;
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// How many were sent so far: also the number of the next one.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Ends the stream; returns when the last one is out.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It only sends; if it panicked the count tells.
            let _ = thread.join();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How many numbers of the stream there are to one of a thinner one.
pub const THIN: u64 = 10;

fn send(socket: &UdpSocket, services: &[SocketAddrV4], rate: u32, sent: &AtomicU64, stop: &AtomicBool) {
    let interval = Duration::from_secs(1) / rate.max(1);
    let start = Moment::now();
    let mut number = 0u64;
    while !stop.load(Ordering::Acquire) {
        let due = start + interval * u32::try_from(number).unwrap_or(u32::MAX);
        let now = Moment::now();
        if now < due {
            thread::sleep(due.since(now));
        }
        for (place, service) in services.iter().enumerate() {
            let number = match place {
                0 => number,
                _ if number.is_multiple_of(THIN) => number / THIN,
                _ => continue,
            };
            let mut datagram = [0; 24];
            datagram[..8].copy_from_slice(&PROBE_MAGIC);
            datagram[8..16].copy_from_slice(&number.to_be_bytes());
            datagram[16..].copy_from_slice(&Moment::now().0.to_be_bytes());
            // "No route yet" and "no room" are lost probes: the receivers' count says so.
            let _ = socket.send_to(&datagram, service);
        }
        number += 1;
        sent.store(number, Ordering::Release);
    }
}
