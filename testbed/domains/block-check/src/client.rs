//! One thread's work on its queue.

use alloc::{format, string::String, vec, vec::Vec};

use interfaces::{
    CallError, Cap, Port, RRef,
    block::{Block, BlockError, BlockInfo, BlockQueue, Opening, Operation, Order, Requests, Status},
};
use runtime::{thread::sleep_until, time::now};

use crate::{
    Config, Counts, faculties,
    pattern::{self, Found},
};

/// How long a request may take, a driver's restarts included; and a driver to come into being.
const PATIENCE: u64 = 60_000_000_000;
const PAUSE: u64 = 2_000_000;

pub struct Client {
    index: u16,
    queue: Cap<dyn BlockQueue>,
    info: BlockInfo,
    namespace: u16,
    first: u64,
    region: u64,
    request: u32,
    depth: usize,
    passes: u64,
    /// By id: the request's first block and number of blocks, while it is in flight.
    open: Vec<Option<(u64, u32)>>,
    free: Vec<u64>,
    random: u64,
    /// Empty, with place for what comes back.
    spare: Option<RRef<Requests>>,
}

/// Whether calling again soon is what helps.
fn passes_by(error: BlockError) -> bool {
    matches!(error, BlockError::QueueBusy | BlockError::Device)
        || matches!(error, BlockError::Call(error) if error != CallError::Stopped && error != CallError::Cancelled)
}

/// Calls until it works.
fn persist<T>(mut call: impl FnMut() -> Result<T, BlockError>) -> Result<T, String> {
    let limit = now() + PATIENCE;
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if passes_by(error) && now() < limit => {
                sleep_until(now() + PAUSE).map_err(|_| String::from("cancelled"))?;
            }
            Err(error) => return Err(format!("{error:?}")),
        }
    }
}

impl Client {
    pub fn open(block: Port<dyn Block>, index: u16, config: &Config) -> Result<Self, String> {
        let info = persist(|| block.info(config.namespace))?;
        let queue = persist(|| block.open_queue(index, Opening::Fresh))?;
        let region = u64::from(config.region);
        let first = u64::from(index) * region;
        // Behind all regions each thread has some blocks more.
        let more = u64::from(faculties::BLOCKS) * (u64::from(index) + 1);
        if first + region + more > info.blocks {
            return Err(format!("the disk has {} blocks, which is too few", info.blocks));
        }
        let depth = config.depth as usize;
        Ok(Client {
            index,
            queue,
            info,
            namespace: config.namespace,
            first,
            region,
            request: config.request.min(info.max_blocks),
            depth,
            passes: config.passes,
            open: vec![None; depth],
            free: (0..depth as u64).collect(),
            random: u64::from(index) * 0x9e37_79b9 + 1,
            spare: None,
        })
    }

    /// Until all passes are done, or something is wrong.
    pub fn run(&mut self, counts: &Counts) -> Result<(), String> {
        let beyond = self.info.blocks - u64::from(faculties::BLOCKS) * (u64::from(self.index) + 1);
        let found = faculties::all(self, counts, beyond)?;
        log::info!("faculties {} {}", self.index, found.join(" "));
        let (mut least, mut most) = (u64::MAX, 0);
        self.look_at_all(counts, |pass| {
            (least, most) = (least.min(pass), most.max(pass));
            Ok(())
        })?;
        log::info!("found {} from {least} to {most}", self.index);
        let mut pass = most;
        while self.passes == 0 || pass < most + self.passes {
            pass += 1;
            self.write_all(counts, pass)?;
            self.flush(counts)?;
            log::info!("flushed {} {pass}", self.index);
            self.look_at_all(counts, |found| {
                if found == pass { Ok(()) } else { Err(format!("a block of pass {found} where {pass} was written")) }
            })?;
            log::info!("verified {} {pass}", self.index);
            counts.passes.add(1);
        }
        Ok(())
    }

    /// The region in pieces of random sizes, in a random order.
    fn pieces(&mut self) -> Vec<(u64, u32)> {
        let mut pieces = Vec::new();
        let mut block = 0;
        while block < self.region {
            let wanted = u64::from(self.chance(self.request) + 1);
            let blocks = wanted.min(self.region - block);
            pieces.push((self.first + block, blocks as u32));
            block += blocks;
        }
        for at in (1..pieces.len()).rev() {
            let other = self.chance(at as u32 + 1) as usize;
            pieces.swap(at, other);
        }
        pieces
    }

