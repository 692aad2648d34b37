//! A disk as the log's medium: whole operations, one after the other, each in as many requests as it takes, many of them in flight.
//!
//! Whatever goes away below is waited for. A read, a write and a flush mean the same when they are done twice; so when a call fails, or a request is lost with a reset, the
//! queue is opened afresh (what an earlier attempt has left in flight has ended by then), and the whole operation is done again. So it is, a few times, when the disk itself
//! reports an error: many of those pass.

use core::{fmt, ops::Range};

use alloc::format;
use interfaces::{
    CallError, Cap, Port, RRef,
    block::{AddError, Block, BlockError, BlockInfo, BlockQueue, Opening, Operation, Order, Requests, Status},
};
use runtime::{
    env::StartError,
    thread::{alive, sleep_until},
    time::now,
};

use super::Medium;

/// Bytes of one request; a disk may want less.
const PIECE: usize = 64 * 1024;
/// Requests in flight: enough for a disk to be busy, and few of the pool's buffers.
const IN_FLIGHT: usize = 8;
/// How often an operation is tried of which the disk says that it went wrong.
const TRIES: u32 = 4;
/// Between two attempts, and between two looks at a queue whose completion nobody announces.
const PAUSE: u64 = 2_000_000;
const LOOK: u64 = 100_000_000;

/// Why the disk can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The operator or the supervisor has ended whoever drives it, or this domain.
    Call(CallError),
    /// What became of the request for this block.
    Request { block: u64, status: Status },
    /// It isn't the disk that it was when the log was opened.
    Changed,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Call(error) => write!(f, "nobody drives the disk any more: {error}"),
            DiskError::Request { block, status } => write!(f, "the disk says {status:?} of block {block}"),
            DiskError::Changed => f.write_str("the disk isn't the one that it was"),
        }
    }
}

/// How an attempt ended short of its aim.
enum Failed {
    Again,
    For(DiskError),
}

impl From<BlockError> for Failed {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Call(error @ (CallError::Cancelled | CallError::Gone)) => Failed::For(DiskError::Call(error)),
            BlockError::NoSuchNamespace | BlockError::NoSuchQueue => Failed::For(DiskError::Changed),
            BlockError::Call(_) | BlockError::QueueBusy | BlockError::Device => Failed::Again,
        }
    }
}

/// What an operation moves.
enum Data<'a> {
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::In(bytes) => bytes.len(),
            Data::Out(bytes) => bytes.len(),
        }
    }
}

pub struct Disk {
    block: Port<dyn Block>,
    index: u16,
    namespace: u16,
    info: BlockInfo,
    /// How many blocks the log has, from the first.
    blocks: u64,
    queue: Option<Cap<dyn BlockQueue>>,
    /// Empty, for the next requests.
    spare: Option<RRef<Requests>>,
}

impl Disk {
    /// The first `bytes` of a namespace, by queue `index`.
    pub fn open(block: Port<dyn Block>, index: u16, namespace: u16, bytes: u64) -> Result<Disk, StartError> {
        let info = loop {
            match block.info(namespace) {
                Ok(info) => break info,
                Err(error) => match Failed::from(error) {
                    Failed::Again => pause().map_err(|error| StartError(format!("{error}")))?,
                    Failed::For(error) => return Err(StartError(format!("namespace {namespace}: {error}"))),
                },
            }
        };
        let size = u64::from(info.block_size);
        if info.blocks * size < bytes {
            return Err(StartError(format!(
                "the disk has {} MiB, and `log-size` is {} MiB",
                info.blocks * size >> 20,
                bytes >> 20
            )));
        }
        let index = index % info.queues.max(1);
        Ok(Disk { block, index, namespace, info, blocks: bytes / size, queue: None, spare: None })
    }

