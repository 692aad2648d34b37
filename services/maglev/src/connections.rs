//! One CPU's connection table: which backend an open connection has, so that it stays there when the lookup table changes.
//!
//! Promises: bounded memory, taken once; no allocation, no lock, and at most two cache lines looked at for each packet, mostly one: nine of ten connections are in the first
//! of their two buckets as long as the table is half full at most. A connection is found by its exact addresses and ports, never by a hash alone.
//!
//! When both buckets of a new connection are full, it takes the place of one that has sent a single packet or is closing (counted as
//! `replaced`), so that a flood of SYNs can't push out what is established. If there is none either, the new connection isn't remembered
//! (counted as `untracked`): the lookup table alone directs it, which differs only if the backend set changes while it lasts.

use alloc::{boxed::Box, vec};

use runtime::memory;

use crate::table::BackendId;

/// What identifies a connection: its service stands for the destination's address and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub source: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub service: u16,
}

/// What a packet says about the life of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TCP's SYN: a connection begins.
    Open,
    /// Any other TCP segment.
    Data,
    /// TCP's FIN: the client has no more to send, but may go on receiving.
    Finish,
    /// TCP's RST.
    Reset,
    /// A UDP datagram.
    Datagram,
}

/// Where a connection stands, as far as one sees who sees only the client's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// One packet seen, or nothing but SYNs.
    Opening = 0,
    Established = 1,
    /// FIN seen; acknowledgements of a long download may still follow, each of which keeps it.
    Closing = 2,
    /// RST seen. A segment after it shows that the RST was forged (RFC 5961 §3), and the connection is as before.
    Reset = 3,
}

/// How long a silent connection is remembered, in nanoseconds, by phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    pub opening: u64,
    pub established: u64,
    pub closing: u64,
    pub reset: u64,
    pub datagram: u64,
}

/// Moments are kept in units of 2^26 ns (67 ms), in 30 bits, which last 2.2 years; a connection's end is never that far off.
const TICK_SHIFT: u32 = 26;
const PHASE_BITS: u32 = 2;

/// When a connection is forgotten, and its phase.
#[derive(Clone, Copy)]
struct Expiry(u32);

impl Expiry {
    fn new(now: u64, lifetime: u64, phase: Phase) -> Expiry {
        // Two ticks more, so that none ends early by rounding of the two terms; at most half a year.
        let ticks = (lifetime >> TICK_SHIFT).min(1 << 28) + 2;
        Expiry((((now >> TICK_SHIFT) + ticks) as u32) << PHASE_BITS | phase as u32)
    }

    fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Opening,
            1 => Phase::Established,
            2 => Phase::Closing,
            _ => Phase::Reset,
        }
    }

    /// Ticks left, negative when past; the shift puts the sign of the 30-bit difference in place.
    fn left(self, now: u64) -> i32 {
        let end = self.0 & !3;
        end.wrapping_sub(((now >> TICK_SHIFT) as u32) << PHASE_BITS) as i32
    }
}

#[derive(Clone, Copy)]
struct Entry {
    source: u32,
    source_port: u16,
    destination_port: u16,
    service: u16,
    backend: BackendId,
    expiry: Expiry,
}

const NO_SERVICE: u16 = u16::MAX;

const FREE: Entry = Entry {
    source: 0,
    source_port: 0,
    destination_port: 0,
    service: NO_SERVICE,
    backend: BackendId(0),
    expiry: Expiry(0),
};

impl Entry {
    fn new(key: Key, backend: BackendId, expiry: Expiry) -> Entry {
        let Key { source, source_port, destination_port, service } = key;
        Entry { source, source_port, destination_port, service, backend, expiry }
    }

    fn is_free(&self) -> bool {
        self.service == NO_SERVICE
    }

    /// Without a branch: which of a bucket's entries it is nobody can predict.
    #[inline]
    fn has(&self, key: &Key) -> bool {
        (self.source == key.source)
            & (self.source_port == key.source_port)
            & (self.destination_port == key.destination_port)
            & (self.service == key.service)
    }
}

/// A cache line of entries.
#[derive(Clone)]
#[repr(align(64))]
struct Bucket([Entry; Bucket::ENTRIES]);

