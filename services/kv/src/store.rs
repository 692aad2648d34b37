//! The store: shards, each with its lock, and what a command does to one key under it. A command on a key is one visit to its shard, so commands on a key
//! are in one order for all clients.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use runtime::sync::{Guard, Mutex};
use twox_hash::XxHash3_64;

use crate::{
    clock::Clock,
    durable::{Change, journal::Journal},
    item::{Item, bit},
    shard::{Fields, Shard},
    statistics::Counts,
};

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes for items, their index included.
    pub memory: u64,
    /// The longest value.
    pub longest_value: usize,
    /// Bytes of values under way that don't fit into a connection's own buffer, over all connections.
    pub incoming: usize,
    /// Whether the oldest items make room for new ones; if not, what is stored when the store is full is refused.
    pub evict: bool,
    pub shards: usize,
}

pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    /// The number that the next change of an item gets.
    cas: AtomicU64,
    /// Of the hash, so that who knows the code doesn't know which keys collide. It changes only before there are items.
    seed: AtomicU64,
    limits: Limits,
    incoming: Arc<AtomicUsize>,
    /// Where every change is written down, if the store is durable.
    journal: Option<Arc<Journal>>,
}

/// What came of storing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Stored,
    NotStored,
    Exists,
    NotFound,
    TooLarge,
    NoMemory,
}

/// How to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Set,
    Add,
    Replace,
    /// With `true`, what isn't there is made.
    Append(bool),
    Prepend(bool),
    /// Only what has the very number.
    Cas,
}

/// A store command in full.
#[derive(Clone, Copy, Debug)]
pub struct Storing<'a> {
    pub mode: Mode,
    pub value: &'a [u8],
    pub flags: u32,
    pub expires: u32,
    /// The number that the item must have; 0 for whichever.
    pub compare: u64,
    /// The number that the new item is to have.
    pub cas: Option<u64>,
    pub bits: u8,
    /// Whether a number that is less than the item's stores a stale item.
    pub stale: bool,
}

/// Incr or decr: by how much, and what the item must be.
#[derive(Clone, Copy, Debug)]
pub struct Delta {
    pub increase: bool,
    pub by: u64,
    pub compare: u64,
    pub cas: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// The new number, and where the item is.
    Now(u64, u32),
    NotFound,
    Exists,
    NotNumeric,
    NoMemory,
}

/// Memory for a value that is on its way.
#[derive(Debug)]
pub struct Reservation {
    incoming: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.incoming.fetch_sub(self.bytes, Relaxed);
    }
}

impl Store {
    pub fn new(limits: Limits, seed: u64, journal: Option<Arc<Journal>>) -> Store {
        let count = limits.shards.max(1);
        let shards = (0..count).map(|_| Mutex::new(Shard::new(limits.memory / count as u64, limits.evict))).collect();
        let (cas, seed, incoming) = (AtomicU64::new(1), AtomicU64::new(seed), Arc::new(AtomicUsize::new(0)));
        Store { shards, cas, seed, limits, incoming, journal }
    }

    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    pub fn seed(&self) -> u64 {
        self.seed.load(Relaxed)
    }

