//! The lookup table: which backend a flow goes to, if nothing else is known of it (Maglev, NSDI'16 §3.4).
//!
//! Promises: a table depends on its size and on its members' names and weights alone, so the same set gives the same table in every
//! generation and on every box; members get shares by weight; a member that leaves or joins moves few flows of the others.
//!
//! Building takes some hundred thousand steps, so a [`Builder`] does it in portions, between batches of packets.

use alloc::{boxed::Box, vec, vec::Vec};

use twox_hash::XxHash64;

/// A backend's number: its place in the configuration's list of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u16);

impl BackendId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A backend as a table sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub backend: BackendId,
    pub name: &'a str,
    /// Its share, relative to the other members'; never 0.
    pub weight: u16,
}

/// A finished table; one without members picks nobody.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    slots: Box<[BackendId]>,
}

/// No backend has this number: the configuration's list is shorter.
const VACANT: BackendId = BackendId(u16::MAX);

/// Seeds that make two independent hashes of a name (the paper's h1 and h2).
const OFFSET_SEED: u64 = 0x6f66_6673_6574;
const SKIP_SEED: u64 = 0x736b_6970;

impl Table {
    /// The backend for a flow with this hash.
    #[inline]
    pub fn pick(&self, hash: u64) -> Option<BackendId> {
        // The high half scaled to the table's size: as even as the paper's modulo, without a division for each packet.
        let slot = ((hash >> 32) * self.slots.len() as u64) >> 32;
        self.slots.get(slot as usize).copied()
    }

    /// Builds a table in one go.
    pub fn build(size: usize, members: &[Member]) -> Table {
        let mut builder = Builder::new(size, members);
        while !builder.advance(usize::MAX) {}
        builder.finish()
    }

    /// Every slot's backend, in order.
    pub fn slots(&self) -> &[BackendId] {
        &self.slots
    }
}

/// One member's way through the slots: a permutation of all of them, since the step is smaller than the table's prime size.
struct Turn {
    backend: BackendId,
    weight: u64,
    next: u32,
    skip: u32,
    /// Turns earned by weight but not yet due, in units of 1 / the greatest weight.
    credit: u64,
}

/// A table in the making.
pub struct Builder {
    turns: Vec<Turn>,
    greatest_weight: u64,
    slots: Box<[BackendId]>,
    vacant: usize,
    /// Whose turn it is.
    at: usize,
}

impl Builder {
    /// Begins a table of `size` slots, a prime (`config` sees to that). The order of `members` doesn't matter.
    pub fn new(size: usize, members: &[Member]) -> Builder {
        let mut ordered: Vec<&Member> = members.iter().filter(|member| member.weight > 0).collect();
        ordered.sort_by(|a, b| a.name.cmp(b.name));
        let turns: Vec<Turn> = ordered
            .iter()
            .map(|member| {
                let hash = |seed| XxHash64::oneshot(seed, member.name.as_bytes());
                Turn {
                    backend: member.backend,
                    weight: u64::from(member.weight),
                    next: (hash(OFFSET_SEED) % size as u64) as u32,
                    skip: (hash(SKIP_SEED) % (size as u64 - 1) + 1) as u32,
                    credit: 0,
                }
            })
            .collect();
        let size = if turns.is_empty() { 0 } else { size };
        let greatest_weight = turns.iter().map(|turn| turn.weight).max().unwrap_or(1);
        Builder { turns, greatest_weight, slots: vec![VACANT; size].into_boxed_slice(), vacant: size, at: 0 }
    }

    /// Goes on for about `steps` looks at a slot; true when the table is complete.
    pub fn advance(&mut self, steps: usize) -> bool {
        let size = self.slots.len() as u32;
        let mut left = steps;
        while self.vacant > 0 && left > 0 {
            let at = self.at;
            self.at = if at + 1 == self.turns.len() { 0 } else { at + 1 };
            let turn = &mut self.turns[at];
            left -= 1;
            // The heaviest member takes a slot each round, the others as often as their weight is to its.
            turn.credit += turn.weight;
            if turn.credit < self.greatest_weight {
                continue;
            }
            turn.credit -= self.greatest_weight;
            // Not cut short by `steps`: a turn ends with a slot taken.
            loop {
                let slot = turn.next;
                turn.next = if slot >= size - turn.skip { slot - (size - turn.skip) } else { slot + turn.skip };
                if self.slots[slot as usize] == VACANT {
                    self.slots[slot as usize] = turn.backend;
                    self.vacant -= 1;
                    break;
                }
                left = left.saturating_sub(1);
            }
        }
        self.vacant == 0
    }