    fn carry(&mut self, operation: Operation, block: u64, mut data: Data) -> Result<(), DiskError> {
        let mut errors = 0;
        loop {
            // An operation begins with a sign of life: a long recovery is made of many.
            alive();
            match self.attempt(operation, block, &mut data) {
                Ok(()) => return Ok(()),
                Err(Failed::For(DiskError::Request {
                    block,
                    status: status @ (Status::Medium | Status::Device(_)),
                })) if errors + 1 < TRIES => {
                    log::warn!("the disk says {status:?} of block {block}; trying again");
                    errors += 1;
                    self.queue = None;
                    pause()?;
                }
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Again) => {
                    self.queue = None;
                    pause()?;
                }
            }
        }
    }

    fn attempt(&mut self, operation: Operation, block: u64, data: &mut Data) -> Result<(), Failed> {
        let mut queue = match self.queue.take() {
            Some(queue) => queue,
            None => {
                let (queue, info) =
                    (self.block.open_queue(self.index, Opening::Fresh)?, self.block.info(self.namespace)?);
                if info.block_size != self.info.block_size || info.blocks < self.blocks {
                    return Err(Failed::For(DiskError::Changed));
                }
                queue
            }
        };
        let mut batch = match self.spare.take() {
            Some(batch) => batch,
            None => empty_batch()?,
        };
        let block_size = self.info.block_size as usize;
        let piece = PIECE.min(self.info.max_blocks as usize * block_size).max(block_size);
        let pieces = if matches!(operation, Operation::Flush) { 1 } else { data.len().div_ceil(piece) };
        let limit = IN_FLIGHT.min(usize::from(self.info.depth)).max(1);
        let place = |piece_at: usize, len: usize| -> Range<usize> { piece_at * piece..len.min((piece_at + 1) * piece) };
        let (mut next, mut in_flight, mut ended) = (0, 0, 0);
        while ended < pieces {
            while next < pieces && in_flight + batch.len() < limit {
                let range = place(next, data.len());
                let order = Order {
                    id: next as u64,
                    operation,
                    namespace: self.namespace,
                    block: block + (range.start / block_size) as u64,
                    blocks: (range.len() / block_size) as u32,
                    ..Order::default()
                };
                let nothing_under_way = in_flight == 0 && batch.is_empty();
                let mut request = match batch.add(order, range.len()) {
                    Ok(request) => request,
                    Err(AddError::NoBuffer) if nothing_under_way => {
                        // Others have all of them, for a while.
                        pause().map_err(Failed::For)?;
                        continue;
                    }
                    Err(_) => break,
                };
                if let Data::Out(bytes) = data {
                    let buffer = request.data_mut().ok_or(Failed::Again)?;
                    buffer[..range.len()].copy_from_slice(&bytes[range]);
                }
                next += 1;
            }
            let before = batch.len();
            batch = queue.submit(batch)?;
            in_flight += before - batch.len();
            // What has found no place stays in front; what comes back goes behind it, and out.
            let waiting = batch.len();
            batch = queue.poll(batch)?;
            if batch.len() == waiting {
                queue.wait(now() + LOOK)?;
                continue;
            }
            for request in &batch.requests()[waiting..] {
                let range = place(request.order().id as usize, data.len());
                match (request.status(), &mut *data) {
                    (Status::Done, Data::In(bytes)) => {
                        let len = range.len();
                        bytes[range].copy_from_slice(&request.data()[..len]);
                    }
                    (Status::Done, Data::Out(_)) => {}
                    (Status::Lost | Status::Open, _) => return Err(Failed::Again),
                    (status, _) => {
                        return Err(Failed::For(DiskError::Request { block: request.order().block, status }));
                    }
                }
                ended += 1;
                in_flight -= 1;
            }
            batch.discard(u32::MAX << waiting);
        }
        (self.queue, self.spare) = (Some(queue), Some(batch));
        Ok(())
    }
}

fn pause() -> Result<(), DiskError> {
    sleep_until(now() + PAUSE).map_err(|_| DiskError::Call(CallError::Cancelled))
}

/// As soon as the quota admits one.
fn empty_batch() -> Result<RRef<Requests>, Failed> {
    Requests::allocate().map_err(|_| Failed::Again)
}

impl Medium for Disk {
    type Error = DiskError;

    fn block_size(&self) -> usize {
        self.info.block_size as usize
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&mut self, block: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.carry(Operation::Read, block, Data::In(bytes))
    }

    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.carry(Operation::Write, block, Data::Out(bytes))
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        // A disk without a volatile cache has nothing to flush.
        if self.info.volatile_cache { self.carry(Operation::Flush, 0, Data::Out(&[])) } else { Ok(()) }
    }
}
