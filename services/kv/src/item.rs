//! An item as it lies in its chunks: a head of fixed fields in the first chunk, then the key and the value as one run of bytes through the whole chain.

use alloc::vec::Vec;

use crate::arena::{Arena, BODY, CHUNK, NONE};

/// The longest key of the protocol.
pub const LONGEST_KEY: usize = 250;

/// Bits of [`Item::bits`].
pub mod bit {
    /// Has been read since it was stored.
    pub const FETCHED: u8 = 1;
    /// Marked by a meta delete: still served, but somebody should store it anew.
    pub const STALE: u8 = 2;
    /// Somebody has been told to store it anew.
    pub const TOKEN_SENT: u8 = 4;
    /// The key came in base64 and is shown so.
    pub const BINARY_KEY: u8 = 8;
}

/// What is known of an item besides its key and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The client's own.
    pub flags: u32,
    /// Second from which on it isn't there any more; 0 for never.
    pub expires: u32,
    /// Second of the last use that moved it to the front.
    pub touched: u32,
    pub cas: u64,
    pub bits: u8,
    pub key_len: u8,
    pub value_len: u32,
    /// Neighbours in the order of use: towards the front, towards the back.
    pub newer: u32,
    pub older: u32,
    /// Of the key, as the index has it.
    pub hash: u32,
}

const NEWER: usize = BODY;
const OLDER: usize = BODY + 4;
const EXPIRES: usize = BODY + 8;
const TOUCHED: usize = BODY + 12;
const FLAGS: usize = BODY + 16;
const VALUE_LEN: usize = BODY + 20;
const CAS: usize = BODY + 24;
const KEY_LEN: usize = BODY + 32;
const BITS: usize = BODY + 33;
const HASH: usize = BODY + 34;
/// Where the bytes start in an item's first chunk.
const DATA: usize = BODY + 38;

/// Chunks that an item takes.
pub fn chunks_for(key_len: usize, value_len: usize) -> usize {
    let rest = (key_len + value_len).saturating_sub(CHUNK - DATA);
    1 + rest.div_ceil(CHUNK - BODY)
}

fn word(arena: &Arena, at: u32, offset: usize) -> u32 {
    let chunk = arena.chunk(at);
    u32::from_le_bytes([chunk[offset], chunk[offset + 1], chunk[offset + 2], chunk[offset + 3]])
}

fn set_word(arena: &mut Arena, at: u32, offset: usize, value: u32) {
    arena.chunk_mut(at)[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

impl Item {
    pub fn read(arena: &Arena, at: u32) -> Item {
        let chunk = arena.chunk(at);
        let mut cas = [0; 8];
        cas.copy_from_slice(&chunk[CAS..CAS + 8]);
        Item {
            flags: word(arena, at, FLAGS),
            expires: word(arena, at, EXPIRES),
            touched: word(arena, at, TOUCHED),
            cas: u64::from_le_bytes(cas),
            bits: chunk[BITS],
            key_len: chunk[KEY_LEN],
            value_len: word(arena, at, VALUE_LEN),
            newer: word(arena, at, NEWER),
            older: word(arena, at, OLDER),
            hash: word(arena, at, HASH),
        }
    }

    pub fn write(&self, arena: &mut Arena, at: u32) {
        let chunk = arena.chunk_mut(at);
        chunk[CAS..CAS + 8].copy_from_slice(&self.cas.to_le_bytes());
        (chunk[BITS], chunk[KEY_LEN]) = (self.bits, self.key_len);
        let words = [
            (FLAGS, self.flags),
            (EXPIRES, self.expires),
            (TOUCHED, self.touched),
            (VALUE_LEN, self.value_len),
            (NEWER, self.newer),
            (OLDER, self.older),
            (HASH, self.hash),
        ];
        words.into_iter().for_each(|(offset, value)| set_word(arena, at, offset, value));
    }
}

pub fn set_newer(arena: &mut Arena, at: u32, newer: u32) {
    set_word(arena, at, NEWER, newer);
}

pub fn set_older(arena: &mut Arena, at: u32, older: u32) {
    set_word(arena, at, OLDER, older);
}

/// The pieces of an item's key and value, in order.
struct Pieces<'a> {
    arena: &'a Arena,
    at: u32,
    offset: usize,
    left: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 || self.at == NONE {
            return None;
        }
        let piece = &self.arena.chunk(self.at)[self.offset..];
        let piece = &piece[..piece.len().min(self.left)];
        self.left -= piece.len();
        self.at = self.arena.next(self.at);
        self.offset = BODY;
        Some(piece)
    }
}

