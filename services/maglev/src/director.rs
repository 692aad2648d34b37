//! What becomes of each packet, on one CPU: forwarded to a backend, answered, or dropped for a reason. Pure: frames and the time go in,
//! changed frames and verdicts come out, so the very code that runs in the box is tested, fuzzed and measured on the host.

use alloc::sync::Arc;

use twox_hash::XxHash3_64;

use crate::{
    connections::{Connections, Inserted, Key, Phase, Signal},
    drops::DropReason,
    frame::{self, Arp, ArpOperation, Checksums, Content, Echo, Flow, Heard, Mac, Protocol},
    plan::{ServiceId, Services, Stage, View},
    statistics::CpuCounters,
    table::BackendId,
};

/// What to do with a frame, which has been changed accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it: it is a client's packet for a backend.
    Forward,
    /// Send it: it has become the answer to its sender.
    Answer,
    /// Drop it; if it is for `DropReason::Starting`, unless it can be held until the box serves.
    Drop(DropReason),
    /// Drop it (as `DropReason::Learned`), and tell the planner what this station says of itself.
    Learn(Heard),
}

/// What a frame holds, and the hash of its flow if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    content: Result<Content, DropReason>,
    hash: u64,
}

impl Look {
    /// For the places of a batch that hold no packet.
    pub const NOTHING: Look = Look { content: Err(DropReason::Runt), hash: 0 };
}

/// One CPU's packet path.
pub struct Director {
    own: Mac,
    services: Arc<Services>,
    view: View,
    connections: Connections,
    counters: Arc<CpuCounters>,
}

/// What a flow is known by, wherever it is looked up. No seed: the next generation, and a second box, must find the same.
#[inline]
fn hash(flow: &Flow) -> u64 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&flow.source.to_be_bytes());
    bytes[4..8].copy_from_slice(&flow.destination.to_be_bytes());
    bytes[8..10].copy_from_slice(&flow.source_port.to_be_bytes());
    bytes[10..12].copy_from_slice(&flow.destination_port.to_be_bytes());
    bytes[12] = match flow.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    XxHash3_64::oneshot(&bytes)
}

impl Director {
    pub fn new(
        own: Mac,
        services: Arc<Services>,
        view: View,
        connections: Connections,
        counters: Arc<CpuCounters>,
    ) -> Director {
        Director { own, services, view, connections, counters }
    }

    /// The box's link-layer address.
    pub fn own(&self) -> &Mac {
        &self.own
    }

    pub fn counters(&self) -> &Arc<CpuCounters> {
        &self.counters
    }

    pub fn stage(&self) -> Stage {
        self.view.plan().stage
    }

    /// To be called between batches: takes up a new plan, forgets some of what has expired.
    pub fn between_batches(&mut self, now: u64) {
        self.view.refresh();
        if self.connections.sweep(now) {
            for (traffic, &live) in self.counters.backends.iter().zip(self.connections.live()) {
                traffic.live.set(u64::from(live));
            }
        }
    }

    /// The first look at a received frame. The memory that judging it needs is on its way from here on: so all frames of a batch are looked into before the first is
    /// judged.
    #[inline]
    pub fn look(&self, frame: &[u8], checksums: Checksums) -> Look {
        let content = frame::parse(frame, &self.own, checksums);
        let hash = match &content {
            Ok(Content::Flow(flow, signal)) => {
                let hash = hash(flow);
                self.connections.prefetch(hash, *signal == Signal::Open);
                hash
            }
            Ok(Content::FlowError(flow)) => hash(flow),
            _ => 0,
        };
        Look { content, hash }
    }

    /// Judges a frame that has been looked into. Counts what goes through VIPs and to backends; the caller counts the verdicts, once it
    /// knows that they were carried out.
    #[inline]
    pub fn judge(&mut self, frame: &mut [u8], look: &Look, now: u64) -> Verdict {
        let judged = match &look.content {
            Ok(Content::Flow(flow, signal)) => self.forward(frame, flow, look.hash, Some(*signal), now),
            Ok(Content::FlowError(flow)) => self.forward(frame, flow, look.hash, None, now),
            Ok(Content::Arp(arp)) => self.arp(frame, arp),
            Ok(Content::Echo(echo)) => self.echo(frame, echo),
            Err(reason) => Err(*reason),
        };
        judged.unwrap_or_else(Verdict::Drop)
    }

    /// Looks at one frame and judges it.
    pub fn direct(&mut self, frame: &mut [u8], checksums: Checksums, now: u64) -> Verdict {
        let look = self.look(frame, checksums);
        self.judge(frame, &look, now)
    }