    /// Memory for `bytes` of a value under way, if there is.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let room = |taken: usize| taken.checked_add(bytes).filter(|&sum| sum <= self.limits.incoming);
        self.incoming.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Reservation { incoming: self.incoming.clone(), bytes })
    }

    /// The only way to the item of `key`; nobody else reaches it meanwhile.
    pub fn lock<'a>(&'a self, key: &'a [u8], clock: Clock) -> Locked<'a> {
        let hash = XxHash3_64::oneshot_with_seed(self.seed(), key);
        let shard = self.shards[(hash >> 32) as usize % self.shards.len()].lock();
        Locked { shard, store: self, key, hash: hash as u32, clock }
    }

    /// Everything goes, now or at second `at`.
    pub fn flush(&self, at: Option<u32>, clock: Clock) {
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        if let Some(journal) = &self.journal {
            journal.note(Change::Flushed { date: at.map_or(0, |at| clock.date_of(at)) });
        }
        shards.into_iter().for_each(|mut shard| shard.flush(at));
    }

    /// Removes what has expired among the next `items` of each shard.
    pub fn sweep(&self, items: usize, clock: Clock) -> usize {
        self.shards.iter().map(|shard| shard.lock().sweep(items, clock.second())).sum()
    }

    /// Counts, items and bytes of all shards.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let shard = shard.lock();
            totals.counts.add(&shard.counts);
            totals.items += shard.items() as u64;
            totals.bytes += shard.bytes();
            totals.limit += shard.limit();
        }
        totals
    }

    pub fn reset_counts(&self) {
        self.shards.iter().for_each(|shard| shard.lock().counts = Counts::default());
    }

    /// Does again what was written down before a restart, before anybody is served. `due` is the date of a flush that hasn't come yet, 0 for none.
    pub fn apply(&self, change: Change, clock: Clock, due: &mut i64) -> Result<(), Stored> {
        match change {
            Change::Stored { key, value, flags, cas, bits, expires } => {
                self.cas.fetch_max(cas, Relaxed);
                let mut locked = self.lock(key, clock);
                let old = locked.find();
                let expires = clock.second_of(expires);
                if expires != 0 && expires <= clock.second() {
                    // It has expired meanwhile; what it had replaced is gone all the same.
                    old.into_iter().for_each(|old| locked.shard.remove(old));
                    return Ok(());
                }
                locked.place(old, &[value], Fields { flags, expires, cas, bits }).map(drop)
            }
            Change::Removed { key } => {
                let mut locked = self.lock(key, clock);
                locked.find().into_iter().for_each(|at| locked.shard.remove(at));
                Ok(())
            }
            Change::Flushed { date: 0 } => {
                *due = 0;
                self.shards.iter().for_each(|shard| shard.lock().flush(None));
                Ok(())
            }
            Change::Flushed { date } => {
                *due = date;
                Ok(())
            }
            Change::Sealed => Ok(()),
            Change::Seed(seed) => {
                if self.shards.iter().all(|shard| shard.lock().items() == 0) {
                    self.seed.store(seed, Relaxed);
                }
                Ok(())
            }
        }
    }

    /// A flush that was due when the log ended: if its date has come since, nothing was stored after it.
    pub fn expect_flush(&self, due: i64, clock: Clock) {
        if due == 0 {
            return;
        }
        let second = clock.second_of(due);
        let at = Some(second).filter(|second| *second > clock.second());
        self.shards.iter().for_each(|shard| shard.lock().flush(at));
        if let (Some(journal), Some(_)) = (&self.journal, at) {
            journal.expect_flush(due);
        }
    }

    /// Calls `show` with all that would bring this store back. Changes that are made meanwhile may be among it or not; they are in the journal.
    pub fn alive(&self, clock: Clock, show: &mut dyn FnMut(Change)) {
        // Before the shards are looked at: one that comes meanwhile is noted, and so comes after.
        let due = self.journal.as_ref().map_or(0, |journal| journal.flush_due());
        show(Change::Seed(self.seed()));
        let mut changes = Vec::new();
        for shard in &self.shards {
            {
                let mut shard = shard.lock();
                if shard.flush_if_due(clock.second())
                    && let Some(journal) = &self.journal
                {
                    journal.flush_came();
                }
                let (mut key, mut value) = (Vec::new(), Vec::new());
                shard.each(clock.second(), |at, item| {
                    (key.clear(), value.clear());
                    shard.copy_key(at, &mut key);
                    shard.copy_value(at, &mut value);
                    let Item { flags, cas, bits, expires, .. } = item;
                    let expires = clock.date_of(expires);
                    Change::Stored { key: &key, value: &value, flags, cas, bits, expires }.write(&mut changes);
                });
            }
            // Not under the lock: the medium may take its time.
            let mut rest = &changes[..];
            while let Some((change, behind)) = Change::read(rest) {
                show(change);
                rest = behind;
            }
            changes.clear();
        }
        if due != 0 {
            show(Change::Flushed { date: due });
        }
    }

    fn next_cas(&self) -> u64 {
        self.cas.fetch_add(1, Relaxed) + 1
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub counts: Counts,
    pub items: u64,
    pub bytes: u64,
    pub limit: u64,
}

