//! A part of the store: an index of items by key, and the order in which they were used. When it is full what was used longest ago goes, and what has
//! expired goes as soon as it is met.

use alloc::vec::Vec;

use hashbrown::HashTable;

use crate::{
    arena::{Arena, CHUNK, NONE},
    item::{self, Item, bit, chunks_for},
    statistics::Counts,
};

/// Bytes of the index for each chunk, reckoned into the quota: an entry and its control byte, at the least favourable load.
const INDEX_BYTES: u64 = 21;

/// The second before which nothing expires that never does.
const NEVER: u32 = u32::MAX;

/// Why something isn't stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What a new item is given besides its key and its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub flags: u32,
    pub expires: u32,
    pub cas: u64,
    pub bits: u8,
}

#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    hash: u32,
}

pub struct Shard {
    arena: Arena,
    index: HashTable<Entry>,
    /// Ends of the order of use.
    newest: u32,
    oldest: u32,
    /// Where the search for expired items goes on.
    sweep: u32,
    /// Nothing expires before this second: while it hasn't come nothing is searched.
    soonest: u32,
    /// The same, of what the search has met since it last began at the oldest, and of what was given a date meanwhile.
    soonest_met: u32,
    /// Whether what is stored may push out what was used longest ago.
    evict: bool,
    /// Second from which on everything that is there now isn't any more; 0 for none.
    flush_at: u32,
    pub counts: Counts,
}

