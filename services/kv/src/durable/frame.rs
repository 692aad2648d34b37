//! What stands on the medium: heads of areas, frames, and the changes in them. Reading is total: whatever the bytes, the answer is a value or none.

use alloc::vec::Vec;
use twox_hash::XxHash3_64;

const AREA_MAGIC: &[u8; 8] = b"RLKVAREA";
const FRAME_MAGIC: &[u8; 4] = b"RLKF";
/// Bytes of a frame before its changes.
pub const FRAME_HEAD: usize = 40;

/// A change to the store, as it is written down: what has become of a key, not how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Stored {
        key: &'a [u8],
        value: &'a [u8],
        flags: u32,
        cas: u64,
        bits: u8,
        expires: i64,
    },
    Removed {
        key: &'a [u8],
    },
    /// Nothing is there any more from this date on.
    Flushed {
        date: i64,
    },
    /// What is before this is all that was alive when the area was begun.
    Sealed,
    /// By which keys are shared out among the store's shards, if it stands before all items: a store that was full is full in the same way again.
    Seed(u64),
}

/// What the first block of an area says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaHead {
    /// Of two areas the one with the greater epoch was begun later.
    pub epoch: u64,
    pub nonce: u64,
    /// The other area has taken its place.
    pub superseded: bool,
    /// Blocks of an area: says where the other one is.
    pub blocks: u64,
}

impl AreaHead {
    pub fn write(&self, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(AREA_MAGIC);
        block[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        block[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        block[24] = self.superseded.into();
        block[32..40].copy_from_slice(&self.blocks.to_le_bytes());
        let sum = XxHash3_64::oneshot(&block[..40]);
        block[40..48].copy_from_slice(&sum.to_le_bytes());
    }

    pub fn read(block: &[u8]) -> Option<AreaHead> {
        let well = block.get(..8)? == AREA_MAGIC && word(block, 40)? == XxHash3_64::oneshot(block.get(..40)?);
        let (epoch, nonce, superseded) = (word(block, 8)?, word(block, 16)?, block[24] != 0);
        let head = AreaHead { epoch, nonce, superseded, blocks: word(block, 32)? };
        well.then_some(head)
    }
}

/// What a frame's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub sequence: u64,
    /// Bytes of changes.
    pub len: u32,
    /// Over the changes.
    sum: u64,
}

impl FrameHead {
    /// The head of a frame of the area with this head, if it is one; its changes are yet to be checked.
    pub fn read(block: &[u8], area: &AreaHead) -> Option<FrameHead> {
        if block.get(..4)? != FRAME_MAGIC || word(block, 8)? != area.epoch {
            return None;
        }
        if word(block, 32)? != XxHash3_64::oneshot_with_seed(area.nonce, block.get(..32)?) {
            return None;
        }
        let len = u32::from_le_bytes(*block[4..].first_chunk()?);
        Some(FrameHead { sequence: word(block, 16)?, len, sum: word(block, 24)? })
    }

    /// Whether these are its changes.
    pub fn checks(&self, changes: &[u8], area: &AreaHead) -> bool {
        changes.len() == self.len as usize && self.sum == sum_of(changes, area, self.sequence)
    }
}

fn sum_of(changes: &[u8], area: &AreaHead, sequence: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(area.nonce ^ sequence, changes)
}

/// Makes a frame of changes: whole blocks.
pub fn frame(changes: &[u8], sequence: u64, area: &AreaHead, block_size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((FRAME_HEAD + changes.len()).next_multiple_of(block_size));
    bytes.extend_from_slice(FRAME_MAGIC);
    bytes.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    for word in [area.epoch, sequence, sum_of(changes, area, sequence)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let sum = XxHash3_64::oneshot_with_seed(area.nonce, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(changes);
    bytes.resize(bytes.len().next_multiple_of(block_size), 0);
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Change<'a> {
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Change::Stored { key, value, flags, cas, bits, expires } => {
                out.extend_from_slice(&[1, key.len() as u8, *bits]);
                out.extend_from_slice(&flags.to_le_bytes());
                out.extend_from_slice(&cas.to_le_bytes());
                out.extend_from_slice(&expires.to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Change::Removed { key } => {
                out.extend_from_slice(&[2, key.len() as u8]);
                out.extend_from_slice(key);
            }
            Change::Flushed { date } => {
                out.push(3);
                out.extend_from_slice(&date.to_le_bytes());
            }
            Change::Sealed => out.push(4),
            Change::Seed(seed) => {
                out.push(5);
                out.extend_from_slice(&seed.to_le_bytes());
            }
        }
    }

    /// The first change of `bytes`, and what is behind it.
    pub fn read(bytes: &'a [u8]) -> Option<(Change<'a>, &'a [u8])> {
        let (&kind, rest) = bytes.split_first()?;
        match kind {
            1 => {
                let (&[key_len, bits], rest) = rest.split_first_chunk()?;
                let (flags, rest) = rest.split_first_chunk()?;
                let (cas, rest) = rest.split_first_chunk()?;
                let (expires, rest) = rest.split_first_chunk()?;
                let (value_len, rest) = rest.split_first_chunk()?;
                let (key, rest) = rest.split_at_checked(key_len.into())?;
                let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
                let (flags, cas, expires) =
                    (u32::from_le_bytes(*flags), u64::from_le_bytes(*cas), i64::from_le_bytes(*expires));
                Some((Change::Stored { key, value, flags, cas, bits, expires }, rest))
            }
            2 => {
                let (&key_len, rest) = rest.split_first()?;
                let (key, rest) = rest.split_at_checked(key_len.into())?;
                Some((Change::Removed { key }, rest))
            }
            3 => {
                let (date, rest) = rest.split_first_chunk()?;
                Some((Change::Flushed { date: i64::from_le_bytes(*date) }, rest))
            }
            4 => Some((Change::Sealed, rest)),
            5 => {
                let (seed, rest) = rest.split_first_chunk()?;
                Some((Change::Seed(u64::from_le_bytes(*seed)), rest))
            }
            _ => None,
        }
    }
}
