//! A disk under load that is asked for by number, for benchmarks: `load read 32 20000` at the console has 20,000 blocks of 4 KiB read at random places with 32 in flight, and answers
//! when all of them have been. One of the console's visits is the client: nothing else runs in this domain.
//!
//! The way of any client that isn't in a hurry: what has come back goes out again with another place, and when nothing has come back it sleeps until something does. Buffers are
//! kept, and what is in them is nobody's concern.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{boxed::Box, format, string::String};

use interfaces::{
    Port, RRef,
    block::{Block, Opening, Operation, Order, Requests, Status},
    config::NoConfig,
    control::{Control, ControlError, Counters, Text},
};
use runtime::{
    env::{Env, StartError},
    time::now,
};

const USAGE: &str = "error: load read|write DEPTH COUNT; DEPTH is 1 to 32";
/// Bytes of an I/O.
const BYTES: u32 = 4096;
/// How long a request may take.
const PATIENCE: u64 = 10_000_000_000;

#[derive(runtime::Imports)]
pub struct Imports {
    pub block: Port<dyn Block>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

/// Starts the domain: it does nothing until it is told to.
pub fn start(_env: Env, imports: Imports, _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { control: Box::new(Load(imports.block)) })
}

struct Load(Port<dyn Block>);

impl Control for Load {
    fn counters(&self, _first: u32, page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        Ok(page)
    }

    fn command(&self, mut line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        let answer = match Wish::read(line.as_str()) {
            None => return Err(ControlError::UnknownCommand),
            Some(None) => USAGE.into(),
            Some(Some(wish)) => match carry_out(self.0, wish) {
                Ok(()) => format!("load: {} done", wish.count),
                Err(reason) => format!("error: {reason}"),
            },
        };
        *line = Text::new(&answer);
        Ok(line)
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    operation: Operation,
    depth: usize,
    count: u64,
}

impl Wish {
    /// `None` if the line is for somebody else, `Some(None)` if it makes no sense.
    fn read(line: &str) -> Option<Option<Wish>> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("load") {
            return None;
        }
        let operation = match words.next() {
            Some("read") => Operation::Read,
            Some("write") => Operation::Write,
            _ => return Some(None),
        };
        let mut number = || words.next()?.parse().ok().filter(|number| *number > 0);
        let wish = number().zip(number()).map(|(depth, count)| Wish { operation, depth: depth as usize, count });
        Some(wish.filter(|wish| wish.depth <= Requests::CAPACITY && words.next().is_none()))
    }
}

