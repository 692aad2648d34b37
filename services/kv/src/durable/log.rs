//! Writing: changes are gathered, and committed together.

use alloc::{vec, vec::Vec};

use super::{
    Medium,
    frame::{AreaHead, Change, frame},
};

/// Bytes of changes after which a compaction begins a new frame.
const COMPACTION_FRAME: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError<E> {
    /// The medium doesn't do what it should.
    Medium(E),
    /// What is to be written doesn't fit behind what is there, or that has become long: compact.
    Full,
    /// What is alive doesn't fit into an area.
    TooSmall,
}

impl<E> From<E> for LogError<E> {
    fn from(error: E) -> Self {
        LogError::Medium(error)
    }
}

/// Bytes behind a seal that are never worth a compaction.
const ROOM: u64 = 4 << 20;

/// The last block of an area at which a frame may begin, if its seal ends before block `sealed`: a log that is much longer than what is alive takes long to read. The one who
/// reads knows by it where nothing can be, so this is part of what stands on the medium: an area is written and read by one rule.
pub(super) fn last_start(sealed: u64, area_blocks: u64, block_size: usize) -> u64 {
    (4 * sealed).saturating_add(ROOM / block_size as u64).min(area_blocks - 1)
}

/// What the log has taken, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of changes that were committed, and of blocks that were written for them and for compactions: their ratio is the write amplification.
    pub committed: u64,
    pub written: u64,
    pub flushes: u64,
    pub commits: u64,
    pub compactions: u64,
}

/// The log, ready to be appended to.
#[derive(Debug)]
pub struct Log {
    pub(super) area: AreaHead,
    /// The number of the area in use: 0 or 1.
    pub(super) place: u64,
    /// Blocks of an area.
    pub(super) area_blocks: u64,
    pub(super) block_size: usize,
    /// The area's block that the next frame starts at, and the frame's number.
    pub(super) next: u64,
    pub(super) sequence: u64,
    /// The block behind the area's seal.
    pub(super) sealed: u64,
    pub(super) changes: Vec<u8>,
    pub(super) usage: Usage,
}

impl Log {
    /// Notes a change: it is on the medium after the next commit.
    pub fn append(&mut self, change: Change) {
        change.write(&mut self.changes);
    }

    /// The same for changes that stand in `encoded` already.
    pub fn take(&mut self, encoded: Vec<u8>) {
        match self.changes.is_empty() {
            true => self.changes = encoded,
            false => self.changes.extend_from_slice(&encoded),
        }
    }

    /// Whether there is something to commit.
    pub fn is_clean(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How much of the area is used, in thousandths.
    pub fn fill(&self) -> u64 {
        self.next * 1000 / self.area_blocks
    }

    /// Writes down what has been noted, in one frame and with one flush. When this returns it survives whatever happens. If the area is full, or has become much longer than
    /// what was alive when it was begun, nothing has been written, and what was noted is kept.
    pub fn commit<M: Medium>(&mut self, medium: &mut M) -> Result<(), LogError<M::Error>> {
        if self.changes.is_empty() {
            return Ok(());
        }
        if self.next > last_start(self.sealed, self.area_blocks, self.block_size) {
            return Err(LogError::Full);
        }
        self.write_frame(medium)?;
        self.usage.commits += 1;
        self.flush(medium)
    }

    /// Writes what is alive to the other area, and goes on there. `alive` calls its argument with every item; what was noted and not committed yet must be part of
    /// it. After an error the old area is still the one that counts.
    pub fn compact<M: Medium>(
        &mut self,
        medium: &mut M,
        nonce: u64,
        alive: impl FnOnce(&mut dyn FnMut(Change)),
    ) -> Result<(), LogError<M::Error>> {
        let area = AreaHead { epoch: self.area.epoch + 1, nonce, superseded: false, blocks: self.area_blocks };
        let mut new = Log::begin(medium, 1 - self.place, area, self.usage)?;
        let mut result = Ok(());
        alive(&mut |change| {
            new.append(change);
            if result.is_ok() && new.changes.len() >= COMPACTION_FRAME {
                result = new.write_frame(medium);
            }
        });
        result.and_then(|()| new.seal(medium)).map_err(|error| match error {
            LogError::Full => LogError::TooSmall,
            error => error,
        })?;
        // Only now the old area gives way: until here a power loss goes back to it.
        let old = AreaHead { superseded: true, ..self.area };
        write_head(medium, self.place * self.area_blocks, &old, self.block_size)?;
        medium.flush()?;
        new.usage.compactions += 1;
        *self = new;
        Ok(())
    }

    /// An area with a head and nothing else.
    pub(super) fn begin<M: Medium>(
        medium: &mut M,
        place: u64,
        area: AreaHead,
        usage: Usage,
    ) -> Result<Log, LogError<M::Error>> {
        let (area_blocks, block_size) = (medium.blocks() / 2, medium.block_size());
        write_head(medium, place * area_blocks, &area, block_size)?;
        medium.flush()?;
        Ok(Log { area, place, area_blocks, block_size, next: 1, sequence: 0, sealed: 1, changes: Vec::new(), usage })
    }

    /// Says that all that was alive is there.
    pub(super) fn seal<M: Medium>(&mut self, medium: &mut M) -> Result<(), LogError<M::Error>> {
        if !self.changes.is_empty() {
            self.write_frame(medium)?;
        }
        // What the seal vouches for is on the medium before it.
        self.flush(medium)?;
        self.append(Change::Sealed);
        self.write_frame(medium)?;
        self.sealed = self.next;
        self.flush(medium)
    }

    fn write_frame<M: Medium>(&mut self, medium: &mut M) -> Result<(), LogError<M::Error>> {
        let bytes = frame(&self.changes, self.sequence, &self.area, self.block_size);
        let blocks = (bytes.len() / self.block_size) as u64;
        if self.next + blocks > self.area_blocks {
            return Err(LogError::Full);
        }
        medium.write(self.place * self.area_blocks + self.next, &bytes)?;
        self.usage.committed += self.changes.len() as u64;
        self.usage.written += bytes.len() as u64;
        self.changes.clear();
        self.next += blocks;
        self.sequence += 1;
        Ok(())
    }

    fn flush<M: Medium>(&mut self, medium: &mut M) -> Result<(), LogError<M::Error>> {
        self.usage.flushes += 1;
        Ok(medium.flush()?)
    }
}

fn write_head<M: Medium>(medium: &mut M, block: u64, head: &AreaHead, block_size: usize) -> Result<(), M::Error> {
    let mut bytes = vec![0; block_size];
    head.write(&mut bytes);
    medium.write(block, &bytes)
}
