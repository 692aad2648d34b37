//! Doing again what the log says, in a store that is empty and serves nobody yet.
//!
//! A compaction shows what is alive shard by shard while clients go on, so what has changed meanwhile may stand in the log twice: in what was shown, and as a change behind
//! it. In the end that comes to the same, but on the way there may be more than ever was: an item that was shown already is stored again before those go that had made room for
//! it. So what finds no place is set aside, and is stored when all else has been done.

use alloc::{collections::BTreeMap, vec::Vec};

use super::Change;
use crate::{
    clock::Clock,
    store::{Store, Stored},
};

/// Bytes that may be set aside: twice what is noted before somebody waits for the medium, since no more than that can have been under way beside a compaction.
const MOST_ASIDE: usize = 2 << 20;

pub struct Replay<'a> {
    store: &'a Store,
    clock: Clock,
    /// The date of a flush that hasn't come yet; 0 for none.
    due: i64,
    /// Whether the log says how keys are shared out.
    seeded: bool,
    /// As they are written down, by key.
    aside: BTreeMap<Vec<u8>, Vec<u8>>,
    aside_bytes: usize,
    refused: Option<Stored>,
}

impl<'a> Replay<'a> {
    pub fn new(store: &'a Store, clock: Clock) -> Replay<'a> {
        Replay { store, clock, due: 0, seeded: false, aside: BTreeMap::new(), aside_bytes: 0, refused: None }
    }

    pub fn change(&mut self, change: Change) {
        if self.refused.is_some() {
            return;
        }
        match change {
            Change::Seed(_) => self.seeded = true,
            Change::Stored { key, .. } | Change::Removed { key } => {
                self.aside_bytes -= self.aside.remove(key).map_or(0, |bytes| bytes.len());
            }
            Change::Flushed { date: 0 } => {
                self.aside.clear();
                self.aside_bytes = 0;
            }
            Change::Flushed { .. } | Change::Sealed => {}
        }
        match (self.store.apply(change, self.clock, &mut self.due), change) {
            (Ok(()), _) => {}
            (Err(Stored::NoMemory), Change::Stored { key, .. }) => self.set_aside(key, change),
            (Err(error), _) => self.refused = Some(error),
        }
    }

    fn set_aside(&mut self, key: &[u8], change: Change) {
        // What it replaces has had its day.
        if let Err(error) = self.store.apply(Change::Removed { key }, self.clock, &mut self.due) {
            self.refused = Some(error);
        }
        let mut bytes = Vec::new();
        change.write(&mut bytes);
        self.aside_bytes += bytes.len();
        self.aside.insert(key.into(), bytes);
        if self.aside_bytes > MOST_ASIDE {
            self.refused = Some(Stored::NoMemory);
        }
    }

    /// All has been read. Says whether the log told how keys are shared out; an error if there is more than the store holds.
    pub fn end(mut self) -> Result<bool, Stored> {
        for bytes in core::mem::take(&mut self.aside).into_values() {
            let change = Change::read(&bytes).map(|(change, _)| change);
            change.map_or(Ok(()), |change| self.store.apply(change, self.clock, &mut self.due))?;
        }
        self.store.expect_flush(self.due, self.clock);
        self.refused.map_or(Ok(self.seeded), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;
    use alloc::format;

    const VALUE: [u8; 500] = [7; 500];

    fn store() -> Store {
        let limits = Limits { memory: 64 << 10, longest_value: 1 << 10, incoming: 0, evict: false, shards: 1 };
        Store::new(limits, 1, None)
    }

    fn stored<'a>(key: &'a [u8], value: &'a [u8]) -> Change<'a> {
        Change::Stored { key, value, flags: 0, cas: 1, bits: 0, expires: 0 }
    }

    fn has(store: &Store, key: &str, clock: Clock) -> bool {
        store.lock(key.as_bytes(), clock).find().is_some()
    }

    /// A full store whose log says a change of the time of a compaction twice comes back; what is more than ever was in it at once is told apart from what is too much.
    #[test]
    fn more_than_ever_was_finds_its_place_in_the_end() {
        interfaces::host::connect();
        let (store, clock) = (store(), Clock::now(0));
        let mut full = 0;
        let mut due = 0;
        while store.apply(stored(format!("k{full}").as_bytes(), &VALUE), clock, &mut due).is_ok() {
            full += 1;
        }
        let again = self::store();
        let mut replay = Replay::new(&again, clock);
        // What was shown: all but the first, and in its place the new one.
        for at in 1..full {
            replay.change(stored(format!("k{at}").as_bytes(), &VALUE));
        }
        replay.change(stored(b"new", &VALUE));
        // How it had come to that.
        replay.change(stored(b"k0", &VALUE));
        replay.change(stored(b"k1", &[8; 500]));
        replay.change(Change::Removed { key: b"k0" });
        replay.change(stored(b"new", &VALUE));
        assert_eq!(replay.end(), Ok(false));
        assert!(!has(&again, "k0", clock));
        assert!((1..full).all(|at| has(&again, &format!("k{at}"), clock)) && has(&again, "new", clock));

        let mut replay = Replay::new(&again, clock);
        replay.change(stored(b"one too many", &VALUE));
        assert_eq!(replay.end(), Err(Stored::NoMemory));
    }
}
