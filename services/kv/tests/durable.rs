//! The durable log on a disk that loses its power: at any write, with what wasn't flushed kept, lost or torn block by block.

use std::collections::BTreeMap;

use kv::durable::{Change, Log, LogError, Medium, Report, open, recovery::Refusal};
use proptest::prelude::*;

const BLOCK: usize = 512;

/// No power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dark;

/// A disk with a volatile cache.
struct Disk {
    medium: Vec<u8>,
    /// What has been written since the last flush, in order.
    cache: Vec<(usize, Vec<u8>)>,
    /// Writes and flushes until the power goes; none for never.
    left: Option<u32>,
    dark: bool,
    /// Bytes that were ever read.
    read: usize,
}

impl Disk {
    fn new(blocks: usize) -> Disk {
        Disk { medium: vec![0; blocks * BLOCK], cache: Vec::new(), left: None, dark: false, read: 0 }
    }

    fn step(&mut self) -> Result<(), Dark> {
        if let Some(left) = &mut self.left {
            self.dark |= *left == 0;
            *left = left.saturating_sub(1);
        }
        if self.dark { Err(Dark) } else { Ok(()) }
    }

    /// The power comes back: each block in the cache was kept, lost, or half of it kept, as `chance` says.
    fn power(&mut self, mut chance: impl FnMut() -> u8) {
        for (at, bytes) in std::mem::take(&mut self.cache) {
            let kept = match chance() % 4 {
                0 => 0,
                1 => BLOCK / 2,
                _ => BLOCK,
            };
            self.medium[at..at + kept].copy_from_slice(&bytes[..kept]);
        }
        (self.left, self.dark) = (None, false);
    }
}

impl Medium for Disk {
    type Error = Dark;

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn blocks(&self) -> u64 {
        (self.medium.len() / BLOCK) as u64
    }

    fn read(&mut self, block: u64, bytes: &mut [u8]) -> Result<(), Dark> {
        if self.dark {
            return Err(Dark);
        }
        self.read += bytes.len();
        let at = block as usize * BLOCK;
        bytes.copy_from_slice(&self.medium[at..at + bytes.len()]);
        for (written, content) in &self.cache {
            if (at..at + bytes.len()).contains(written) {
                bytes[written - at..written - at + BLOCK].copy_from_slice(content);
            }
        }
        Ok(())
    }

    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<(), Dark> {
        let result = self.step();
        for (at, content) in bytes.chunks(BLOCK).enumerate() {
            // A write at which the power goes may have reached the cache.
            self.cache.push(((block as usize + at) * BLOCK, content.to_vec()));
        }
        result
    }