impl Bucket {
    const ENTRIES: usize = 4;
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The places of a bucket that may be taken.
#[derive(Clone, Copy)]
struct Vacancy {
    count: usize,
    at: Option<usize>,
}

/// What became of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    Free,
    /// In the place of another one that was opening or closing.
    Replaced,
    /// Not remembered.
    Untracked,
}

/// A connection that was found.
pub struct Connection<'a> {
    entry: &'a mut Entry,
    live: &'a mut [u32],
    lifetimes: &'a Lifetimes,
}

/// The table.
pub struct Connections {
    buckets: Box<[Bucket]>,
    lifetimes: Lifetimes,
    /// Remembered connections of each backend.
    live: Box<[u32]>,
    /// Where the search for expired entries goes on, and since when the rest of a round is due.
    sweep_at: usize,
    swept_until: u64,
}

/// A whole round of the search for expired connections takes this long, and a call of it looks at no more buckets than `SWEEP_PORTION`.
const SWEEP_ROUND: u64 = 1_000_000_000;
const SWEEP_PORTION: usize = 64;

impl Connections {
    /// A table for `capacity` connections, rounded up to a power of two, to at most `backends` backends.
    pub fn new(capacity: usize, backends: usize, lifetimes: Lifetimes) -> Connections {
        let buckets = capacity.div_ceil(Bucket::ENTRIES).max(2).next_power_of_two();
        Connections {
            buckets: vec![Bucket([FREE; Bucket::ENTRIES]); buckets].into_boxed_slice(),
            lifetimes,
            live: vec![0; backends].into_boxed_slice(),
            sweep_at: 0,
            swept_until: 0,
        }
    }

    pub fn capacity(&self) -> usize {
        self.buckets.len() * Bucket::ENTRIES
    }

    /// Remembered connections of each backend.
    pub fn live(&self) -> &[u32] {
        &self.live
    }

    /// The two buckets where a flow may be.
    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        // Odd, so never 0: the second is another one than the first.
        [first, first ^ ((hash >> 24) as usize & mask | 1)]
    }

    /// The connection with this key, unless it has expired.
    #[inline]
    pub fn find(&mut self, hash: u64, key: &Key, now: u64) -> Option<Connection<'_>> {
        let (bucket, at) = self.place(hash, key)?;
        let entry = &mut self.buckets[bucket].0[at];
        if entry.expiry.left(now) <= 0 {
            self.live[entry.backend.index()] -= 1;
            *entry = FREE;
            return None;
        }
        Some(Connection { entry, live: &mut self.live, lifetimes: &self.lifetimes })
    }

    #[inline]
    fn place(&self, hash: u64, key: &Key) -> Option<(usize, usize)> {
        self.buckets_of(hash).into_iter().find_map(|bucket| {
            let entries = self.buckets[bucket].0.iter().enumerate();
            let found = entries.fold(0u32, |found, (at, entry)| found | u32::from(entry.has(key)) << at);
            (found != 0).then(|| (bucket, found.trailing_zeros() as usize))
        })
    }

    /// Remembers a connection that `find` didn't find.
    pub fn insert(&mut self, hash: u64, key: Key, backend: BackendId, signal: Signal, now: u64) -> Inserted {
        let phase = first_phase(signal);
        let entry = Entry::new(key, backend, Expiry::new(now, self.lifetimes.of(signal, phase), phase));
        // The first bucket, since it is looked at first, while it has a place to spare; from then on the emptier, so that all fill evenly.
        let [first, second] = self.buckets_of(hash).map(|bucket| (bucket, self.vacancy(bucket, now)));
        let (bucket, vacancy) = if first.1.count >= second.1.count.min(2) { first } else { second };
        if let Some(at) = vacancy.at {
            self.put(bucket, at, entry);
            return Inserted::Free;
        }
        let weakest =
            [first.0, second.0].into_iter().flat_map(|bucket| (0..Bucket::ENTRIES).map(move |at| (bucket, at)));
        let weakest = weakest
            .filter(|&(bucket, at)| self.buckets[bucket].0[at].expiry.phase() != Phase::Established)
            .min_by_key(|&(bucket, at)| self.buckets[bucket].0[at].expiry.left(now));
        let Some((bucket, at)) = weakest else { return Inserted::Untracked };
        self.put(bucket, at, entry);
        Inserted::Replaced
    }

    fn vacancy(&self, bucket: usize, now: u64) -> Vacancy {
        let mut vacancy = Vacancy { count: 0, at: None };
        for (at, entry) in self.buckets[bucket].0.iter().enumerate() {
            if entry.is_free() || entry.expiry.left(now) <= 0 {
                vacancy.count += 1;
                vacancy.at = Some(at);
            }
        }
        vacancy
    }

    /// Has the place where this flow most probably is fetched into the cache, so that `find` needn't wait for it a little later; for one that begins both places, since
    /// `insert` chooses between them.
    #[inline]
    pub fn prefetch(&self, hash: u64, begins: bool) {
        let [first, second] = self.buckets_of(hash);
        memory::prefetch(&self.buckets[first]);
        if begins {
            memory::prefetch(&self.buckets[second]);
        }
    }

    fn put(&mut self, bucket: usize, at: usize, entry: Entry) {
        let there = &mut self.buckets[bucket].0[at];
        if !there.is_free() {
            self.live[there.backend.index()] -= 1;
        }
        self.live[entry.backend.index()] += 1;
        *there = entry;
    }

    /// Forgets expired connections in a portion of the table, so that counts are true and places free within about a second. False if none
    /// was due.
    pub fn sweep(&mut self, now: u64) -> bool {
        let each = (SWEEP_ROUND / self.buckets.len() as u64).max(1);
        let due = (now.saturating_sub(self.swept_until) / each) as usize;
        let portion = due.min(SWEEP_PORTION).min(self.buckets.len());
        // What a portion can't catch up with is let go: after a pause one round starts anew.
        self.swept_until = if due > portion { now } else { self.swept_until + portion as u64 * each };
        for _ in 0..portion {
            for entry in &mut self.buckets[self.sweep_at].0 {
                if !entry.is_free() && entry.expiry.left(now) <= 0 {
                    self.live[entry.backend.index()] -= 1;
                    *entry = FREE;
                }
            }
            self.sweep_at = (self.sweep_at + 1) & (self.buckets.len() - 1);
        }
        portion > 0
    }
}