    /// A random number below `limit`.
    fn chance(&mut self, limit: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) as u32) % limit.max(1)
    }

    fn write_all(&mut self, counts: &Counts, pass: u64) -> Result<(), String> {
        let size = self.info.block_size as usize;
        self.all(
            counts,
            Operation::Write,
            |block, data| {
                for (address, bytes) in (block..).zip(data.chunks_exact_mut(size)) {
                    pattern::write(bytes, address, pass);
                }
            },
            |_, _| Ok(()),
        )
    }

    /// Reads the region; `judge` gets the pass of each block.
    fn look_at_all(&mut self, counts: &Counts, mut judge: impl FnMut(u64) -> Result<(), String>) -> Result<(), String> {
        let size = self.info.block_size as usize;
        // What a buffer held before must not be taken for what was read.
        let scribble = |_, data: &mut [u8]| data.fill(0x5a);
        self.all(counts, Operation::Read, scribble, |block, data| {
            for (address, bytes) in (block..).zip(data.chunks_exact(size)) {
                match pattern::read(bytes, address) {
                    Found::Nothing => judge(0)?,
                    Found::Pass(pass) => judge(pass)?,
                    Found::Damaged { at } => return Err(format!("block {address} is damaged from word {at} on")),
                }
            }
            Ok(())
        })
    }

    /// One request for each piece of the region, many in flight.
    fn all(
        &mut self,
        counts: &Counts,
        operation: Operation,
        fill: impl Fn(u64, &mut [u8]),
        mut done: impl FnMut(u64, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut pieces = self.pieces();
        let size = self.info.block_size as usize;
        let mut batch = self.batch()?;
        let mut limit = now() + PATIENCE;
        while !pieces.is_empty() || !batch.is_empty() || self.free.len() < self.depth {
            while batch.len() < Requests::CAPACITY
                && let Some(&(block, blocks)) = pieces.last()
                && let Some(&id) = self.free.last()
            {
                // Now and then amid a page, so that requests begin and end anywhere.
                let offset = if self.chance(4) == 0 { 64 } else { 0 };
                let order =
                    Order { id, operation, namespace: self.namespace, block, blocks, offset, ..Order::default() };
                let bytes = blocks as usize * size;
                let Ok(mut request) = batch.add(order, bytes + offset as usize) else { break };
                let data = request.data_mut().ok_or("a fresh buffer is held by others")?;
                fill(block, &mut data[offset as usize..offset as usize + bytes]);
                self.open[id as usize] = Some((block, blocks));
                pieces.pop();
                self.free.pop();
            }
            batch = self.queue.submit(batch).map_err(|error| format!("submit: {error:?}"))?;
            let ended = self.take_ended(counts, |block, offset, data| {
                let bytes = data.1 as usize * size;
                done(block, &data.0[offset..offset + bytes])
            })?;
            if ended > 0 {
                limit = now() + PATIENCE;
            } else if now() > limit {
                return Err(format!("{} requests didn't come to an end", self.depth - self.free.len()));
            } else {
                self.queue.wait(now() + PAUSE).map_err(|error| format!("wait: {error:?}"))?;
            }
        }
        self.spare = Some(batch);
        Ok(())
    }

    fn batch(&mut self) -> Result<RRef<Requests>, String> {
        self.spare.take().map_or_else(|| Requests::allocate().map_err(|error| format!("{error}")), Ok)
    }

    /// Takes what has come to an end; each must be one that is in flight.
    fn take_ended(
        &mut self,
        counts: &Counts,
        mut done: impl FnMut(u64, usize, (&[u8], u32)) -> Result<(), String>,
    ) -> Result<usize, String> {
        let empty = Requests::allocate().map_err(|error| format!("{error}"))?;
        let ended = self.queue.poll(empty).map_err(|error| format!("poll: {error:?}"))?;
        for request in ended.requests() {
            let order = request.order();
            let known = self.open.get_mut(order.id as usize).and_then(Option::take);
            let Some((block, blocks)) = known else {
                return Err(format!("request {} came to an end twice", order.id));
            };
            if request.status() != Status::Done {
                return Err(format!("{:?} of {blocks} blocks at {block}: {:?}", order.operation, request.status()));
            }
            done(block, order.offset as usize, (request.data(), blocks))?;
            self.free.push(order.id);
            counts.requests.add(1);
        }
        Ok(ended.len())
    }

    pub fn info(&self) -> BlockInfo {
        self.info
    }

    fn flush(&mut self, counts: &Counts) -> Result<(), String> {
        self.one(counts, Order { operation: Operation::Flush, ..Order::default() }, |_, _| ()).map(drop)
    }

    /// One request while no other is in flight, its blocks filled by `fill`; returns its data.
    pub fn one(&mut self, counts: &Counts, order: Order, fill: impl Fn(u64, &mut [u8])) -> Result<Vec<u8>, String> {
        let mut batch = self.batch()?;
        let id = self.free.pop().ok_or("a request is still in flight")?;
        let size = self.info.block_size as usize;
        let bytes = match order.operation {
            Operation::Read | Operation::Write => order.blocks as usize * size,
            Operation::Flush | Operation::WriteZeroes | Operation::Deallocate => 0,
        };
        let order = Order { id, namespace: self.namespace, ..order };
        let mut request = batch.add(order, bytes).map_err(|error| format!("{error}"))?;
        let data = request.data_mut().ok_or("a fresh buffer is held by others")?;
        for (address, bytes) in (order.block..).zip(data[..bytes].chunks_exact_mut(size)) {
            fill(address, bytes);
        }
        self.open[id as usize] = Some((order.block, order.blocks));
        let mut found = Vec::new();
        let limit = now() + PATIENCE;
        while self.free.len() < self.depth {
            if !batch.is_empty() {
                batch = self.queue.submit(batch).map_err(|error| format!("submit: {error:?}"))?;
            }
            let ended = self.take_ended(counts, |_, _, (data, _)| {
                found.extend_from_slice(&data[..bytes]);
                Ok(())
            })?;
            if ended == 0 {
                if now() > limit {
                    return Err(format!("{:?} didn't come to an end", order.operation));
                }
                self.queue.wait(now() + PAUSE).map_err(|error| format!("wait: {error:?}"))?;
            }
        }
        self.spare = Some(batch);
        Ok(found)
    }
}
