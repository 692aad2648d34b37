//! A card and what is behind it, as a domain: clients who send segments of long connections to a VIP, and backends who answer ARP. For tests of services
//! in the rig, above real proxies, where whatever stands between may crash; and this domain too, as a driver would.
//!
//! It watches where each connection goes. The segment is 10.0.1.0/24: the VIP .100, port 80; backends .11 to .13; 1,000 connections, the odd numbers on queue 1.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod frames;

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec, vec::Vec};

use interfaces::{
    Cap, RRef,
    config::NoConfig,
    control::{Control, ControlError, Counters, Text},
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::{Batch, PacketFlags},
};
use runtime::{
    env::{Env, StartError},
    sync::{Mutex, NEVER},
    thread, time,
};

use crate::frames::{BOX, Sent};

/// Connections of the clients.
pub const CONNECTIONS: u32 = 1_000;
const QUEUES: u16 = 2;
/// A queue's clients send a burst this often.
const PERIOD: u64 = 200_000;
const BURST: usize = 4;

#[derive(runtime::Exports)]
pub struct Exports {
    pub net: Box<dyn Net>,
    pub control: Box<dyn Control>,
}

pub fn start(_env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    let queues = (0..QUEUES).map(|index| Mutex::new(Wire::new(index))).collect();
    let segment = Segment(Arc::new(queues));
    Ok(Exports { net: Box::new(segment.clone()), control: Box::new(segment) })
}

/// One queue's wire.
struct Wire {
    /// The next connection to send a segment of.
    next: u32,
    /// When the next burst is due.
    due: u64,
    /// ARP answers on their way, by backend.
    answers: VecDeque<u8>,
    received: u64,
    delivered: u64,
    moved: u64,
    strange: u64,
    /// By connection: its backend; 0 before the first segment.
    backend_of: Vec<u8>,
}

impl Wire {
    fn new(index: u16) -> Wire {
        Wire {
            next: u32::from(index),
            due: 0,
            answers: VecDeque::new(),
            received: 0,
            delivered: 0,
            moved: 0,
            strange: 0,
            backend_of: vec![0; CONNECTIONS as usize],
        }
    }

    /// Whether there is something to receive, and what.
    fn next_frame(&mut self) -> [u8; frames::LEN] {
        if let Some(backend) = self.answers.pop_front() {
            return frames::arp_answer(backend);
        }
        let frame = frames::segment(self.next);
        self.next = (self.next + u32::from(QUEUES)) % CONNECTIONS;
        frame
    }

    fn take(&mut self, frame: &[u8]) {
        match frames::sent(frame) {
            Sent::Request(backend) => self.answers.push_back(backend),
            Sent::Announcement => {}
            Sent::Segment { connection, backend } => {
                self.delivered += 1;
                let known = &mut self.backend_of[connection as usize];
                self.moved += u64::from(*known != 0 && *known != backend);
                *known = backend;
            }
            Sent::Strange => self.strange += 1,
        }
    }
}

#[derive(Clone)]
struct Segment(Arc<Vec<Mutex<Wire>>>);

impl Net for Segment {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo {
            mac: MacAddress(BOX),
            queues: QUEUES,
            max_frame: 1514,
            fills_checksums: false,
            link: Link::Up { mbps: 10_000 },
        })
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if index >= QUEUES {
            return Err(NetError::NoSuchQueue);
        }
        Ok(Cap::new(Box::new(Queue { segment: self.clone(), index: usize::from(index) }) as Box<dyn NetQueue>))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(()) // Its clients have one thread each.
    }
}

struct Queue {
    segment: Segment,
    index: usize,
}

impl NetQueue for Queue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut wire = self.segment.0[self.index].lock();
        let now = time::now();
        let mut count = wire.answers.len();
        if now >= wire.due {
            count += BURST;
            wire.due = now + PERIOD;
        }
        let first = batch.len();
        let count = batch.fill(count.min(Batch::CAPACITY - first));
        for mut packet in batch.packets_mut().into_iter().skip(first) {
            packet.set_len(frames::LEN);
            packet.data_mut().copy_from_slice(&wire.next_frame());
            packet.set_flags(PacketFlags::IP_CHECKSUM_GOOD | PacketFlags::L4_CHECKSUM_GOOD);
        }
        wire.received += count as u64;
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut wire = self.segment.0[self.index].lock();
        batch.packets().iter().for_each(|packet| wire.take(packet.data()));
        batch.clear();
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        let due = self.segment.0[self.index].lock().due;
        Ok(thread::sleep_until(deadline.min(due)).map_err(|_| interfaces::CallError::Cancelled)?)
    }
}

impl Control for Segment {
    /// `missing`: connections no segment of which has been delivered yet. `digest`: of where the others went; the same if and only if all went to the same
    /// backends (but for chance).
    fn counters(&self, _first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let (mut received, mut delivered, mut moved, mut strange) = (0, 0, 0, 0);
        let (mut digest, mut missing) = (0xcbf2_9ce4_8422_2325u64, u64::from(CONNECTIONS));
        for wire in self.0.iter() {
            let wire = wire.lock();
            received += wire.received;
            delivered += wire.delivered;
            moved += wire.moved;
            strange += wire.strange;
            missing -= wire.backend_of.iter().filter(|&&backend| backend != 0).count() as u64;
            digest = wire
                .backend_of
                .iter()
                .fold(digest, |digest, &backend| (digest ^ u64::from(backend)).wrapping_mul(0x0100_0000_01b3));
        }
        let all = [
            ("received", received),
            ("delivered", delivered),
            ("moved", moved),
            ("strange", strange),
            ("missing", missing),
            ("digest", digest),
        ];
        for (name, value) in all {
            page.push(name, value);
        }
        Ok(page)
    }

    /// `pause` and `resume`: whether the clients send.
    fn command(&self, line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        let due = match line.as_str() {
            "pause" => NEVER,
            "resume" => 0,
            _ => return Err(ControlError::UnknownCommand),
        };
        self.0.iter().for_each(|wire| wire.lock().due = due);
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::host;

    fn counter(control: &dyn Control, name: &str) -> u64 {
        let page = control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
        page.as_slice().iter().find(|counter| counter.name.as_str() == name).expect("it has one").value
    }

    /// What a balancer would do: every segment to one backend, then to another.
    #[test]
    fn it_notices_where_connections_go() {
        host::connect();
        let Exports { net, control } = start(Env::new("segment", 1, &[0]), (), NoConfig {}).unwrap();
        let mut queue = net.open_queue(0).unwrap();
        for (backend, moved) in [(1, 0), (1, 0), (2, 4)] {
            let mut batch = queue.receive(Batch::allocate().unwrap()).unwrap();
            assert_eq!(batch.len(), BURST);
            for (i, mut packet) in batch.packets_mut().into_iter().enumerate() {
                packet.data_mut().copy_from_slice(&frames::segment(i as u32));
                frames::redirect(packet.data_mut(), backend);
            }
            queue.send(batch).unwrap();
            assert_eq!(counter(&*control, "moved"), moved);
            host::advance_clock(core::time::Duration::from_nanos(PERIOD));
        }
        assert_eq!(counter(&*control, "missing"), 996);
        assert_eq!(counter(&*control, "delivered"), 12);
        assert!(matches!(net.open_queue(2), Err(NetError::NoSuchQueue)));
    }
}