    fn flush(&mut self) -> Result<(), Dark> {
        self.step()?;
        for (at, bytes) in self.cache.drain(..) {
            self.medium[at..at + BLOCK].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

type Items = BTreeMap<Vec<u8>, Vec<u8>>;

fn apply(items: &mut Items, change: Change) {
    match change {
        Change::Stored { key, value, .. } => _ = items.insert(key.to_vec(), value.to_vec()),
        Change::Removed { key } => _ = items.remove(key),
        Change::Flushed { .. } => items.clear(),
        Change::Sealed | Change::Seed(_) => {}
    }
}

fn stored<'a>(key: &'a [u8], value: &'a [u8]) -> Change<'a> {
    Change::Stored { key, value, flags: 1, cas: 2, bits: 0, expires: 3 }
}

fn recover(disk: &mut Disk, nonce: u64) -> Result<(Log, Report, Items), Refusal<Dark>> {
    let mut items = Items::new();
    let (log, report) = open(disk, nonce, |change| apply(&mut items, change))?;
    Ok((log, report, items))
}

fn compact(log: &mut Log, disk: &mut Disk, nonce: u64, items: &Items) -> Result<(), LogError<Dark>> {
    log.compact(disk, nonce, |show| items.iter().for_each(|(key, value)| show(stored(key, value))))
}

/// What a client does.
#[derive(Clone, Debug)]
enum Step {
    Store(u8, usize),
    Remove(u8),
    Flush,
    Commit,
    Compact,
    /// The power goes at that write or flush from now on.
    Fail(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..12, 0usize..1500).prop_map(|(key, len)| Step::Store(key, len)),
        2 => (0u8..12).prop_map(Step::Remove),
        1 => Just(Step::Flush),
        6 => Just(Step::Commit),
        1 => Just(Step::Compact),
        2 => (0u32..12).prop_map(Step::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whenever the power goes, amid commits, compactions and recoveries: what was acknowledged is there, and of what wasn't all of a commit or nothing.
    #[test]
    fn what_is_acknowledged_survives_power_loss(steps in proptest::collection::vec(step(), 1..80), chances in proptest::collection::vec(any::<u8>(), 64)) {
        let mut disk = Disk::new(140);
        let mut chances = chances.iter().copied().cycle();
        let mut nonces = 1u64..;
        let mut nonce = || nonces.next().unwrap();
        let (mut log, report, _) = recover(&mut disk, nonce()).unwrap();
        prop_assert!(report.fresh);
        // What is acknowledged, and what is there besides.
        let (mut safe, mut items) = (Items::new(), Items::new());
        for (at, step) in steps.into_iter().enumerate() {
            let result = match step {
                Step::Store(key, len) => {
                    let value = vec![at as u8; len];
                    log.append(stored(&[key], &value));
                    items.insert(vec![key], value);
                    Ok(())
                }
                Step::Remove(key) => {
                    log.append(Change::Removed { key: &[key] });
                    items.remove(&vec![key]);
                    Ok(())
                }
                Step::Flush => {
                    log.append(Change::Flushed { date: 0 });
                    items.clear();
                    Ok(())
                }
                Step::Commit => match log.commit(&mut disk) {
                    Err(LogError::Full) => compact(&mut log, &mut disk, nonce(), &items),
                    result => result,
                },
                Step::Compact => compact(&mut log, &mut disk, nonce(), &items),
                Step::Fail(after) => {
                    disk.left = Some(after);
                    continue;
                }
            };
            match (result, &step) {
                (Ok(()), Step::Commit | Step::Compact) => safe = items.clone(),
                (Ok(()), _) => {}
                (Err(LogError::Medium(Dark)), _) => {
                    // The power may go while the log is opened, too.
                    let mut outages = 0..3;
                    let found = loop {
                        disk.power(|| chances.next().unwrap());
                        if chances.next().unwrap() % 2 == 0 && outages.next().is_some() {
                            disk.left = Some(0);
                        }
                        match recover(&mut disk, nonce()) {
                            Ok((recovered, _, found)) => {
                                log = recovered;
                                break found;
                            }
                            Err(Refusal::Log(LogError::Medium(Dark))) => {}
                            Err(refusal) => panic!("{refusal}"),
                        }
                    };
                    prop_assert!(found == safe || found == items, "{found:?} is neither {safe:?} nor {items:?}");
                    (safe, items) = (found.clone(), found);
                }
                (Err(error), _) => panic!("{error:?}"),
            }
        }
    }

    /// A damaged byte anywhere: what is served is right, or the log is refused. Only the very last commit may be taken for one that wasn't acknowledged.
    #[test]
    fn damage_is_refused_or_is_a_torn_tail(lens in proptest::collection::vec(0usize..2000, 2..12), at in any::<u32>(), flip in 1u8..) {
        let mut disk = Disk::new(140);
        let (mut log, ..) = recover(&mut disk, 1).unwrap();
        let (mut before_last, mut items) = (Items::new(), Items::new());
        for (key, len) in lens.iter().enumerate() {
            before_last = items.clone();
            let (key, value) = (vec![key as u8], vec![key as u8; *len]);
            log.append(stored(&key, &value));
            log.commit(&mut disk).unwrap();
            items.insert(key, value);
        }
        let at = at as usize % disk.medium.len();
        disk.medium[at] ^= flip;
        match recover(&mut disk, 2) {
            Ok((_, _, found)) => prop_assert!(found == items || found == before_last),
            Err(Refusal::Damaged { first_lost, last_seen, .. }) => prop_assert!(first_lost < last_seen),
            Err(Refusal::SnapshotDamaged { .. } | Refusal::Foreign) => {}
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

/// Damage amid acknowledged commits says from which commit on they can't be served, and writes nothing.
#[test]
fn a_damaged_middle_is_refused_with_what_is_lost() {
    let mut disk = Disk::new(100);
    let (mut log, ..) = recover(&mut disk, 1).unwrap();
    for key in 0..5u8 {
        log.append(stored(&[key], b"value"));
        log.commit(&mut disk).unwrap();
    }
    // The head is block 0, the seal block 1, so commit 3 is block 4.
    disk.medium[4 * BLOCK + 50] ^= 1;
    let before = disk.medium.clone();
    let refusal = recover(&mut disk, 2).unwrap_err();
    assert_eq!(refusal, Refusal::Damaged { epoch: 1, first_lost: 3, last_seen: 5 });
    assert_eq!(refusal.to_string(), "the log is damaged: of epoch 1 commit 3 is lost, and those up to 5 came after it");
    assert!(disk.medium == before);
}

/// A log that has become much longer than what is alive asks for a compaction before it is full, and of an area only what can have been written is read: a store is back as
/// soon as its contents allow, whatever the size of its log. The last frame that may be is looked for, too.
#[test]
fn what_is_read_is_in_proportion_to_what_is_alive() {
    const MIB: usize = 1 << 20;
    let mut disk = Disk::new(2 * 64 * MIB / BLOCK);
    let (mut log, ..) = recover(&mut disk, 1).unwrap();
    let value = vec![7; MIB / 4];
    let mut commits = 0;
    let full = loop {
        log.append(stored(b"one", &value));
        match log.commit(&mut disk) {
            Ok(()) => commits += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, LogError::Full);
    assert!((16..=18).contains(&commits), "{commits} quarters of a MiB in an area of 64");
    disk.read = 0;
    recover(&mut disk, 2).unwrap();
    assert!(disk.read < 6 * MIB, "{} bytes", disk.read);

    // Amid the last commit but one.
    let second_last = 4 * MIB - 3 * MIB / 8;
    disk.medium[second_last] ^= 1;
    let refusal = recover(&mut disk, 3).map(drop).unwrap_err();
    assert_eq!(refusal, Refusal::Damaged { epoch: 1, first_lost: commits - 1, last_seen: commits });
    disk.medium[second_last] ^= 1;

    // What is alive is more than a quarter of what was written: now there is room for three times as much.
    let items: Items = (0..8u8).map(|key| (vec![key], value.clone())).collect();
    compact(&mut log, &mut disk, 4, &items).unwrap();
    let mut commits = 0;
    loop {
        log.append(stored(b"one", &value));
        match log.commit(&mut disk) {
            Ok(()) => commits += 1,
            Err(error) => break assert_eq!(error, LogError::Full),
        }
    }
    assert!((38..=42).contains(&commits), "{commits} quarters of a MiB behind two MiB");
    disk.read = 0;
    recover(&mut disk, 5).unwrap();
    assert!(disk.read < 14 * MIB, "{} bytes", disk.read);
}

/// A torn last commit is not served, it is told of, and the log goes on in its place.
#[test]
fn a_torn_tail_is_reported_and_written_over() {
    let mut disk = Disk::new(100);
    let (mut log, ..) = recover(&mut disk, 1).unwrap();
    log.append(stored(b"a", b"1"));
    log.commit(&mut disk).unwrap();
    log.append(stored(b"b", &[7; 3000]));
    disk.left = Some(1);
    assert_eq!(log.commit(&mut disk), Err(LogError::Medium(Dark)));
    // All blocks are kept but the last.
    let blocks = disk.cache.len();
    let mut at = 0;
    disk.power(|| {
        at += 1;
        if at == blocks { 0 } else { 3 }
    });
    let (mut log, report, items) = recover(&mut disk, 2).unwrap();
    assert!(report.torn && items.keys().eq([b"a"]), "{report:?}");
    log.append(stored(b"c", b"3"));
    log.commit(&mut disk).unwrap();
    let (_, report, items) = recover(&mut disk, 3).unwrap();
    assert!(!report.torn && items.keys().eq([b"a", b"c"]));
}

/// A value that looks like a frame is a value, also in a torn commit, behind which frames are looked for: a client doesn't know the nonce that they are made with.
#[test]
fn a_value_that_looks_like_a_frame_is_a_value() {
    let area = |nonce| kv::durable::frame::AreaHead { epoch: 1, nonce, superseded: false, blocks: 0 };
    // Frame and change have heads of 40 and 28 bytes, so that what looks like a frame starts a block.
    let value = |nonce| [vec![0; BLOCK - 68], kv::durable::frame::frame(b"x", 40, &area(nonce), BLOCK)].concat();
    for (known_nonce, refused) in [(99, false), (1, true)] {
        let mut disk = Disk::new(100);
        let (mut log, ..) = recover(&mut disk, 1).unwrap();
        log.append(stored(b"k", &value(known_nonce)));
        log.commit(&mut disk).unwrap();
        assert_eq!(&disk.medium[3 * BLOCK..][..4], b"RLKF");
        disk.medium[2 * BLOCK + 100] ^= 1;
        assert_eq!(
            recover(&mut disk, 2).is_err(),
            refused,
            "with the nonce it would be a frame: the test looks where it should"
        );
    }
}

/// What isn't a log is left alone.
#[test]
fn what_is_foreign_is_left_alone() {
    let mut disk = Disk::new(100);
    disk.medium[3] = 1;
    assert_eq!(recover(&mut disk, 1).unwrap_err(), Refusal::Foreign);
    assert_eq!(disk.medium.iter().filter(|&&byte| byte != 0).count(), 1);
}

/// The log's cost is counted: what was written for what was committed.
#[test]
fn usage_is_counted() {
    let mut disk = Disk::new(100);
    let (mut log, ..) = recover(&mut disk, 1).unwrap();
    let before = log.usage();
    (0..10u8).for_each(|key| log.append(stored(&[key], &[0; 100])));
    log.commit(&mut disk).unwrap();
    let usage = log.usage();
    assert_eq!((usage.commits, usage.flushes - before.flushes), (1, 1), "ten changes are one commit with one flush");
    assert_eq!(usage.written - before.written, (40 + 10 * (28 + 1 + 100) as u64).next_multiple_of(BLOCK as u64));
    compact(&mut log, &mut disk, 2, &Items::new()).unwrap();
    assert_eq!(log.usage().compactions, 1);
}
