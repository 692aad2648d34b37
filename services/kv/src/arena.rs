//! The memory that items live in: chunks of one size, in segments that are taken from the heap as they are needed and kept. It promises that memory stays
//! within the manifest's quota whatever is stored in whatever order: there are no sizes to fragment, and an eviction always frees what the next item can use.

use alloc::{boxed::Box, vec, vec::Vec};

/// Bytes of a chunk: two cache lines. An item with a short key and value is one chunk.
pub const CHUNK: usize = 128;
/// Chunks of a segment.
const SEGMENT: usize = 2048;
/// The number that is no chunk.
pub const NONE: u32 = u32::MAX;
/// Where a chunk's contents start: before it is the number of the next chunk.
pub const BODY: usize = 4;

pub type Chunk = [u8; CHUNK];

pub struct Arena {
    segments: Vec<Box<[Chunk]>>,
    /// Chunks that there may be at most.
    most: u32,
    /// Chunks from this number on have never been used since the last reset.
    fresh: u32,
    /// The first of the chunks that have been given back, each of which names the next.
    returned: u32,
    used: u32,
}

impl Arena {
    /// An arena of at most `bytes`.
    pub fn new(bytes: u64) -> Arena {
        let most = (bytes / CHUNK as u64).clamp(1, u64::from(NONE - 1)) as u32;
        Arena { segments: Vec::new(), most, fresh: 0, returned: NONE, used: 0 }
    }

    pub fn most(&self) -> u32 {
        self.most
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    /// How many more chunks can be had.
    pub fn free(&self) -> u32 {
        self.most - self.used
    }

    pub fn chunk(&self, at: u32) -> &Chunk {
        &self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }

    pub fn chunk_mut(&mut self, at: u32) -> &mut Chunk {
        &mut self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }

    pub fn next(&self, at: u32) -> u32 {
        let [a, b, c, d, ..] = *self.chunk(at);
        u32::from_le_bytes([a, b, c, d])
    }

    pub fn set_next(&mut self, at: u32, next: u32) {
        self.chunk_mut(at)[..BODY].copy_from_slice(&next.to_le_bytes());
    }

    /// A chunk that is followed by none, if there is one.
    pub fn take(&mut self) -> Option<u32> {
        let at = if self.returned != NONE {
            let at = self.returned;
            self.returned = self.next(at);
            at
        } else if self.fresh < self.most {
            let at = self.fresh;
            if at as usize / SEGMENT == self.segments.len() {
                let chunks = SEGMENT.min((self.most - at) as usize);
                self.segments.push(vec![[0; CHUNK]; chunks].into_boxed_slice());
            }
            self.fresh += 1;
            at
        } else {
            return None;
        };
        self.used += 1;
        self.set_next(at, NONE);
        Some(at)
    }

    /// Gives back the chain that starts at `first`.
    pub fn give_back(&mut self, first: u32) {
        let mut at = first;
        while at != NONE {
            let next = self.next(at);
            self.set_next(at, self.returned);
            self.returned = at;
            self.used -= 1;
            at = next;
        }
    }

    /// Gives everything back at once.
    pub fn reset(&mut self) {
        (self.fresh, self.returned, self.used) = (0, NONE, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory is bounded by construction: the last chunk is the last, and what is given back can be had again.
    #[test]
    fn chunks_are_counted_to_the_last() {
        let mut arena = Arena::new(5000 * CHUNK as u64 + 17);
        assert_eq!(arena.most(), 5000);
        let all: Vec<u32> = core::iter::from_fn(|| arena.take()).collect();
        assert_eq!((all.len(), arena.free()), (5000, 0));
        arena.set_next(all[7], all[4000]);
        arena.give_back(all[7]);
        assert_eq!(arena.free(), 2);
        assert_eq!((arena.take(), arena.take(), arena.take()), (Some(all[4000]), Some(all[7]), None));
        arena.reset();
        assert_eq!((arena.free(), arena.take()), (5000, Some(0)));
    }
}
