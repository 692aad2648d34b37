//! Which ranges of the window for images and stacks are taken. Pages are 4 KiB; each area is followed by an unmapped
//! guard page that belongs to it, so two areas never touch.

use alloc::collections::BTreeMap;

/// Page size in bytes.
pub const PAGE: u64 = 4096;

/// Free ranges of a window of virtual addresses, by start.
pub struct Areas {
    free: BTreeMap<u64, u64>,
}

impl Areas {
    /// A window `[start, end)`, both multiples of the page size.
    pub fn new(start: u64, end: u64) -> Self {
        Self { free: BTreeMap::from([(start, end - start)]) }
    }

    /// Takes room for `pages` pages and the guard page behind them: the first address, or `None` when the window is
    /// used up.
    pub fn take(&mut self, pages: u64) -> Option<u64> {
        let wanted = (pages + 1) * PAGE;
        let (start, length) = self.free.iter().find(|(_, length)| **length >= wanted).map(|(s, l)| (*s, *l))?;
        self.free.remove(&start);
        if length > wanted {
            self.free.insert(start + wanted, length - wanted);
        }
        Some(start)
    }

    /// Gives back what [`Areas::take`] with the same number of pages returned.
    pub fn give_back(&mut self, start: u64, pages: u64) {
        let (mut start, mut length) = (start, (pages + 1) * PAGE);
        if let Some((before, size)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l)) {
            assert!(before + size <= start, "area {start:#x} given back twice");
            if before + size == start {
                self.free.remove(&before);
                (start, length) = (before, size + length);
            }
        }
        if let Some((after, size)) = self.free.range(start..).next().map(|(s, l)| (*s, *l)) {
            assert!(start + length <= after, "area {start:#x} given back twice");
            if start + length == after {
                self.free.remove(&after);
                length += size;
            }
        }
        self.free.insert(start, length);
    }

    /// Free ranges, which tells fragmentation.
    pub fn pieces(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Areas are a guard page apart, and the window is whole again when all have been given back, in any order.
    #[test]
    fn areas_have_guards_and_join_again() {
        let mut areas = Areas::new(0x10_0000, 0x20_0000);
        let taken: Vec<u64> = (0..10).map(|_| areas.take(3).unwrap()).collect();
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= 4 * PAGE));
        for index in [3, 1, 2, 9, 0, 5, 4, 8, 6, 7] {
            areas.give_back(taken[index], 3);
        }
        assert_eq!(areas.pieces(), 1);
        assert_eq!(areas.take(255), Some(0x10_0000));
        assert_eq!(areas.take(0), None);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_back_twice_is_a_bug() {
        let mut areas = Areas::new(0x10_0000, 0x20_0000);
        let first = areas.take(1).unwrap();
        areas.take(1).unwrap();
        areas.give_back(first, 1);
        areas.give_back(first, 1);
    }
}
