//! The bytes of a bundle. All numbers are little-endian.
//!
//! ```text
//! 0      header   magic "RLBUNDLE", version u32, entry count u32, total length u64, reserved u64 (zero)
//! 32     table    one record of 256 bytes per entry; the manifest is entry 0, images follow
//! ...    zeros up to the next page
//! page   payload of entry 0, zeros up to the next page, payload of entry 1, ..., zeros up to the next page
//! ```
//!
//! Payloads start on page boundaries, so that the loader can map an image where it lies. The zeros after a payload are checked as
//! part of it, so that no byte of what the builder writes goes unchecked.

use crate::trust::Hash;
use core::fmt;

pub const MAGIC: [u8; 8] = *b"RLBUNDLE";
pub const VERSION: u32 = 1;
pub const PAGE: usize = 4096;
pub const HEADER_BYTES: usize = 32;
pub const RECORD_BYTES: usize = 256;
/// The longest name of an entry. Names are crate names.
pub const NAME_BYTES: usize = 64;
/// More images than a box could start; keeps the table small whatever the header claims.
pub const MAX_ENTRIES: usize = 256;
/// The largest compiled manifest, config tables included.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Manifest = 1,
    Image = 2,
}

impl Kind {
    pub(crate) fn from_u32(value: u32) -> Option<Kind> {
        match value {
            1 => Some(Kind::Manifest),
            2 => Some(Kind::Image),
            _ => None,
        }
    }
}

/// A name as it stands in the table: UTF-8, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// `None` if `name` is empty, too long, or has characters that don't belong into a crate's name.
    pub fn new(name: &str) -> Option<Name> {
        let fits = !name.is_empty() && name.len() <= NAME_BYTES;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (fits && plain).then(|| {
            let mut bytes = [0; NAME_BYTES];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Name(bytes)
        })
    }

    pub(crate) fn from_bytes(bytes: [u8; NAME_BYTES]) -> Option<Name> {
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
        let text = core::str::from_utf8(bytes.get(..len)?).ok()?;
        // Rebuilding it also refuses bytes after the first zero.
        Name::new(text).filter(|name| name.0 == bytes)
    }

    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
        core::str::from_utf8(&self.0[..len]).unwrap_or("")
    }

    pub(crate) fn as_bytes(&self) -> &[u8; NAME_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One record of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub name: Name,
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
    pub digest: Hash,
    pub abi: Hash,
    pub build: Hash,
    pub signature: [u8; 64],
}

/// Reads fields off the front of a slice.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

impl Record {
    /// `None` if a field has no meaning.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
        let mut fields = Fields(bytes);
        let name = Name::from_bytes(fields.take()?)?;
        let kind = Kind::from_u32(fields.u32()?)?;
        let reserved = fields.u32()?;
        let offset = fields.u64()?;
        let len = fields.u64()?;
        let digest = Hash(fields.take()?);
        let abi = Hash(fields.take()?);
        let build = Hash(fields.take()?);
        let signature = fields.take()?;
        let padding: [u8; 8] = fields.take()?;
        (reserved == 0 && padding == [0; 8]).then_some(Record {
            name,
            kind,
            offset,
            len,
            digest,
            abi,
            build,
            signature,
        })
    }

    #[cfg(feature = "write")]
    pub(crate) fn encode(&self, out: &mut alloc::vec::Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&(self.kind as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        for hash in [&self.digest, &self.abi, &self.build] {
            out.extend_from_slice(&hash.0);
        }
        out.extend_from_slice(&self.signature);
        out.resize(start + RECORD_BYTES, 0);
    }

    /// Where the payload lies, if the numbers make a range at all.
    pub(crate) fn range(&self) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        let len = usize::try_from(self.len).ok()?;
        Some(start..start.checked_add(len)?)
    }
}

pub(crate) fn page_up(offset: usize) -> Option<usize> {
    offset.checked_next_multiple_of(PAGE)
}