    /// The table, once `advance` has said that it is complete.
    pub fn finish(self) -> Table {
        debug_assert_eq!(self.vacant, 0, "a table is used only when complete");
        Table { slots: self.slots }
    }
}

/// Whether `n` is prime, as a table's size must be.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d: &u32| d.saturating_mul(*d) <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::String};
    use proptest::prelude::*;

    const SIZE: usize = 65_537;

    fn members(names: &[String], weights: &[u16]) -> Vec<Member<'static>> {
        names
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(i, (name, &weight))| Member {
                backend: BackendId(i as u16),
                name: String::leak(name.clone()),
                weight,
            })
            .collect()
    }

    fn named(weights: &[u16]) -> Vec<Member<'static>> {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("backend-{i}")).collect();
        members(&names, weights)
    }

    fn share(table: &Table, backend: u16) -> f64 {
        table.slots().iter().filter(|slot| slot.0 == backend).count() as f64 / table.slots().len() as f64
    }

    /// Slots that differ although neither table gives them to `changed`.
    fn disturbed(a: &Table, b: &Table, changed: u16) -> f64 {
        let moved = a.slots().iter().zip(b.slots()).filter(|(a, b)| a != b && a.0 != changed && b.0 != changed).count();
        moved as f64 / a.slots().len() as f64
    }

    /// The same set is the same table, however listed and however built: what a restart, and a second box, rely on.
    #[test]
    fn a_table_depends_on_its_set_alone() {
        let set = named(&[1, 1, 2, 3, 3]);
        let mut reversed = set.clone();
        reversed.reverse();
        let table = Table::build(SIZE, &set);
        assert_eq!(table, Table::build(SIZE, &reversed));
        let mut builder = Builder::new(SIZE, &set);
        let mut portions = 0;
        while !builder.advance(1_000) {
            portions += 1;
        }
        assert!(portions > 60, "portions are small: {portions}");
        assert_eq!(table, builder.finish());
    }

    #[test]
    fn nobody_is_picked_from_an_empty_set() {
        assert_eq!(Table::build(SIZE, &[]).pick(7), None);
        assert_eq!(Table::build(SIZE, &named(&[0])).pick(7), None);
    }

    /// The fixed value guards against an unnoticed change of hash or order, which would move every flow at an update of the box.
    #[test]
    fn golden_table() {
        let table = Table::build(101, &named(&[1, 2]));
        let text: String = table.slots().iter().map(|slot| char::from(b'0' + slot.0 as u8)).collect();
        assert_eq!(text, include_str!("../tests/golden/table-101-1-2.txt").trim_end());
    }

    #[test]
    fn every_hash_lands_in_the_table() {
        let table = Table::build(SIZE, &named(&[1, 1]));
        for hash in [0, 1, u64::MAX, 1 << 63, 0xffff_ffff] {
            assert!(table.pick(hash).is_some());
        }
        assert_eq!(table.pick(0), Some(table.slots()[0]));
        assert_eq!(table.pick(u64::MAX), Some(table.slots()[SIZE - 1]));
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|&n| is_prime(n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && !is_prime(65_536) && is_prime(4_294_967_291) && !is_prime(u32::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Shares follow weights: off by less than a thousandth of the table (rounding of turns alone would be 1 slot a member).
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u16..20, 1..12)) {
            let table = Table::build(SIZE, &named(&weights));
            let sum: u32 = weights.iter().map(|&w| u32::from(w)).sum();
            for (i, &weight) in weights.iter().enumerate() {
                let wanted = f64::from(weight) / f64::from(sum);
                prop_assert!((share(&table, i as u16) - wanted).abs() < 0.001);
            }
        }

        /// Minimal disruption: when one of equals leaves (or, read backwards, joins), few flows of the others move. The paper's figure 12
        /// has some per cent at this size; a plain modulo would move nearly all.
        #[test]
        fn leaving_and_joining_disturb_few_others(count in 3usize..10, gone in 0usize..10, salt in "[a-z]{6}") {
            let gone = gone % count;
            let names: Vec<String> = (0..count).map(|i| format!("{salt}{i}")).collect();
            let all = members(&names, &[1; 10]);
            let mut fewer = all.clone();
            fewer.remove(gone);
            let (all, fewer) = (Table::build(SIZE, &all), Table::build(SIZE, &fewer));
            prop_assert!(disturbed(&all, &fewer, gone as u16) < 0.06);
        }
    }
}