/// The table's own hash: its low bits choose a bucket, its highest seven tell entries apart.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Shard {
    /// A shard that takes at most `bytes`, index included.
    pub fn new(bytes: u64, evict: bool) -> Shard {
        let arena = Arena::new(bytes / (CHUNK as u64 + INDEX_BYTES) * CHUNK as u64);
        let index = HashTable::with_capacity(arena.most() as usize);
        Shard {
            arena,
            index,
            newest: NONE,
            oldest: NONE,
            sweep: NONE,
            soonest: NEVER,
            soonest_met: NEVER,
            evict,
            flush_at: 0,
            counts: Counts::default(),
        }
    }

    pub fn items(&self) -> usize {
        self.index.len()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        u64::from(self.arena.used()) * CHUNK as u64
    }

    /// Bytes that there may be.
    pub fn limit(&self) -> u64 {
        u64::from(self.arena.most()) * CHUNK as u64
    }

    pub fn item(&self, at: u32) -> Item {
        Item::read(&self.arena, at)
    }

    pub fn copy_key(&self, at: u32, out: &mut Vec<u8>) {
        item::copy_key(&self.arena, at, out);
    }

    pub fn copy_value(&self, at: u32, out: &mut Vec<u8>) {
        item::copy_value(&self.arena, at, out);
    }

    /// Everything goes, if that was to be by now. Says whether it was.
    pub fn flush_if_due(&mut self, now: u32) -> bool {
        let due = self.flush_at != 0 && self.flush_at <= now;
        if due {
            self.clear();
        }
        due
    }

    /// The item with this key, if it is there and has not expired.
    pub fn find(&mut self, hash: u32, key: &[u8], now: u32) -> Option<u32> {
        self.flush_if_due(now);
        let arena = &self.arena;
        let same = |entry: &Entry| entry.hash == hash && item::has_key(arena, entry.at, key);
        let at = self.index.find(spread(hash), same)?.at;
        let expires = self.item(at).expires;
        if expires != 0 && expires <= now {
            self.counts.expired += 1;
            self.remove(at);
            return None;
        }
        Some(at)
    }

    /// Stores a new item under `key`, of which there is none.
    pub fn insert(&mut self, hash: u32, key: &[u8], parts: &[&[u8]], fields: Fields, now: u32) -> Result<u32, Full> {
        let value_len = parts.iter().map(|part| part.len()).sum();
        self.make_room(chunks_for(key.len(), value_len), now)?;
        let at = item::store(&mut self.arena, key, parts).ok_or(Full)?;
        let Fields { flags, expires, cas, bits } = fields;
        let (key_len, value_len) = (key.len() as u8, value_len as u32);
        let item = Item { flags, expires, touched: now, cas, bits, key_len, value_len, newer: NONE, older: NONE, hash };
        self.write(at, item);
        self.index.insert_unique(spread(hash), Entry { at, hash }, |entry| spread(entry.hash));
        self.push_front(at);
        self.counts.stored += 1;
        Ok(at)
    }

    /// Whether an item of this size could be stored in place of the one at `old`.
    pub fn admits(&self, key_len: usize, value_len: usize, old: Option<u32>) -> bool {
        let needed = chunks_for(key_len, value_len);
        if self.evict {
            return needed <= self.arena.most() as usize;
        }
        let freed = old.map_or(0, |at| chunks_for(key_len, self.item(at).value_len as usize));
        needed <= self.arena.free() as usize + freed
    }

    pub fn remove(&mut self, at: u32) {
        let hash = self.item(at).hash;
        self.unlink(at);
        if let Ok(entry) = self.index.find_entry(spread(hash), |entry| entry.at == at) {
            entry.remove();
        }
        self.arena.give_back(at);
    }

    /// Writes an item's changed fields.
    pub fn update(&mut self, at: u32, change: impl FnOnce(&mut Item)) -> Item {
        let mut item = self.item(at);
        change(&mut item);
        self.write(at, item);
        item
    }

    fn write(&mut self, at: u32, item: Item) {
        if item.expires != 0 {
            self.soonest = self.soonest.min(item.expires);
            self.soonest_met = self.soonest_met.min(item.expires);
        }
        item.write(&mut self.arena, at);
    }

    pub fn overwrite_value(&mut self, at: u32, bytes: &[u8]) {
        item::overwrite_value(&mut self.arena, at, bytes);
    }

    /// Notes that the item has been used. It moves to the front once a second at most, so that reading what is read most changes little.
    pub fn bump(&mut self, at: u32, now: u32) {
        let item = self.item(at);
        if item.touched != now && self.newest != at {
            self.unlink(at);
            self.push_front(at);
        }
        if item.touched != now || item.bits & bit::FETCHED == 0 {
            self.update(at, |item| {
                item.touched = now;
                item.bits |= bit::FETCHED;
            });
        }
    }

    /// Everything goes: at once, or at second `at`.
    pub fn flush(&mut self, at: Option<u32>) {
        match at {
            Some(at) => self.flush_at = at,
            None => self.clear(),
        }
    }

    /// Looks at the next `items` items in the order of use, if anything may have expired, and removes those that have. Returns how many those were.
    pub fn sweep(&mut self, items: usize, now: u32) -> usize {
        let mut removed = 0;
        if now < self.soonest {
            return removed;
        }
        for _ in 0..items {
            if self.sweep == NONE {
                (self.sweep, self.soonest_met) = (self.oldest, NEVER);
            }
            let at = self.sweep;
            let item = (at != NONE).then(|| self.item(at));
            self.sweep = item.map_or(NONE, |item| item.newer);
            match item.map_or(0, |item| item.expires) {
                0 => {}
                expires if expires <= now => {
                    self.remove(at);
                    removed += 1;
                }
                expires => self.soonest_met = self.soonest_met.min(expires),
            }
            if self.sweep == NONE {
                // It has met all that there are, since what is used meanwhile comes last.
                self.soonest = self.soonest_met;
                break;
            }
        }
        removed
    }

    /// Calls `show` with every item that has not expired.
    pub fn each(&self, now: u32, mut show: impl FnMut(u32, Item)) {
        let mut at = self.oldest;
        while at != NONE {
            let item = self.item(at);
            if item.expires == 0 || item.expires > now {
                show(at, item);
            }
            at = item.newer;
        }
    }

    fn clear(&mut self) {
        self.index.clear();
        self.arena.reset();
        (self.newest, self.oldest, self.sweep, self.flush_at) = (NONE, NONE, NONE, 0);
        (self.soonest, self.soonest_met) = (NEVER, NEVER);
    }

    /// Sees to it that `chunks` are free.
    fn make_room(&mut self, chunks: usize, now: u32) -> Result<(), Full> {
        if chunks > self.arena.most() as usize {
            return Err(Full);
        }
        while (self.arena.free() as usize) < chunks {
            if !self.evict || self.oldest == NONE {
                return Err(Full);
            }
            let item = self.item(self.oldest);
            let expired = item.expires != 0 && item.expires <= now;
            *(if expired { &mut self.counts.reclaimed } else { &mut self.counts.evictions }) += 1;
            self.remove(self.oldest);
        }
        Ok(())
    }

    fn push_front(&mut self, at: u32) {
        item::set_newer(&mut self.arena, at, NONE);
        item::set_older(&mut self.arena, at, self.newest);
        match self.newest {
            NONE => self.oldest = at,
            newest => item::set_newer(&mut self.arena, newest, at),
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Item { newer, older, .. } = self.item(at);
        match newer {
            NONE => self.newest = older,
            newer => item::set_older(&mut self.arena, newer, older),
        }
        match older {
            NONE => self.oldest = newer,
            older => item::set_newer(&mut self.arena, older, newer),
        }
        if self.sweep == at {
            self.sweep = newer;
        }
    }
}
