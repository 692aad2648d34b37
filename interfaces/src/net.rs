//! Network interfaces: what a NIC driver exports, and what filters, shadows and services import and export again.

use crate::{CallError, Cap, Exchangeable, RRef, interface, packet::Batch};

/// A station's link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Exchangeable)]
pub struct MacAddress(pub [u8; 6]);

/// What a client wants to know of a NIC before it opens a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub struct NetInfo {
    pub mac: MacAddress,
    /// Number of queue pairs; queue `i` is served on the `i`-th CPU of the driver.
    pub queues: u16,
    /// Largest frame in bytes, without the frame check sequence; a VLAN's tag may come on top. A packet buffer holds it.
    pub max_frame: u16,
    /// Whether it fills in checksums of what it sends, where a packet's flags ask for that (`PacketFlags::FILL_CHECKSUMS`).
    pub fills_checksums: bool,
    /// Whether the link is up, and its speed in Mb/s.
    pub link: Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Link {
    Down,
    Up { mbps: u32 },
}

/// Why a NIC did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum NetError {
    /// The call itself failed.
    Call(CallError),
    /// No queue of that number.
    NoSuchQueue,
    /// The queue has been opened by somebody else and not released.
    QueueBusy,
    /// The device does not answer as it should; the driver is resetting it.
    Device,
}

impl From<CallError> for NetError {
    fn from(error: CallError) -> Self {
        NetError::Call(error)
    }
}

/// A network interface card, or something that looks like one.
#[interface]
pub trait Net {
    /// What this NIC is, and the state of its link.
    fn info(&self) -> Result<NetInfo, NetError>;

    /// Opens queue pair `index` (0-based, below `NetInfo::queues`) for use by one thread.
    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError>;

    /// Ends the `wait` at queue `index`, this one or the next: for a client whose other threads have something for the one that waits there.
    fn wake(&self, index: u16) -> Result<(), NetError>;
}

/// One queue pair of a NIC: used by one thread, so it needs no lock.
#[interface]
pub trait NetQueue {
    /// Fills `batch`, which comes back with what has been received: up to `Batch::CAPACITY` packets, none if nothing has arrived.
    /// `batch` should come empty; packets already in it stay at its front.
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError>;

    /// Sends all packets of `batch`, and gives the batch back. Packets for which the ring had no place remain in it, in order:
    /// the caller may send them again or drop them.
    fn send(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError>;

    /// Blocks until a packet may have arrived or `deadline` (nanoseconds of `runtime::time`) is past. Returns at once if one is there.
    fn wait(&mut self, deadline: u64) -> Result<(), NetError>;
}
