//! The whole durable domain, above a network and a disk that are made of this test: the disk has a volatile cache, its driver crashes, and its power goes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    block::{Block, BlockError, BlockInfo, BlockQueue, InFlight, Opening, Operation, Requests, Status},
    control::Counters,
    host::{
        self,
        sockets::{Limits, Network, Peer},
    },
};
use kv::{Config, Exports, Imports, start};
use runtime::env::Env;

const BLOCK: usize = 512;

#[derive(Default)]
struct Contents {
    medium: Vec<u8>,
    /// Written since the last flush.
    cache: Vec<(usize, Vec<u8>)>,
}

impl Contents {
    fn block(&mut self, block: u64) -> Vec<u8> {
        let at = block as usize * BLOCK;
        let cached = self.cache.iter().rev().find(|(place, _)| *place == at);
        cached.map_or_else(|| self.medium[at..at + BLOCK].to_vec(), |(_, bytes)| bytes.clone())
    }

    fn flush(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.cache) {
            self.medium[at..at + BLOCK].copy_from_slice(&bytes);
        }
    }

    /// What the medium holds when the power goes now: of what wasn't flushed some blocks, and half of some.
    fn after_power_loss(&self, mut chance: impl FnMut() -> u32) -> Vec<u8> {
        let mut medium = self.medium.clone();
        for (at, bytes) in &self.cache {
            let kept = [0, BLOCK / 2, BLOCK][chance() as usize % 3];
            medium[*at..*at + kept].copy_from_slice(&bytes[..kept]);
        }
        medium
    }
}

/// A disk whose driver crashes at every `crash_every`-th call, before or after it has done what was asked; now and then it says that a request went wrong.
#[derive(Clone)]
struct MemoryDisk {
    contents: Arc<Mutex<Contents>>,
    calls: Arc<AtomicU32>,
    crash_every: u32,
    /// Requests, every 97th of which goes wrong.
    requests: Arc<AtomicU32>,
    blocks: u64,
}

impl MemoryDisk {
    fn new(medium: Vec<u8>, crash_every: u32) -> MemoryDisk {
        let blocks = (medium.len() / BLOCK) as u64;
        let contents = Arc::new(Mutex::new(Contents { medium, cache: Vec::new() }));
        MemoryDisk { contents, calls: Arc::default(), crash_every, requests: Arc::default(), blocks }
    }

    /// Whether the driver crashes in this call, and whether before its work.
    fn crash(&self) -> Option<bool> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        (self.crash_every != 0 && call % self.crash_every == 0).then(|| call / self.crash_every % 2 == 0)
    }
}

impl Block for MemoryDisk {
    fn info(&self, _namespace: u16) -> Result<BlockInfo, BlockError> {
        Ok(BlockInfo {
            namespaces: 1,
            block_size: BLOCK as u32,
            blocks: self.blocks,
            max_blocks: 64,
            queues: 1,
            depth: 4,
            volatile_cache: true,
            write_zeroes: false,
            deallocate: false,
        })
    }

    fn open_queue(&self, _index: u16, opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError> {
        assert_eq!(opening, Opening::Fresh, "what an earlier attempt has left must have ended");
        Ok(Cap::new(Box::new(MemoryQueue { disk: self.clone(), done: Vec::new() })))
    }
}

struct MemoryQueue {
    disk: MemoryDisk,
    done: Vec<RRef<Requests>>,
}

impl BlockQueue for MemoryQueue {
    fn submit(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        let crash = self.disk.crash();
        if crash == Some(true) {
            return Err(CallError::Crashed.into());
        }
        let mut contents = self.disk.contents.lock().unwrap();
        // Three at most find a place.
        while self.done.len() < 3 && !batch.is_empty() {
            let mut one = Requests::allocate().unwrap();
            batch.transfer(1, &mut one);
            let mut request = one.request_mut(0).unwrap();
            let order = request.order();
            let blocks = order.block..order.block + u64::from(order.blocks);
            assert!(blocks.end <= self.disk.blocks);
            if self.disk.requests.fetch_add(1, Ordering::Relaxed) % 97 == 96 {
                request.set_status(Status::Medium);
                self.done.push(one);
                continue;
            }
            match order.operation {
                Operation::Read => {
                    let data = request.data_mut().unwrap();
                    blocks
                        .zip(data.chunks_exact_mut(BLOCK))
                        .for_each(|(at, to)| to.copy_from_slice(&contents.block(at)));
                }
                Operation::Write => {
                    let written = blocks.zip(request.data().chunks_exact(BLOCK));
                    contents.cache.extend(written.map(|(at, bytes)| (at as usize * BLOCK, bytes.to_vec())));
                }
                Operation::Flush => contents.flush(),
                other => panic!("{other:?}"),
            }
            request.set_status(Status::Done);
            self.done.push(one);
        }
        if crash.is_some() { Err(CallError::Crashed.into()) } else { Ok(batch) }
    }