    fn arp(&self, frame: &mut [u8], arp: &Arp) -> Result<Verdict, DropReason> {
        if arp.sender_mac == self.own || self.services.owns(arp.sender) {
            // Ourselves, or somebody who claims an address of ours: neither is to be answered or learned from.
            return Err(DropReason::BadSource);
        }
        let answer = arp.operation == ArpOperation::Reply;
        if self.services.is_backend(arp.sender) && (answer || !self.services.owns(arp.target)) {
            return Ok(Verdict::Learn(Heard { address: arp.sender, mac: arp.sender_mac, answer }));
        }
        match arp.operation {
            ArpOperation::Request if self.services.owns(arp.target) => {
                frame::answer_arp(frame, arp, self.own);
                Ok(Verdict::Answer)
            }
            _ => Err(DropReason::NotOurAddress),
        }
    }

    fn echo(&self, frame: &mut [u8], echo: &Echo) -> Result<Verdict, DropReason> {
        if !self.services.owns(echo.destination) {
            return Err(DropReason::NotOurAddress);
        }
        if self.services.owns(echo.source) {
            return Err(DropReason::BadSource);
        }
        frame::answer_echo(frame, echo, self.own);
        Ok(Verdict::Answer)
    }

    /// `signal`: what the packet says about its connection; none if it is about it but not of it (an ICMP error).
    #[inline]
    fn forward(
        &mut self,
        frame: &mut [u8],
        flow: &Flow,
        hash: u64,
        signal: Option<Signal>,
        now: u64,
    ) -> Result<Verdict, DropReason> {
        let Some(service) = self.services.find(flow.destination, flow.protocol, flow.destination_port) else {
            return Err(if self.services.owns(flow.destination) {
                DropReason::NotServed
            } else {
                DropReason::NotOurAddress
            });
        };
        if self.stage() == Stage::Starting {
            return Err(if self.services.owns(flow.source) { DropReason::BadSource } else { DropReason::Starting });
        }
        let (backend, mac) = self.choose(service, flow, hash, signal, now)?;
        frame::redirect(frame, mac, self.own);
        let bytes = frame.len() as u64;
        for traffic in [&self.counters.vips[service.index()], &self.counters.backends[backend.index()]] {
            traffic.packets.add(1);
            traffic.bytes.add(bytes);
        }
        Ok(Verdict::Forward)
    }

    /// The backend of a flow: the one that its connection has, while that is alive; else the one that the table names.
    #[inline]
    fn choose(
        &mut self,
        service: ServiceId,
        flow: &Flow,
        hash: u64,
        signal: Option<Signal>,
        now: u64,
    ) -> Result<(BackendId, Mac), DropReason> {
        let key = Key {
            source: flow.source,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            service: service.0,
        };
        let plan = self.view.plan();
        let named = || {
            let backend = plan.tables[service.index()].pick(hash).ok_or(DropReason::NoBackend)?;
            plan.route(backend).map(|mac| (backend, mac)).ok_or(DropReason::NoBackend)
        };
        let Some(mut connection) = self.connections.find(hash, &key, now) else {
            // Here, since none with such a source is ever remembered.
            if self.services.owns(flow.source) {
                return Err(DropReason::BadSource);
            }
            let chosen = named()?;
            // Nothing follows a RST, and an ICMP error begins nothing.
            if let Some(signal) = signal.filter(|&signal| signal != Signal::Reset) {
                let inserted = self.connections.insert(hash, key, chosen.0, signal, now);
                match inserted {
                    Inserted::Free => {}
                    Inserted::Replaced => self.counters.replaced.add(1),
                    Inserted::Untracked => self.counters.untracked.add(1),
                }
                // Of one that isn't remembered every packet looks like the first, but only one is a SYN.
                if inserted != Inserted::Untracked || signal == Signal::Open {
                    self.opened(service, chosen.0);
                }
            }
            return Ok(chosen);
        };
        let there = connection.backend();
        // A SYN after the end of a connection with the same ports is a new one: where its like go now, not where the old one went.
        let begins_anew = signal == Some(Signal::Open) && matches!(connection.phase(), Phase::Closing | Phase::Reset);
        let chosen = match plan.route(there) {
            Some(mac) if !begins_anew => (there, mac),
            _ => {
                let chosen = named()?;
                connection.assign(chosen.0);
                chosen
            }
        };
        if let Some(signal) = signal {
            connection.seen(signal, now);
        }
        if begins_anew {
            self.opened(service, chosen.0);
        } else if chosen.0 != there {
            self.counters.moved.add(1);
        }
        Ok(chosen)
    }

    fn opened(&self, service: ServiceId, backend: BackendId) {
        self.counters.vips[service.index()].opened.add(1);
        self.counters.backends[backend.index()].opened.add(1);
    }
}
