//! The durable log: every change is appended before it is acknowledged, and at the start the store is what the log says.
//!
//! What it promises, on a medium that keeps what was flushed and may keep, lose or tear what wasn't, block by block: an acknowledged change survives power loss at
//! any point, also amid a compaction or a recovery; of a commit that was not acknowledged all changes are there or none; a torn tail is found and reported, never
//! served; damage before the tail is refused, with what is lost by it, rather than passed over.
//!
//! The medium is two *areas*, one of which is in use. An area is a head (one block) and *frames*: each is a commit, starts at a block, and carries the area's
//! epoch, its number, and a checksum over all of it, keyed by the area's nonce, so that no client can store something that looks like a frame. A commit is
//! written and flushed before the next is begun: so only the last frame can be torn, and one that doesn't check with a later one behind it is damage. When an area
//! is full, what is alive is written to the other, which is *sealed* by a frame of its own once that is flushed; only then the old one is marked as superseded.

pub mod disk;
pub mod frame;
pub mod journal;
pub mod log;
pub mod recovery;
mod replay;
pub mod writer;

use core::fmt;

pub use frame::Change;
pub use log::{Log, LogError, Usage};
pub use recovery::{Report, open};

/// Where the log lies: blocks of one size, which keep what has been flushed. Its error ends the service: what can't be written isn't acknowledged.
pub trait Medium {
    type Error: fmt::Debug;

    /// A power of two, 512 at least.
    fn block_size(&self) -> usize;

    fn blocks(&self) -> u64;

    /// Reads whole blocks.
    fn read(&mut self, block: u64, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes whole blocks. They may be torn until they are flushed.
    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// What has been written is kept from here on.
    fn flush(&mut self) -> Result<(), Self::Error>;
}