/// A connection met in its midst (after a restart of this domain, say) counts as opening until its second packet.
fn first_phase(signal: Signal) -> Phase {
    match signal {
        Signal::Open | Signal::Data | Signal::Datagram => Phase::Opening,
        Signal::Finish => Phase::Closing,
        Signal::Reset => Phase::Reset,
    }
}

impl Lifetimes {
    fn of(&self, signal: Signal, phase: Phase) -> u64 {
        match (signal, phase) {
            (Signal::Datagram, _) => self.datagram,
            (_, Phase::Opening) => self.opening,
            (_, Phase::Established) => self.established,
            (_, Phase::Closing) => self.closing,
            (_, Phase::Reset) => self.reset,
        }
    }
}

impl Connection<'_> {
    pub fn backend(&self) -> BackendId {
        self.entry.backend
    }

    pub fn phase(&self) -> Phase {
        self.entry.expiry.phase()
    }

    /// Notes a packet of the connection.
    #[inline]
    pub fn seen(&mut self, signal: Signal, now: u64) {
        let phase = match (self.phase(), signal) {
            (_, Signal::Reset) => Phase::Reset,
            (_, Signal::Finish) => Phase::Closing,
            // A SYN in an established connection is a stray or forged: the backend answers it (RFC 5961 §4), and it prolongs nothing.
            (Phase::Established, Signal::Open) => return,
            (_, Signal::Open) => Phase::Opening,
            (Phase::Closing, Signal::Data) => Phase::Closing,
            (_, Signal::Data | Signal::Datagram) => Phase::Established,
        };
        self.entry.expiry = Expiry::new(now, self.lifetimes.of(signal, phase), phase);
    }

    /// Gives the connection to another backend: its own is gone, or this is a new connection with an old one's ports.
    pub fn assign(&mut self, backend: BackendId) {
        self.live[self.entry.backend.index()] -= 1;
        self.live[backend.index()] += 1;
        self.entry.backend = backend;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeMap, vec::Vec};
    use proptest::prelude::*;
    use twox_hash::XxHash64;

    const SECOND: u64 = 1_000_000_000;
    const LIFETIMES: Lifetimes = Lifetimes {
        opening: 10 * SECOND,
        established: 1000 * SECOND,
        closing: 60 * SECOND,
        reset: SECOND,
        datagram: 30 * SECOND,
    };
    /// More than the rounding to ticks can add.
    const SLACK: u64 = SECOND / 4;

    fn key(n: u32) -> Key {
        Key { source: n, source_port: 1, destination_port: 80, service: 0 }
    }

    fn hash(key: &Key) -> u64 {
        XxHash64::oneshot(0, &key.source.to_le_bytes())
    }

    fn table(capacity: usize) -> Connections {
        Connections::new(capacity, 4, LIFETIMES)
    }

    fn add(table: &mut Connections, n: u32, backend: u16, signal: Signal, now: u64) -> Inserted {
        table.insert(hash(&key(n)), key(n), BackendId(backend), signal, now)
    }

    fn backend(table: &mut Connections, n: u32, now: u64) -> Option<u16> {
        table.find(hash(&key(n)), &key(n), now).map(|found| found.backend().0)
    }

    fn seen(table: &mut Connections, n: u32, signal: Signal, now: u64) {
        table.find(hash(&key(n)), &key(n), now).expect("is remembered").seen(signal, now);
    }

    #[test]
    fn a_connection_is_found_by_exact_key_until_it_expires() {
        let mut t = table(64);
        add(&mut t, 1, 3, Signal::Open, 0);
        assert_eq!(backend(&mut t, 1, 10 * SECOND), Some(3));
        let other = Key { source_port: 2, ..key(1) };
        assert!(t.find(hash(&key(1)), &other, 0).is_none(), "same hash, other port");
        assert_eq!(backend(&mut t, 1, 10 * SECOND + SLACK), None);
        assert_eq!(t.live()[3], 0, "found expired, counted off");
    }

    /// The phases of TCP as the client's half shows them, each with its lifetime.
    #[test]
    fn lifetimes_follow_the_phases() {
        let mut t = table(64);
        add(&mut t, 1, 0, Signal::Open, 0);
        seen(&mut t, 1, Signal::Data, SECOND);
        assert!(backend(&mut t, 1, 1001 * SECOND).is_some(), "established");
        seen(&mut t, 1, Signal::Open, 1001 * SECOND);
        assert!(backend(&mut t, 1, 1001 * SECOND + SLACK).is_none(), "a stray SYN prolongs nothing");

        add(&mut t, 1, 0, Signal::Open, 0);
        seen(&mut t, 1, Signal::Data, 0);
        seen(&mut t, 1, Signal::Finish, 0);
        seen(&mut t, 1, Signal::Data, 50 * SECOND);
        assert!(backend(&mut t, 1, 110 * SECOND).is_some(), "half closed and still acknowledging");
        assert!(backend(&mut t, 1, 110 * SECOND + SLACK).is_none());

        add(&mut t, 1, 0, Signal::Open, 0);
        seen(&mut t, 1, Signal::Data, 0);
        seen(&mut t, 1, Signal::Reset, 0);
        seen(&mut t, 1, Signal::Data, SECOND);
        assert!(backend(&mut t, 1, 900 * SECOND).is_some(), "a forged reset is made good by the next segment");
        seen(&mut t, 1, Signal::Reset, 900 * SECOND);
        assert!(backend(&mut t, 1, 901 * SECOND + SLACK).is_none());

        add(&mut t, 1, 0, Signal::Datagram, 0);
        seen(&mut t, 1, Signal::Datagram, 20 * SECOND);
        assert!(backend(&mut t, 1, 50 * SECOND).is_some());
        assert!(backend(&mut t, 1, 50 * SECOND + SLACK).is_none());
    }

    /// A flood of first packets replaces only first packets; what is established stays.
    #[test]
    fn a_flood_leaves_established_connections_alone() {
        let mut t = table(1024);
        let mut established = Vec::new();
        for n in 0..400 {
            if add(&mut t, n, 0, Signal::Open, 0) == Inserted::Free {
                seen(&mut t, n, Signal::Data, 0);
                established.push(n);
            }
        }
        let mut replaced = 0;
        for n in 10_000..60_000 {
            replaced += usize::from(add(&mut t, n, 1, Signal::Open, 1) == Inserted::Replaced);
        }
        assert!(replaced > 40_000);
        assert!(established.iter().all(|&n| backend(&mut t, n, 2) == Some(0)));
        assert_eq!(t.live()[0] as usize, established.len());
        assert!(t.live()[1] as usize <= t.capacity() - established.len());
    }

    #[test]
    fn a_table_full_of_established_connections_says_so() {
        let mut t = table(16);
        let mut untracked = 0;
        for n in 0..100 {
            match add(&mut t, n, 0, Signal::Open, 0) {
                Inserted::Untracked => untracked += 1,
                _ => seen(&mut t, n, Signal::Data, 0),
            }
        }
        assert_eq!(untracked + t.live()[0], 100);
        assert!(untracked >= 84, "no more than the capacity is held: {untracked}");
    }

    /// With two buckets to choose from all but one connection in a thousand find a place until the table is half full, and all but fifteen up to three quarters. Nine of
    /// ten are in their first bucket then and there: the other one is looked at for the rest alone.
    #[test]
    fn the_table_fills_well() {
        let mut t = table(65_536);
        let missed = |t: &mut Connections, numbers: core::ops::Range<u32>| {
            numbers.filter(|&n| add(t, n, 0, Signal::Open, 0) != Inserted::Free).count()
        };
        let few = missed(&mut t, 0..32_768);
        let is_first = |t: &Connections, n| {
            t.place(hash(&key(n)), &key(n)).is_some_and(|(at, _)| at == t.buckets_of(hash(&key(n)))[0])
        };
        let first = (0..32_768).filter(|&n| is_first(&t, n)).count();
        let more = few + missed(&mut t, 32_768..49_152);
        assert!(few < 33 && more < 737 && first > 29_300, "{few} {more} {first}");
    }

    #[test]
    fn sweeping_frees_what_expired_within_seconds() {
        let mut t = table(4096);
        for n in 0..1000 {
            add(&mut t, n, 2, Signal::Open, 0);
        }
        let mut now = 10 * SECOND + SLACK;
        for _ in 0..3_000 {
            t.sweep(now);
            now += SECOND / 1000;
        }
        assert_eq!(t.live()[2], 0);
    }

    /// After 2.2 years the tick counter wraps; a connection across that moment lives as any other.
    #[test]
    fn the_clock_may_wrap() {
        let wrap = (1u64 << 30) << TICK_SHIFT;
        let mut t = table(16);
        add(&mut t, 1, 0, Signal::Open, wrap - 5 * SECOND);
        assert!(backend(&mut t, 1, wrap + 4 * SECOND).is_some());
        assert!(backend(&mut t, 1, wrap + 6 * SECOND).is_none());
    }

    proptest! {
        /// Against a plain map: whatever is found has the backend last given, counts agree with content, nothing panics.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u32..40, 0u16..4, 0u8..6, 0u64..3), 1..400)) {
            let (mut t, mut map, mut now) = (table(32), BTreeMap::new(), 0);
            for (n, to, action, seconds) in steps {
                now += seconds * SECOND;
                let signal = [Signal::Open, Signal::Data, Signal::Finish, Signal::Reset, Signal::Datagram][usize::from(action.min(4))];
                let found = match t.find(hash(&key(n)), &key(n), now) {
                    Some(mut connection) => {
                        prop_assert_eq!(Some(&connection.backend().0), map.get(&n));
                        if action == 5 {
                            connection.assign(BackendId(to));
                            map.insert(n, to);
                        }
                        connection.seen(signal, now);
                        true
                    }
                    None => false,
                };
                if !found {
                    map.remove(&n);
                    if add(&mut t, n, to, signal, now) != Inserted::Untracked {
                        map.insert(n, to);
                    }
                }
                t.sweep(now);
                let held = t.buckets.iter().flat_map(|bucket| bucket.0).filter(|entry| !entry.is_free()).count();
                prop_assert_eq!(held as u32, t.live().iter().sum::<u32>());
            }
        }
    }
}
