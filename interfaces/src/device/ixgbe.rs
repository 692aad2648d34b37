//! The 82599 family as its driver domain sees it: registers without bus addresses, and rings that belong to the lease.
//!
//! Implemented in the kernel's image by `drivers/ixgbe-device`. Rings, posted buffers and cursors outlive the driver's generation; the next one
//! *adopts* them.

use core::fmt;

use crate::{CallError, Cap, RRef, interface, packet::Batch};

/// What the kernel found at the device's place on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// MSI-X vectors that this driver has, one per CPU of the domain and one for everything else.
    pub vectors: u16,
}

/// Why the trusted layer did not do what the driver asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The kernel call itself failed.
    Call(CallError),
    /// The register carries bus addresses, interrupts' targets, or lies outside the device: only the trusted layer writes it.
    ForbiddenRegister,
    /// No ring, queue or vector of that number.
    NoSuchQueue,
    /// The device reads all ones: it has left the bus.
    Vanished,
    /// The device wrote back something impossible (length, index, repeated); the ring is to be reset.
    Lied,
    /// A ring can't have that many descriptors.
    WrongLength,
    /// No memory for rings or buffers.
    NoMemory,
    /// A step that should complete in bounded time did not.
    TimedOut,
    /// A ring is open: in use by another thread, or not yet closed. Close it, or try again soon.
    Busy,
    /// The device has not been reset under this lease, so nobody knows where it may write: `reset_lease` first.
    NotReset,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceError::Call(error) => return error.fmt(f),
            DeviceError::ForbiddenRegister => "the register is not open to drivers",
            DeviceError::NoSuchQueue => "no such queue or vector",
            DeviceError::Vanished => "the device has left the bus",
            DeviceError::Lied => "the device wrote back what cannot be",
            DeviceError::WrongLength => "a ring cannot have that length",
            DeviceError::NoMemory => "no memory for the ring or its buffers",
            DeviceError::TimedOut => "the device did not do a step in time",
            DeviceError::Busy => "a ring is open",
            DeviceError::NotReset => "the device has not been reset",
        })
    }
}

impl core::error::Error for DeviceError {}

impl From<CallError> for DeviceError {
    fn from(error: CallError) -> Self {
        DeviceError::Call(error)
    }
}

/// What the lease remembers for the next generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// No generation has driven the device since boot or since it was reset: initialise it.
    Fresh,
    /// Rings are live and the device has gone on by itself: adopt them, touch nothing that stops it.
    Live { rx_queues: u16, tx_queues: u16 },
    /// The device has lied, vanished or hung: reset it.
    Suspect,
}

/// What resets have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Resets of a device that had rings.
    pub resets: u64,
    /// Frames that the device had received into a ring, and nobody had taken.
    pub received: u64,
    /// Frames in a ring that the device had not sent.
    pub unsent: u64,
}

/// One 82599-family function.
#[interface(kernel)]
pub trait IxgbeDevice {
    fn identity(&self) -> Identity;

    /// Bytes that this box's packet buffers have for a frame: a longer one that the device takes is dropped.
    fn buffer_bytes(&self) -> u16;

    /// Reads the 32-bit register at byte `offset` of BAR 0.
    fn read(&self, offset: u32) -> Result<u32, DeviceError>;

    /// Writes a register that carries no bus address and no interrupt routing.
    fn write(&self, offset: u32, value: u32) -> Result<(), DeviceError>;

    fn lease(&self) -> LeaseState;

    /// Declares the device initialised (rings made, RX and TX on), so that the next generation adopts.
    fn set_live(&self, rx_queues: u16, tx_queues: u16) -> Result<(), DeviceError>;

    /// Declares the device faulty: the next generation resets it instead of adopting. (The trusted layer does so itself when it catches a lie.)
    fn set_suspect(&self) -> Result<(), DeviceError>;

    /// Disables all rings, drains, waits as 82599 §4.6.7.1 wants, resets the device, takes all posted buffers back to the pool: the lease is
    /// `Fresh` again. `Busy` while a ring is open.
    fn reset_lease(&self) -> Result<(), DeviceError>;

    /// What resets have cost since the lease began. (What the packet buffer held is lost with them too; only the device knew how much that was.)
    fn losses(&self) -> Losses;

    /// Opens RX ring `queue`: makes it, of `length` descriptors (multiple of 8, at most 4,096), posts buffers and enables it; or, if the lease has it
    /// already, adopts it as it is, with the cursors that the lease kept. While nobody has it open, and until what piled up meanwhile has been received,
    /// frames without a descriptor wait in the device's packet buffer; else they are dropped there. In a `vlan` (1 to 4,094) the device takes its tag out of each frame, and frames of no VLAN
    /// or another are dropped.
    fn rx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn RxRing>, DeviceError>;

    /// The same for a TX ring; in a `vlan` the device puts its tag into each frame. The device's DMA transmission must be on (DMATXCTL.TE), or the ring can't be enabled (82599 §4.6.8).
    fn tx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn TxRing>, DeviceError>;

    /// Routes what arrives at `queue` to an MSI-X vector whose interrupt is delivered to the domain's `queue`-th CPU.
    fn queue_interrupt(&self, queue: u16) -> Result<Cap<dyn Interrupt>, DeviceError>;

    /// The vector for link changes and errors.
    fn misc_interrupt(&self) -> Result<Cap<dyn Interrupt>, DeviceError>;
}

/// Statistics of one ring, since the lease began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    pub packets: u64,
    pub bytes: u64,
    /// Frames the device flagged as damaged, longer than a buffer, or not of the ring's VLAN: dropped.
    pub errors: u64,
    /// Times that the pool had no buffer to post.
    pub no_buffer: u64,
}

/// A receive ring of the lease.
#[interface(kernel)]
pub trait RxRing {
    /// Moves up to `limit` received packets into `batch` and posts fresh buffers in their place (one tail write). Returns how many.
    fn receive(&mut self, batch: &mut RRef<Batch>, limit: usize) -> Result<usize, DeviceError>;

    /// Whether the next descriptor has been written back.
    fn ready(&self) -> bool;

    fn counts(&self) -> RingCounts;
}

/// A transmit ring of the lease.
#[interface(kernel)]
pub trait TxRing {
    /// Moves packets from the front of `batch` into the ring while there is room (one tail write, RS once). Returns how many; reclaims
    /// completed buffers to the pool on the way.
    fn send(&mut self, batch: &mut RRef<Batch>) -> Result<usize, DeviceError>;

    /// Takes completed buffers back to the pool. Returns how many are still in flight.
    fn reclaim(&mut self) -> Result<usize, DeviceError>;

    fn counts(&self) -> RingCounts;
}

/// One MSI-X vector, as an event that one thread waits for.
#[interface(kernel)]
pub trait Interrupt {
    /// Blocks until the vector has fired since the last wait, or `deadline` (nanoseconds) is past. True if it fired.
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError>;
}
