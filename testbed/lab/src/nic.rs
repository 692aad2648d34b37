//! The box's NIC: the 82599 model on a thread of its own, with its wire in the lab's NIC namespace.

use crate::error::Error;
use crate::namespace::Namespace;
use crate::network::PORT;
use crate::options::BoxSettings;
use crate::report::NicReport;
use crate::switch_port::SwitchPort;
use model::control::{self, Control, Remote};
use model::packet_socket::PacketSocket;
use model::vfio_user::Server;
use model::{NicConfig, SharedCounters};
use std::path::Path;
use std::thread::JoinHandle;

/// Longest frame without FCS that the wire carries: the MTU, Ethernet's header and one VLAN tag.
fn longest_frame(mtu: u32) -> usize {
    mtu as usize + 18
}

pub struct Nic {
    counters: SharedCounters,
    remote: Remote,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Nic {
    /// Listens at `socket` for QEMU.
    pub fn serve(namespace: &Namespace, socket: &Path, own: &BoxSettings, mtu: u32) -> Result<Self, Error> {
        let failed = |step: &str, reason: String| Error::Network { step: format!("NIC model: {step}"), reason };
        let counters = SharedCounters::new();
        let wire = namespace
            .run(|| PacketSocket::open(PORT, longest_frame(mtu)).map_err(|error| failed("wire", error.to_string())))?
            .count_overruns(counters.clone());
        let wire = SwitchPort::new(wire, own.vlan);
        let server = Server::bind(socket).map_err(|error| failed("socket", error.to_string()))?;
        let (remote, inbox) = control::channel().map_err(Error::io("NIC model's commands"))?;
        let config = NicConfig { mac: own.mac, ..NicConfig::default() };
        let counting = counters.clone();
        let thread = namespace.spawn("nic", move || {
            server.serve(config, wire, inbox, counting).map(drop).map_err(|error| error.to_string())
        })?;
        Ok(Self { counters, remote, thread: Some(thread) })
    }

    /// Has the model do something.
    pub fn command(&self, control: Control) -> Result<(), Error> {
        self.remote.send(control).map_err(Error::io("NIC model's commands"))
    }

    /// What was counted up to now. Frames that still wait in the packet buffer are neither received nor missed.
    pub fn report(&self) -> NicReport {
        let seen = self.counters.snapshot();
        let used = seen.rx_queue.iter().rposition(|frames| *frames > 0).map_or(0, |last| last + 1);
        let queues = seen.rx_queue[..used].to_vec();
        NicReport {
            rx: seen.rx_delivered,
            missed: seen.rx_missed() + seen.rx_filtered() + seen.rx_bad_length + seen.wire_overrun,
            tx: seen.tx_wire,
            rx_control: seen.rx_control,
            rx_queues: queues,
            rx_longest: seen.rx_longest,
            tx_longest: seen.tx_longest,
            dma_refused: seen.dma_refused,
        }
    }

    /// Every count by its name, for the report of a run whose sums don't agree.
    pub fn detail(&self) -> String {
        let named = self.counters.snapshot().named();
        let told: Vec<_> =
            named.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        told.join(", ")
    }

    /// Ends the model; says why it had failed, if it had.
    pub fn stop(&mut self) -> Option<String> {
        // It may have ended with QEMU.
        let _ = self.remote.send(Control::Stop);
        match self.thread.take()?.join() {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some("the NIC model panicked".into()),
        }
    }
}