/// A key's shard, locked.
pub struct Locked<'a> {
    shard: Guard<'a, Shard>,
    store: &'a Store,
    key: &'a [u8],
    hash: u32,
    clock: Clock,
}

impl Locked<'_> {
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.shard.counts
    }

    pub fn find(&mut self) -> Option<u32> {
        if self.shard.flush_if_due(self.clock.second())
            && let Some(journal) = &self.store.journal
        {
            journal.flush_came();
        }
        self.shard.find(self.hash, self.key, self.clock.second())
    }

    pub fn item(&self, at: u32) -> Item {
        self.shard.item(at)
    }

    pub fn copy_value(&self, at: u32, out: &mut Vec<u8>) {
        self.shard.copy_value(at, out);
    }

    pub fn bump(&mut self, at: u32) {
        self.shard.bump(at, self.clock.second());
    }

    /// Changes an item's fields.
    pub fn update(&mut self, at: u32, change: impl FnOnce(&mut Item)) -> Item {
        let before = self.shard.item(at);
        let after = self.shard.update(at, change);
        if (before.expires, before.cas, before.bits & bit::STALE) != (after.expires, after.cas, after.bits & bit::STALE)
        {
            self.note(at);
        }
        after
    }

    pub fn next_cas(&self) -> u64 {
        self.store.next_cas()
    }

    pub fn remove(&mut self, at: u32) {
        self.shard.remove(at);
        if let Some(journal) = &self.store.journal {
            journal.note(Change::Removed { key: self.key });
        }
    }

    /// Stores `parts` in place of the item at `old`, or as a new one.
    pub fn put(&mut self, old: Option<u32>, parts: &[&[u8]], fields: Fields) -> Result<u32, Stored> {
        let at = self.place(old, parts, fields)?;
        self.note(at);
        Ok(at)
    }

    /// The same without a word in the journal.
    fn place(&mut self, old: Option<u32>, parts: &[&[u8]], fields: Fields) -> Result<u32, Stored> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.store.limits.longest_value {
            return Err(Stored::TooLarge);
        }
        if !self.shard.admits(self.key.len(), len, old) {
            return Err(Stored::NoMemory);
        }
        if let Some(old) = old {
            self.shard.remove(old);
        }
        let at = self.shard.insert(self.hash, self.key, parts, fields, self.clock.second());
        at.map_err(|_| Stored::NoMemory)
    }

    /// Carries out a store command. Returns what came of it, and the new item's number and length.
    pub fn store(&mut self, storing: Storing) -> (Stored, u64, u32) {
        self.shard.counts.set_commands += 1;
        let old = self.find();
        let mut fields = Fields { flags: storing.flags, expires: storing.expires, cas: 0, bits: storing.bits };
        let mut joined = Vec::new();
        let mut parts = [storing.value, &[]];
        let refused = match (old, storing.mode) {
            (Some(at), mode) => {
                let item = self.item(at);
                let (any, matches) = (storing.compare == 0, storing.compare == item.cas);
                match mode {
                    Mode::Set | Mode::Replace => None,
                    Mode::Add => {
                        self.bump(at);
                        Some(Stored::NotStored)
                    }
                    Mode::Append(_) | Mode::Prepend(_) if !any && !matches => Some(Stored::Exists),
                    Mode::Append(_) | Mode::Prepend(_) => {
                        (fields.flags, fields.expires, fields.bits) =
                            (item.flags, item.expires, item.bits & bit::BINARY_KEY);
                        if item.value_len as usize + storing.value.len() > self.store.limits.longest_value {
                            // The append doesn't fit, and the item is left as it was.
                            return (Stored::NotStored, 0, 0);
                        }
                        self.copy_value(at, &mut joined);
                        parts = if matches!(mode, Mode::Append(_)) {
                            [&joined, storing.value]
                        } else {
                            [storing.value, &joined]
                        };
                        None
                    }
                    Mode::Cas if matches => {
                        self.shard.counts.cas_hits += 1;
                        None
                    }
                    Mode::Cas if storing.stale && !any && storing.compare < item.cas => {
                        self.shard.counts.cas_hits += 1;
                        fields.expires = item.expires;
                        fields.bits |= bit::STALE | item.bits & bit::TOKEN_SENT;
                        None
                    }
                    Mode::Cas => {
                        self.shard.counts.cas_badval += 1;
                        Some(Stored::Exists)
                    }
                }
            }
            (None, Mode::Set | Mode::Add | Mode::Append(true) | Mode::Prepend(true)) => None,
            (None, Mode::Replace | Mode::Append(false) | Mode::Prepend(false)) => Some(Stored::NotStored),
            (None, Mode::Cas) => {
                self.shard.counts.cas_misses += 1;
                Some(Stored::NotFound)
            }
        };
        if let Some(refused) = refused {
            return (refused, 0, 0);
        }
        fields.cas = storing.cas.unwrap_or_else(|| self.next_cas());
        let len = parts.iter().map(|part| part.len() as u32).sum();
        match self.put(old, &parts, fields) {
            Ok(_) => (Stored::Stored, fields.cas, len),
            Err(error) => (self.refuse(error, storing.mode), 0, 0),
        }
    }

    /// Counts a value that can't be stored. A set leaves nothing behind that the client believes replaced.
    pub fn refuse(&mut self, error: Stored, mode: Mode) -> Stored {
        match error {
            Stored::TooLarge => self.shard.counts.too_large += 1,
            _ => self.shard.counts.no_memory += 1,
        }
        if mode == Mode::Set
            && let Some(at) = self.find()
        {
            self.remove(at);
        }
        error
    }

    /// Carries out an incr or decr.
    pub fn count(&mut self, delta: Delta) -> Counted {
        let Some(at) = self.find() else { return Counted::NotFound };
        let item = self.item(at);
        // A number has 20 digits at most, and perhaps blanks after it.
        let mut text = Vec::new();
        if item.value_len <= 64 {
            self.copy_value(at, &mut text);
        }
        if item.value_len == 0 {
            return Counted::NotNumeric;
        }
        if delta.compare != 0 && delta.compare != item.cas {
            return Counted::Exists;
        }
        let Some(number) = crate::text::leading_number(&text) else { return Counted::NotNumeric };
        let number = if delta.increase { number.wrapping_add(delta.by) } else { number.saturating_sub(delta.by) };
        *(if delta.increase { &mut self.shard.counts.incr_hits } else { &mut self.shard.counts.decr_hits }) += 1;
        text.clear();
        runtime::text::push_number(&mut text, number);
        let cas = delta.cas.unwrap_or_else(|| self.next_cas());
        if text.len() <= item.value_len as usize {
            // In place; a number that has become shorter is followed by blanks (protocol.txt, "Increment/Decrement").
            text.resize(item.value_len as usize, b' ');
            self.shard.overwrite_value(at, &text);
            self.shard.update(at, |item| item.cas = cas);
            self.shard.bump(at, self.clock.second());
            self.note(at);
            return Counted::Now(number, at);
        }
        let fields = Fields { flags: item.flags, expires: item.expires, cas, bits: item.bits & bit::BINARY_KEY };
        match self.put(Some(at), &[&text], fields) {
            Ok(at) => Counted::Now(number, at),
            Err(_) => Counted::NoMemory,
        }
    }

    /// Writes the item at `at` down.
    fn note(&self, at: u32) {
        if let Some(journal) = &self.store.journal {
            let item = self.shard.item(at);
            let mut value = Vec::new();
            self.shard.copy_value(at, &mut value);
            journal.note(Change::Stored {
                key: self.key,
                value: &value,
                flags: item.flags,
                cas: item.cas,
                bits: item.bits,
                expires: self.clock.date_of(item.expires),
            });
        }
    }
}