/// Whether the item at `at` has this key.
pub fn has_key(arena: &Arena, at: u32, key: &[u8]) -> bool {
    if usize::from(arena.chunk(at)[KEY_LEN]) != key.len() {
        return false;
    }
    let mut rest = key;
    for piece in (Pieces { arena, at, offset: DATA, left: key.len() }) {
        let (head, tail) = rest.split_at(piece.len());
        if head != piece {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

/// Appends the key's bytes to `out`.
pub fn copy_key(arena: &Arena, at: u32, out: &mut Vec<u8>) {
    let left = usize::from(arena.chunk(at)[KEY_LEN]);
    Pieces { arena, at, offset: DATA, left }.for_each(|piece| out.extend_from_slice(piece));
}

/// Appends the value's bytes to `out`.
pub fn copy_value(arena: &Arena, at: u32, out: &mut Vec<u8>) {
    let mut skip = usize::from(arena.chunk(at)[KEY_LEN]);
    let left = skip + word(arena, at, VALUE_LEN) as usize;
    out.reserve(left - skip);
    for piece in (Pieces { arena, at, offset: DATA, left }) {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        out.extend_from_slice(&piece[skipped..]);
    }
}

/// A chain that holds `key` and the parts of a value one after the other, head unwritten; the caller has seen to it that there are chunks enough.
pub fn store(arena: &mut Arena, key: &[u8], parts: &[&[u8]]) -> Option<u32> {
    let first = arena.take()?;
    let (mut at, mut offset) = (first, DATA);
    for part in core::iter::once(&key).chain(parts) {
        let mut rest: &[u8] = part;
        while !rest.is_empty() {
            if offset == CHUNK {
                let Some(next) = arena.take() else {
                    arena.give_back(first);
                    return None;
                };
                arena.set_next(at, next);
                (at, offset) = (next, BODY);
            }
            let fits = rest.len().min(CHUNK - offset);
            arena.chunk_mut(at)[offset..offset + fits].copy_from_slice(&rest[..fits]);
            offset += fits;
            rest = &rest[fits..];
        }
    }
    Some(first)
}

/// Overwrites the value from its start with `bytes`, which is no longer than it.
pub fn overwrite_value(arena: &mut Arena, first: u32, bytes: &[u8]) {
    let (mut at, mut offset) = (first, DATA);
    let mut skip = usize::from(arena.chunk(first)[KEY_LEN]);
    let mut rest = bytes;
    while !rest.is_empty() && at != NONE {
        let room = CHUNK - offset;
        let skipped = skip.min(room);
        skip -= skipped;
        let fits = rest.len().min(room - skipped);
        arena.chunk_mut(at)[offset + skipped..offset + skipped + fits].copy_from_slice(&rest[..fits]);
        rest = &rest[fits..];
        at = arena.next(at);
        offset = BODY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the lengths, what was stored is what is read, in as many chunks as were reckoned, all of which come back.
        #[test]
        fn what_is_stored_is_read(key in proptest::collection::vec(any::<u8>(), 1..=LONGEST_KEY),
                                  value in proptest::collection::vec(any::<u8>(), 0..2000), cut in 0usize..2000, over in 0usize..30) {
            let mut arena = Arena::new(64 * 1024);
            let cut = cut.min(value.len());
            let at = store(&mut arena, &key, &[&value[..cut], &value[cut..]]).unwrap();
            let item = Item { flags: 1, expires: 2, touched: 3, cas: 4 << 40, bits: 5, key_len: key.len() as u8,
                              value_len: value.len() as u32, newer: 6, older: 7, hash: 8 };
            item.write(&mut arena, at);
            prop_assert_eq!(Item::read(&arena, at), item);
            prop_assert_eq!(arena.used() as usize, chunks_for(key.len(), value.len()));
            prop_assert!(has_key(&arena, at, &key));
            let mut other = key.clone();
            *other.last_mut().unwrap() ^= 1;
            prop_assert!(!has_key(&arena, at, &other));
            let mut read = Vec::new();
            copy_key(&arena, at, &mut read);
            prop_assert_eq!(&read, &key);
            read.clear();
            copy_value(&arena, at, &mut read);
            prop_assert_eq!(&read, &value);
            let over = over.min(value.len());
            overwrite_value(&mut arena, at, &vec![b'x'; over]);
            read.clear();
            copy_value(&arena, at, &mut read);
            prop_assert!(read[..over].iter().all(|&byte| byte == b'x') && read[over..] == value[over..]);
            arena.give_back(at);
            prop_assert_eq!(arena.used(), 0);
        }
    }
}