fn carry_out(block: Port<dyn Block>, wish: Wish) -> Result<(), String> {
    let info = block.info(0).map_err(|error| format!("{error:?}"))?;
    let blocks = BYTES / info.block_size;
    let places = info.blocks.checked_div(u64::from(blocks)).unwrap_or(0);
    if places == 0 {
        return Err("the disk has no place of 4 KiB".into());
    }
    let mut queue = block.open_queue(0, Opening::Fresh).map_err(|error| format!("{error:?}"))?;
    // The same places in every run.
    let mut random = 1u64;
    let mut next = |id| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let block = (random >> 33) % places * u64::from(blocks);
        Order { id, operation: wish.operation, block, blocks, ..Order::default() }
    };
    let mut batch = Requests::allocate().map_err(|error| format!("{error}"))?;
    let mut sent = 0;
    while batch.len() < wish.depth && sent < wish.count {
        batch.add(next(sent), BYTES as usize).map_err(|error| format!("{error}"))?;
        sent += 1;
    }
    let mut done = 0;
    let mut limit = now() + PATIENCE;
    while done < wish.count {
        if !batch.is_empty() {
            batch = queue.submit(batch).map_err(|error| format!("{error:?}"))?;
        }
        queue.wait(limit).map_err(|error| format!("{error:?}"))?;
        let waiting = batch.len();
        batch = queue.poll(batch).map_err(|error| format!("{error:?}"))?;
        let mut over = 0;
        for at in waiting..batch.len() {
            let Some(mut request) = batch.request_mut(at) else { break };
            if request.status() != Status::Done {
                return Err(format!("{:?}: {:?}", request.order(), request.status()));
            }
            done += 1;
            if sent < wish.count {
                request.set_order(next(sent));
                sent += 1;
            } else {
                over |= 1 << at;
            }
        }
        if batch.len() > waiting {
            limit = now() + PATIENCE;
        } else if now() > limit {
            return Err(format!("{} of {} did not come back", sent - done, wish.count));
        }
        batch.discard(over);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{sync::Arc, vec::Vec};
    use interfaces::{
        Cap,
        block::{BlockError, BlockInfo, BlockQueue, InFlight},
        host,
    };
    use std::{collections::VecDeque, sync::Mutex};

    extern crate std;

    /// A disk that carries out one request a call, and remembers them.
    #[derive(Default)]
    struct Disk {
        in_flight: VecDeque<RRef<Requests>>,
        deepest: usize,
        orders: Vec<Order>,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Disk>>);

    impl Block for Shared {
        fn info(&self, _namespace: u16) -> Result<BlockInfo, BlockError> {
            let (namespaces, block_size, blocks, max_blocks, queues, depth) = (1, 512, 80, 64, 1, 64);
            let (volatile_cache, write_zeroes, deallocate) = (false, false, false);
            Ok(BlockInfo {
                namespaces,
                block_size,
                blocks,
                max_blocks,
                queues,
                depth,
                volatile_cache,
                write_zeroes,
                deallocate,
            })
        }

        fn open_queue(&self, _index: u16, _opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError> {
            Ok(Cap::new(Box::new(self.clone())))
        }
    }

    impl BlockQueue for Shared {
        fn submit(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
            let mut disk = self.0.lock().unwrap();
            while !batch.is_empty() {
                let mut one = Requests::allocate().unwrap();
                batch.transfer(1, &mut one);
                disk.orders.push(one.requests()[0].order());
                assert_eq!(one.requests()[0].data().len(), BYTES as usize);
                disk.in_flight.push_back(one);
            }
            disk.deepest = disk.deepest.max(disk.in_flight.len());
            Ok(batch)
        }

        fn poll(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
            if let Some(mut one) = self.0.lock().unwrap().in_flight.pop_front() {
                one.request_mut(0).unwrap().set_status(Status::Done);
                one.transfer(1, &mut batch);
            }
            Ok(batch)
        }

        fn wait(&mut self, _deadline: u64) -> Result<(), BlockError> {
            Ok(())
        }

        fn in_flight(&mut self, list: RRef<InFlight>) -> Result<RRef<InFlight>, BlockError> {
            Ok(list)
        }
    }

    /// As many as were asked for are carried out, no more than were asked for at a time, on the whole disk; and nothing is left behind.
    #[test]
    fn as_many_as_asked_for() {
        host::connect();
        for (line, operation, depth, count) in [
            ("load read 32 1000", Operation::Read, 32, 1000),
            ("load write 1 100", Operation::Write, 1, 100),
            ("load read 8 3", Operation::Read, 3, 3),
        ] {
            let disk = Shared::default();
            let block: &dyn Block = Box::leak(Box::new(disk.clone()));
            carry_out(Port::new(block), Wish::read(line).unwrap().unwrap()).unwrap();
            let disk = disk.0.lock().unwrap();
            assert_eq!((disk.orders.len(), disk.deepest, disk.in_flight.len()), (count, depth, 0), "{line}");
            let mut seen = [false; 10];
            for order in &disk.orders {
                assert_eq!((order.operation, order.blocks, order.block % 8), (operation, 8, 0), "{line}");
                seen[order.block as usize / 8] = true;
            }
            assert!(count < 100 || seen == [true; 10], "{line}: {seen:?}");
        }
        assert_eq!(host::live_objects(), 0);
    }

    /// What isn't for this domain is left to others, and what makes no sense is answered so.
    #[test]
    fn lines_are_understood() {
        assert_eq!(Wish::read("backend b1 up"), None);
        for line in ["load", "load erase 1 1", "load read 33 1", "load read 0 1", "load read 1 0", "load read 1 1 1"] {
            assert_eq!(Wish::read(line), Some(None), "{line}");
        }
        let wish = Wish { operation: Operation::Write, depth: 32, count: 7 };
        assert_eq!(Wish::read(" load write 32  7"), Some(Some(wish)));
    }
}
