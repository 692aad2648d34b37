//! An NVMe controller as its driver domain sees it: registers to read, admin commands without addresses, and I/O queues that belong to the lease.
//!
//! Implemented in the kernel's image by `drivers/nvme-device`. Queues and the commands in flight in them outlive the driver's generation; the next one
//! *adopts* them. Sections are of the NVM Express Base Specification 2.0.

use core::fmt;

use crate::{
    CallError, Cap, RRef,
    block::{InFlight, Requests},
    interface,
};

/// Bytes of what Identify and Get Log Page give.
pub const DATA_BYTES: usize = 4096;

/// What the kernel found at the device's place on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    /// MSI-X vectors that this driver has: one for the admin queue and one per CPU of the domain, or none.
    pub vectors: u16,
}

/// Why the trusted layer did not do what the driver asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The kernel call itself failed.
    Call(CallError),
    /// No queue or vector of that number, or not made yet.
    NoSuchQueue,
    /// The device reads all ones: it has left the bus.
    Vanished,
    /// The device completed what nobody asked for: the lease is suspect.
    Lied,
    /// A queue can't have that many entries.
    WrongLength,
    NoMemory,
    /// A step that should complete in bounded time did not.
    TimedOut,
    /// The queue is open: in use by another thread, or not yet closed. Close it, or try again soon.
    Busy,
    /// The controller isn't enabled under this lease: `reset_lease` and `enable` first.
    NotReset,
    /// The admin queue has no place: poll first.
    Full,
    /// The controller can't do what this driver needs (NVM command set, pages of 4 KiB, doorbells in the BAR).
    Unsuitable,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceError::Call(error) => return error.fmt(f),
            DeviceError::NoSuchQueue => "no such queue or vector",
            DeviceError::Vanished => "the device has left the bus",
            DeviceError::Lied => "the device completed what nobody asked for",
            DeviceError::WrongLength => "a queue cannot have that length",
            DeviceError::NoMemory => "no memory for the queue",
            DeviceError::TimedOut => "the device did not do a step in time",
            DeviceError::Busy => "a queue is open",
            DeviceError::NotReset => "the controller has not been reset and enabled",
            DeviceError::Full => "the admin queue is full",
            DeviceError::Unsuitable => "the controller lacks what this driver needs",
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
    /// Queues are live and the device has gone on by itself: adopt them.
    Live { queues: u16, depth: u16 },
    /// The device has lied, vanished or hung: reset it.
    Suspect,
}

/// Registers that a driver may read (§3.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Capabilities,
    Version,
    Status,
}

/// Features that a driver may set (§5.27.1): those that name no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    VolatileWriteCache,
    NumberOfQueues,
    InterruptCoalescing,
    AsynchronousEvents,
}

/// Admin commands that a driver may send (§5): those that can't make the device reach memory other than the lease's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// §5.17. The trusted layer takes a namespace's format from the answer to structure 0.
    Identify {
        structure: u8,
        namespace: u32,
    },
    /// §5.16; the first 4,096 bytes at most.
    GetLog {
        page: u8,
        namespace: u32,
        bytes: u16,
    },
    SetFeature {
        feature: Feature,
        value: u32,
    },
    /// §5.1: a request of I/O queue `queue` by its command's number.
    Abort {
        queue: u16,
        command: u16,
    },
    /// §5.2; completes when there is one.
    AsynchronousEvent,
    /// §5.4 and §5.5, for I/O queue `queue` (from 0) with so many entries; first the completion queue.
    CreateCompletionQueue {
        queue: u16,
        entries: u16,
    },
    CreateSubmissionQueue {
        queue: u16,
    },
}

/// An admin command that has come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminDone {
    pub command: AdminCommand,
    /// Status code type and code (§3.3.3.2.1); 0 is success.
    pub status: u16,
    /// Dword 0 of the completion.
    pub result: u32,
}

/// One NVMe controller.
#[interface(kernel)]
pub trait NvmeDevice {
    fn identity(&self) -> Identity;

    fn read(&self, register: Register) -> Result<u64, DeviceError>;

    fn lease(&self) -> LeaseState;

    /// Declares the device initialised (queues made), so that the next generation adopts.
    fn set_live(&self, queues: u16, depth: u16) -> Result<(), DeviceError>;

    /// Declares the device faulty: the next generation resets it instead of adopting. (The trusted layer does so itself when it catches a lie.)
    fn set_suspect(&self) -> Result<(), DeviceError>;

    /// Disables the controller, cuts it off, takes all requests back, which come to an end as `Lost`: the lease is `Fresh` again. Returns how many.
    /// `Busy` while a queue is open.
    fn reset_lease(&self) -> Result<u32, DeviceError>;

    /// Makes the admin queue and enables the controller (§3.5.1).
    fn enable(&self) -> Result<(), DeviceError>;

    /// Tells the controller that power goes (§3.6.1); it is to be reset after that.
    fn shut_down(&self) -> Result<(), DeviceError>;

    fn admin(&self) -> Result<Cap<dyn NvmeAdmin>, DeviceError>;

    /// Opens I/O queue `queue`, which has been made, or adopts it as it is, with the commands in flight.
    fn queue(&self, queue: u16) -> Result<Cap<dyn NvmeQueue>, DeviceError>;

    /// The vector of I/O queue `queue`, delivered to the domain's `queue`-th CPU.
    fn queue_vector(&self, queue: u16) -> Result<Cap<dyn NvmeVector>, DeviceError>;

    /// That of the admin queue.
    fn admin_vector(&self) -> Result<Cap<dyn NvmeVector>, DeviceError>;
}

/// The admin queue.
#[interface(kernel)]
pub trait NvmeAdmin {
    /// Sends a command (one doorbell).
    fn submit(&mut self, command: AdminCommand) -> Result<(), DeviceError>;

    /// A command that has come to an end, if there is one, an earlier generation's included; what it gave is copied to `data`.
    fn poll(&mut self, data: &mut [u8; DATA_BYTES]) -> Result<Option<AdminDone>, DeviceError>;

    /// Whether such a command is in flight, from whichever generation.
    fn is_in_flight(&self, command: AdminCommand) -> bool;
}

/// Numbers of one I/O queue, since the lease began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    pub submitted: u64,
    pub completed: u64,
    /// Came to an end with another status than `Done`.
    pub failed: u64,
    pub doorbells: u64,
}

/// The request that has been in flight for the longest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Its command's number, for an abort.
    pub command: u16,
    /// When it was submitted.
    pub since: u64,
}

/// An I/O queue of the lease: a submission queue and its completion queue.
#[interface(kernel)]
pub trait NvmeQueue {
    /// Moves requests from the front of `batch` into the queue while there is room (one doorbell). Returns how many.
    fn submit(&mut self, batch: &mut RRef<Requests>) -> Result<usize, DeviceError>;

    /// Moves requests that have come to an end to the end of `batch` (one doorbell). Returns how many.
    fn poll(&mut self, batch: &mut RRef<Requests>) -> Result<usize, DeviceError>;

    /// Whether `poll` has something to do or to say.
    fn ready(&self) -> bool;

    /// How many requests are in the queue.
    fn in_flight(&self) -> usize;

    /// Their ids.
    fn list(&self, list: &mut RRef<InFlight>) -> Result<(), DeviceError>;

    fn oldest(&self) -> Option<Oldest>;

    fn counts(&self) -> QueueCounts;
}

/// One MSI-X vector of an NVMe controller, as an event that one thread waits for.
#[interface(kernel)]
pub trait NvmeVector {
    /// Blocks until the vector has fired since the last wait, or `deadline` (nanoseconds) is past. True if it fired.
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError>;
}