    fn poll(&mut self, mut batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        if self.disk.crash().is_some() {
            return Err(CallError::Crashed.into());
        }
        // The last first: any order is right.
        if let Some(mut one) = self.done.pop() {
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

fn config(memory: &str) -> Config {
    let table = format!("memory = \"{memory}\"\nlongest-value = \"64KiB\"\ndurable = true\nlog-size = \"24MiB\"\n");
    toml::from_str(&table).unwrap()
}

fn store_on(disk: &MemoryDisk, config: Config) -> Result<(Network, Exports), String> {
    host::connect();
    let network = Network::new(Limits { instances: 2, ..Limits::default() });
    let stack: &'static _ = Box::leak(network.stack());
    let block: &'static dyn Block = Box::leak(Box::new(disk.clone()));
    let imports = Imports { stack: Some(Port::new(stack)), net: None, block: Some(Port::new(block)) };
    let exports = start(Env::new("kv", 1, &[0, 1]), imports, config).map_err(|error| error.0)?;
    Ok((network, exports))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn connect(network: &Network, instance: u16) -> Peer {
    let mut peer = None;
    wait_for("somebody listens", || {
        peer = network.connect(instance, 11211);
        peer.is_some()
    });
    peer.unwrap()
}

fn ask(peer: &mut Peer, request: &[u8], answer: &[u8]) {
    let (mut rest, mut bytes) = (request, Vec::new());
    wait_for("an answer", || {
        rest = &rest[peer.send(rest)..];
        bytes.extend(peer.receive());
        bytes.len() >= answer.len()
    });
    assert!(bytes == answer, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
}

/// Stores a value, and says what is answered to that.
fn set(peer: &mut Peer, key: &str, value: &[u8]) -> Vec<u8> {
    let request = [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
    let (mut rest, mut answer) = (&request[..], Vec::new());
    wait_for("an answer", || {
        rest = &rest[peer.send(rest)..];
        answer.extend(peer.receive());
        answer.ends_with(b"\r\n")
    });
    answer
}

fn counter(exports: &Exports, name: &str) -> u64 {
    let mut first = 0;
    loop {
        let page = exports.control.counters(first, RRef::new(Counters::default()).unwrap()).unwrap();
        if let Some(counter) = page.as_slice().iter().find(|counter| counter.name.as_str() == name) {
            return counter.value;
        }
        assert!(!page.as_slice().is_empty(), "{name}");
        first += page.as_slice().len() as u32;
    }
}

fn value(key: u32, version: u32) -> Vec<u8> {
    let len = (key * 7919 + version * 104_729) % 3000 + 1;
    (0..len).map(|at| b'a' + ((key + version + at) % 26) as u8).collect()
}

/// Whatever is acknowledged is there after the power went, at any moment, while the disk's driver crashes all the time, and through compactions; also what one client has only
/// read of another's.
#[test]
fn what_is_acknowledged_is_there_after_power_loss() {
    let mut random = 1u32;
    let mut chance = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 16
    };
    let mut medium = vec![0; 24 << 20];
    let mut known = [0u32; 40];
    let mut compactions = 0;
    for round in 0..4 {
        // An operation that is interrupted is begun again: longer ones than the driver lives would never end.
        let disk = MemoryDisk::new(medium, [0, 101, 53][round % 3]);
        let (network, exports) = store_on(&disk, config("2MiB")).unwrap();
        assert_eq!(counter(&exports, "items"), if round == 0 { 0 } else { known.len() as u64 });
        let (mut writer, mut reader) = (connect(&network, 0), connect(&network, 1));
        for turn in 0..120 {
            let key = (chance() as usize % known.len()) as u32;
            let key = if round == 0 && turn < known.len() { turn as u32 } else { key };
            let version = known[key as usize] + 1;
            let bytes = value(key, version);
            let set = [format!("set k{key} {version} 0 {}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
            ask(&mut writer, &set, b"STORED\r\n");
            known[key as usize] = version;
            if chance() % 8 == 0 {
                let answer =
                    [format!("VALUE k{key} {version} {}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\nEND\r\n"].concat();
                ask(&mut reader, format!("get k{key}\r\n").as_bytes(), &answer);
            }
        }
        // Large values, until an area is full.
        let large = vec![b'L'; 60 << 10];
        for _ in 0..(if round == 1 { 260 } else { 10 }) {
            let set = [b"set large 0 0 61440\r\n".as_slice(), &large, b"\r\n"].concat();
            ask(&mut writer, &set, b"STORED\r\n");
        }
        ask(&mut writer, b"delete large\r\n", b"DELETED\r\n");
        compactions += counter(&exports, "log.compactions");
        assert!(counter(&exports, "log.write-amplification-permille") >= 1000);
        // More is on its way when the power goes.
        writer.send(b"set unanswered 0 0 5\r\nhello\r\ndelete unanswered\r\n");
        medium = disk.contents.lock().unwrap().after_power_loss(&mut chance);
        let (network, exports) = store_on(&MemoryDisk::new(medium, 61), config("2MiB")).unwrap();
        let mut client = connect(&network, 1);
        for (key, &version) in known.iter().enumerate() {
            let bytes = value(key as u32, version);
            let answer =
                [format!("VALUE k{key} {version} {}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\nEND\r\n"].concat();
            ask(&mut client, format!("get k{key}\r\n").as_bytes(), &answer);
        }
        ask(&mut client, b"get large\r\ndelete unanswered noreply\r\n", b"END\r\n");
        assert!(counter(&exports, "log.recovery-us") > 0 && counter(&exports, "log.recovered-changes") > 0);
        ask(&mut writer, b"delete unanswered noreply\r\nget large\r\n", b"STORED\r\nDELETED\r\nEND\r\n");
        medium = disk.contents.lock().unwrap().after_power_loss(|| 2);
    }
    assert!(compactions > 0, "an area was full");
}

/// Expiry and flushes mean dates: they come true though the box was off.
#[test]
fn what_expires_expires_while_the_box_is_off() {
    host::connect();
    host::set_date(1_700_000_000);
    let disk = MemoryDisk::new(vec![0; 24 << 20], 0);
    let (network, _exports) = store_on(&disk, config("2MiB")).unwrap();
    let mut client = connect(&network, 0);
    ask(
        &mut client,
        b"set a 0 100 1\r\na\r\nset b 0 0 1\r\nb\r\nset c 0 0 1\r\nc\r\ntouch c 50\r\n",
        b"STORED\r\nSTORED\r\nSTORED\r\nTOUCHED\r\n",
    );
    let again = |ahead: u64| {
        host::advance_clock(Duration::from_secs(ahead));
        let medium = disk.contents.lock().unwrap().medium.clone();
        let (network, exports) = store_on(&MemoryDisk::new(medium, 0), config("2MiB")).unwrap();
        (connect(&network, 0), network, exports)
    };
    ask(&mut again(0).0, b"get a b c\r\n", b"VALUE a 0 1\r\na\r\nVALUE b 0 1\r\nb\r\nVALUE c 0 1\r\nc\r\nEND\r\n");
    ask(&mut again(60).0, b"get a b c\r\n", b"VALUE a 0 1\r\na\r\nVALUE b 0 1\r\nb\r\nEND\r\n");
    ask(&mut again(60).0, b"get a b c\r\n", b"VALUE b 0 1\r\nb\r\nEND\r\n");
    ask(&mut client, b"flush_all 30\r\nset d 0 0 1\r\nd\r\n", b"OK\r\nSTORED\r\n");
    ask(&mut again(0).0, b"get b d\r\n", b"VALUE b 0 1\r\nb\r\nVALUE d 0 1\r\nd\r\nEND\r\n");
    ask(&mut again(40).0, b"get b d\r\n", b"END\r\n");
    // The first who comes after the date finds nothing; what is stored from then on stays.
    ask(&mut client, b"set e 0 0 1\r\ne\r\nget b d e\r\n", b"STORED\r\nVALUE e 0 1\r\ne\r\nEND\r\n");
    ask(&mut again(10).0, b"get b d e\r\n", b"VALUE e 0 1\r\ne\r\nEND\r\n");
}

/// Small requests that make long changes are held back, so that what waits to be written is bounded; a store that may lose nothing refuses what doesn't fit, and says so at its start.
#[test]
fn memory_is_bounded_and_nothing_is_given_up() {
    let disk = MemoryDisk::new(vec![0; 24 << 20], 0);
    let (network, exports) = store_on(&disk, config("2MiB")).unwrap();
    let mut client = connect(&network, 0);
    let large = vec![b'L'; 60 << 10];
    ask(&mut client, &[b"set large 0 0 61440\r\n".as_slice(), &large, b"\r\n"].concat(), b"STORED\r\n");
    let touches = b"touch large 1000 noreply\r\ntouch large 2000 noreply\r\n".repeat(250);
    ask(&mut client, &[touches.as_slice(), b"mn\r\n"].concat(), b"MN\r\n");
    assert!(counter(&exports, "log.commits") >= 20, "{} commits of 30 MB", counter(&exports, "log.commits"));
    let mut stored = 1;
    loop {
        let answer = set(&mut client, &format!("k{stored}"), &large);
        if answer != b"STORED\r\n" {
            assert_eq!(answer, b"SERVER_ERROR out of memory storing object\r\n");
            break;
        }
        stored += 1;
        assert!(stored < 100);
    }
    assert_eq!((counter(&exports, "items"), counter(&exports, "items.evicted")), (stored, 0));
    let medium = disk.contents.lock().unwrap().medium.clone();
    let smaller = store_on(&MemoryDisk::new(medium, 0), config("400KiB"));
    assert!(smaller.err().unwrap().contains("give the store more"));
}

/// A store that was filled until every shard refused what is new comes back with all that it had, however often: keys are shared out as they were.
#[test]
fn a_full_store_comes_back_whole() {
    let mut medium = vec![0; 24 << 20];
    let mut items = 0;
    for life in 0..4 {
        let disk = MemoryDisk::new(medium, 0);
        let (network, exports) = store_on(&disk, config("2MiB")).unwrap();
        assert_eq!(counter(&exports, "items"), items);
        let mut client = connect(&network, 0);
        let mut refused = 0;
        for at in 0.. {
            let len = 100 + (at * 61 + life * 7) % 1900;
            let answer = set(&mut client, &format!("life{life}-{at}"), &vec![b'v'; len]);
            refused += u32::from(answer != b"STORED\r\n");
            if refused == 50 {
                break;
            }
        }
        items = counter(&exports, "items");
        medium = disk.contents.lock().unwrap().medium.clone();
    }
}

/// A log that can't be served as it was stops the start, in words; so does a disk that is too small, somebody else's, or not there.
#[test]
fn what_cannot_be_served_is_refused_in_words() {
    let refusal = |medium: Vec<u8>| store_on(&MemoryDisk::new(medium, 0), config("2MiB")).err().unwrap();
    assert!(refusal(vec![0; 1 << 20]).contains("the disk has 1 MiB, and `log-size` is 24 MiB"));
    assert!(refusal(vec![7; 24 << 20]).contains("no log"));
    let disk = MemoryDisk::new(vec![0; 24 << 20], 0);
    let (network, _exports) = store_on(&disk, config("2MiB")).unwrap();
    let mut client = connect(&network, 0);
    for at in 0..3 {
        ask(&mut client, format!("set k{at} 0 0 1\r\nx\r\n").as_bytes(), b"STORED\r\n");
    }
    let mut medium = disk.contents.lock().unwrap().medium.clone();
    // The area's head, its seal, how keys are shared out, then a block for each commit: the second one.
    medium[4 * BLOCK + 60] ^= 1;
    let words = refusal(medium);
    assert!(words.contains("commit 3 is lost, and those up to 4 came after it"), "{words}");
    let network = Network::new(Limits::default());
    let stack: &'static _ = Box::leak(network.stack());
    let imports = Imports { stack: Some(Port::new(stack)), net: None, block: None };
    let error = start(Env::new("kv", 1, &[0]), imports, config("2MiB")).err().unwrap();
    assert!(error.0.contains("wire import `block`"), "{}", error.0);
}
