//! What one device may reach: the tables by which an IOMMU translates its addresses (Intel VT-d 4.1 §3.7, second-stage paging; entries §9.8).
//!
//! Bus addresses are physical ones: a page is mapped at its own address, or not at all.

/// Bytes of a page, and of a table.
const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;
const READ: u64 = 1;
const WRITE: u64 = 2;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where tables lie. What is written the IOMMU sees, too.
pub trait TableMemory {
    /// A zeroed page.
    fn take(&mut self) -> Option<u64>;
    fn read(&self, table: u64, index: u64) -> u64;
    fn write(&mut self, table: u64, index: u64, entry: u64);
}

/// The tables of one device.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    root: u64,
    levels: u32,
}

impl Reach {
    /// Nothing is within reach. `levels`: as many as the IOMMU walks, 3 or 4.
    pub fn new(memory: &mut impl TableMemory, levels: u32) -> Option<Self> {
        Some(Self { root: memory.take()?, levels })
    }

    /// The table at which the walk begins.
    pub fn root(&self) -> u64 {
        self.root
    }

    fn limit(&self) -> u64 {
        PAGE << (9 * self.levels)
    }

    /// The end of a range, if the tables can name all of it.
    fn end(&self, first: u64, pages: u64) -> Option<u64> {
        first.checked_add(pages * PAGE).filter(|end| *end <= self.limit())
    }

    /// Makes the tables for a range of whole pages, which come within reach only by [`Reach::grant`]. False as there; some tables may have been made.
    pub fn reserve(&self, memory: &mut impl TableMemory, first: u64, pages: u64) -> bool {
        let Some(end) = self.end(first, pages) else { return false };
        (first..end).step_by(PAGE as usize).all(|at| self.place(memory, at, true).is_some())
    }

    /// Puts a range of whole pages within reach. False: it lies beyond what the tables can name, or there is no page for one; then nothing has changed.
    pub fn grant(&self, memory: &mut impl TableMemory, first: u64, pages: u64) -> bool {
        let Some(end) = self.end(first, pages) else { return false };
        for at in (first..end).step_by(PAGE as usize) {
            let Some((table, index)) = self.place(memory, at, true) else {
                self.revoke(memory, first, (at - first) / PAGE);
                return false;
            };
            memory.write(table, index, at | READ | WRITE);
        }
        true
    }

    /// Takes it out of reach. The IOMMU may remember it until it is told to forget.
    pub fn revoke(&self, memory: &mut impl TableMemory, first: u64, pages: u64) {
        for at in (first..).step_by(PAGE as usize).take(pages as usize) {
            if let Some((table, index)) = self.place(memory, at, false) {
                memory.write(table, index, 0);
            }
        }
    }

    /// Whether the device gets through to an address.
    pub fn reaches(&self, memory: &mut impl TableMemory, address: u64) -> bool {
        address < self.limit()
            && self
                .place(memory, address, false)
                .is_some_and(|(table, index)| memory.read(table, index) == address & !(PAGE - 1) | READ | WRITE)
    }

    /// The entry that maps an address, as its table and index; the tables on the way are made if they are wanted.
    fn place(&self, memory: &mut impl TableMemory, address: u64, make: bool) -> Option<(u64, u64)> {
        let index = |level: u32| address >> (12 + 9 * level) & (ENTRIES - 1);
        let mut table = self.root;
        for level in (1..self.levels).rev() {
            let entry = memory.read(table, index(level));
            table = match entry & ADDRESS {
                0 if make => {
                    let below = memory.take()?;
                    memory.write(table, index(level), below | READ | WRITE);
                    below
                }
                0 => return None,
                below => below,
            };
        }
        Some((table, index(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Default)]
    struct Fake {
        tables: BTreeMap<u64, [u64; 512]>,
        room: usize,
    }

    impl TableMemory for Fake {
        fn take(&mut self) -> Option<u64> {
            self.room = self.room.checked_sub(1)?;
            let table = (self.tables.len() as u64 + 1) << 20;
            self.tables.insert(table, [0; 512]);
            Some(table)
        }
        fn read(&self, table: u64, index: u64) -> u64 {
            self.tables[&table][index as usize]
        }
        fn write(&mut self, table: u64, index: u64, entry: u64) {
            self.tables.get_mut(&table).unwrap()[index as usize] = entry;
        }
    }

    /// Protects invariant 5: of all pages that a device could name it reaches those that it was granted and that were not revoked, and no other.
    #[test]
    fn exactly_what_was_granted() {
        for levels in [3, 4] {
            let mut memory = Fake { room: 1_000, ..Fake::default() };
            let reach = Reach::new(&mut memory, levels).unwrap();
            let mut model = BTreeSet::new();
            let mut dice = 7u64;
            // Pages at both sides of every table's boundary.
            let edges = [0u64, 1 << 21, 1 << 30, (1 << 30) + (1 << 21), 1 << 38].map(|edge| edge / PAGE);
            for _ in 0..2_000 {
                dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let first = (edges[(dice >> 33) as usize % edges.len()] + (dice >> 40) % 16).saturating_sub(8);
                let pages = (dice >> 50) % 9;
                let range = first..first + pages;
                if dice >> 63 == 0 && !range.clone().any(|page| model.contains(&page)) {
                    assert!(reach.grant(&mut memory, first * PAGE, pages));
                    model.extend(range);
                } else {
                    reach.revoke(&mut memory, first * PAGE, pages);
                    model.retain(|page| !range.contains(page));
                }
            }
            for page in edges.iter().flat_map(|edge| edge.saturating_sub(20)..edge + 40) {
                assert_eq!(reach.reaches(&mut memory, page * PAGE + 17), model.contains(&page), "page {page:#x}");
            }
        }
    }

    /// A grant that doesn't fit changes nothing: neither for want of a table, nor beyond the last address.
    #[test]
    fn all_of_it_or_nothing() {
        let mut memory = Fake { room: 4, ..Fake::default() };
        let reach = Reach::new(&mut memory, 4).unwrap();
        // Its second page lies behind another last table, for which there is no page left.
        assert!(!reach.grant(&mut memory, (1 << 21) - PAGE, 2));
        assert!(!reach.reaches(&mut memory, (1 << 21) - PAGE));
        assert!(!reach.grant(&mut memory, u64::MAX & !(PAGE - 1), 1));
        assert!(!reach.grant(&mut memory, (1 << 48) - PAGE, 2));
        assert!(reach.grant(&mut memory, 0, 512));
    }

    /// What there is room for isn't within reach, and is granted, page by page, when there is no room for anything more.
    #[test]
    fn what_was_reserved_is_granted_without_more_memory() {
        let mut memory = Fake { room: 5, ..Fake::default() };
        let reach = Reach::new(&mut memory, 4).unwrap();
        let edge = 1 << 21;
        assert!(!reach.reserve(&mut memory, (1 << 48) - PAGE, 2), "beyond the last address");
        assert!(reach.reserve(&mut memory, edge - 8 * PAGE, 16));
        assert_eq!(memory.room, 0);
        let pages = (edge - 8 * PAGE..edge + 8 * PAGE).step_by(PAGE as usize);
        for page in pages.clone() {
            assert!(!reach.reaches(&mut memory, page), "reserved, not granted");
            assert!(reach.grant(&mut memory, page, 1) && reach.reaches(&mut memory, page));
            reach.revoke(&mut memory, page, 1);
        }
        assert!(pages.into_iter().all(|page| !reach.reaches(&mut memory, page)));
        assert!(!reach.reserve(&mut memory, 1 << 22, 1), "there is no room for another table");
    }
}
