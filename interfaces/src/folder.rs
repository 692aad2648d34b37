//! A folder of files that goes with a domain into the bundle: the manifest names it in the domain's `config` table ([`Folder`]), the builder packs it, and the
//! domain reads it in place ([`Files`]): each file with its type, its date, and its representations (as it is, and compressed), each of which has a tag.
//!
//! The archive: `RLFILES1`, the number of files (u32), then for each file, in the order of their paths: path (u16 length, bytes), media type (u8, bytes), date
//! (i64, seconds since 1970), number of representations (u8), each of coding (u8), tag (u64), start and length (u32 each); then the representations' bytes,
//! from which starts count. Numbers are little-endian.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub const MAGIC: &[u8; 8] = b"RLFILES1";

/// A folder in a `config` table: in the manifest a path, from the file that says it; in the bundle an archive of what lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    path: String,
    archive: Vec<u8>,
}

impl Folder {
    /// A folder that has been packed.
    pub fn packed(archive: Vec<u8>) -> Folder {
        Folder { path: String::new(), archive }
    }

    /// Where the manifest says that it is; empty in the bundle.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// For [`Files::read`].
    pub fn archive(&self) -> &[u8] {
        &self.archive
    }
}

impl Serialize for Folder {
    /// As a path for people, as an archive in compiled manifests.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.path)
        } else {
            serializer.serialize_bytes(&self.archive)
        }
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Path;
        impl de::Visitor<'_> for Path {
            type Value = Folder;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder's path, from the file that says it")
            }
            fn visit_str<E: de::Error>(self, path: &str) -> Result<Folder, E> {
                Ok(Folder { path: path.into(), archive: Vec::new() })
            }
        }
        struct Archive;
        impl de::Visitor<'_> for Archive {
            type Value = Folder;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an archive of files")
            }
            fn visit_bytes<E: de::Error>(self, archive: &[u8]) -> Result<Folder, E> {
                Ok(Folder::packed(archive.into()))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Path)
        } else {
            deserializer.deserialize_bytes(Archive)
        }
    }
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    Identity = 0,
    Gzip = 1,
    Brotli = 2,
}

impl Coding {
    pub const ALL: [Coding; 3] = [Coding::Identity, Coding::Gzip, Coding::Brotli];

    /// As fields name it.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
        }
    }
}

/// One form of a file: its strong validator and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Representation<'a> {
    pub coding: Coding,
    pub tag: u64,
    pub bytes: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Without a leading slash.
    pub path: &'a [u8],
    pub media_type: &'a str,
    /// Seconds since 1970.
    pub modified: i64,
    /// The first is the file as it is.
    pub representations: Box<[Representation<'a>]>,
}

/// The archive isn't one; says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub at: usize,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the archive of files is damaged at byte {}", self.at)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Files<'a> {
    files: Vec<File<'a>>,
}

/// Bytes taken from the front of an archive.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len)).ok_or(Damaged { at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn number(&mut self, len: usize) -> Result<u64, Damaged> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

impl<'a> Files<'a> {
    /// Reads an archive. Whatever the bytes, this ends in an answer.
    pub fn read(archive: &'a [u8]) -> Result<Files<'a>, Damaged> {
        let mut reader = Reader { bytes: archive, at: 0 };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(Damaged { at: 0 });
        }
        let count = reader.number(4)?;
        let mut files = Vec::new();
        let mut places = Vec::new();
        for _ in 0..count {
            let start = reader.at;
            let len = reader.number(2)? as usize;
            let path = reader.take(len)?;
            let len = reader.number(1)? as usize;
            let media_type = core::str::from_utf8(reader.take(len)?).map_err(|_| Damaged { at: start })?;
            let modified = reader.number(8)? as i64;
            let mut own = Vec::new();
            for _ in 0..reader.number(1)? {
                let coding = reader.number(1)?;
                let coding = Coding::ALL.into_iter().find(|known| *known as u64 == coding);
                let tag = reader.number(8)?;
                let place = (reader.number(4)? as usize, reader.number(4)? as usize);
                own.push((coding.ok_or(Damaged { at: start })?, tag, place));
            }
            let ordered = files.last().is_none_or(|file: &File| file.path < path);
            if !ordered || own.first().is_none_or(|(coding, ..)| *coding != Coding::Identity) {
                return Err(Damaged { at: start });
            }
            places.push(own);
            files.push(File { path, media_type, modified, representations: Box::default() });
        }
        let base = reader.at;
        for (file, own) in files.iter_mut().zip(places) {
            let bytes = |(start, len): (usize, usize)| {
                let whole = archive.get(base..).and_then(|data| data.get(start..)).and_then(|data| data.get(..len));
                whole.ok_or(Damaged { at: archive.len() })
            };
            let read = |(coding, tag, place)| Ok(Representation { coding, tag, bytes: bytes(place)? });
            file.representations = own.into_iter().map(read).collect::<Result<_, _>>()?;
        }
        Ok(Files { files })
    }

    pub fn find(&self, path: &[u8]) -> Option<&File<'a>> {
        let at = self.files.binary_search_by(|file| file.path.cmp(path)).ok()?;
        self.files.get(at)
    }

    /// Whether anything lies in a folder, whose path ends in a slash.
    pub fn has_folder(&self, path: &[u8]) -> bool {
        let at = self.files.partition_point(|file| file.path < path);
        self.files.get(at).is_some_and(|file| file.path.starts_with(path))
    }

    pub fn files(&self) -> &[File<'a>] {
        &self.files
    }
}

/// Writes an archive of files that are in the order of their paths.
pub fn write(files: &[File]) -> Vec<u8> {
    let mut archive = MAGIC.to_vec();
    let mut data = Vec::new();
    archive.extend_from_slice(&(files.len() as u32).to_le_bytes());
    for file in files {
        archive.extend_from_slice(&(file.path.len() as u16).to_le_bytes());
        archive.extend_from_slice(file.path);
        archive.push(file.media_type.len() as u8);
        archive.extend_from_slice(file.media_type.as_bytes());
        archive.extend_from_slice(&file.modified.to_le_bytes());
        archive.push(file.representations.len() as u8);
        for representation in &file.representations {
            archive.push(representation.coding as u8);
            archive.extend_from_slice(&representation.tag.to_le_bytes());
            archive.extend_from_slice(&(data.len() as u32).to_le_bytes());
            archive.extend_from_slice(&(representation.bytes.len() as u32).to_le_bytes());
            data.extend_from_slice(representation.bytes);
        }
    }
    archive.extend_from_slice(&data);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn files() -> Vec<File<'static>> {
        let file = |path: &'static str, bytes: &'static [u8]| {
            let identity = Representation { coding: Coding::Identity, tag: 7, bytes };
            let gzip = Representation { coding: Coding::Gzip, tag: 8, bytes: &bytes[..bytes.len() / 2] };
            File {
                path: path.as_bytes(),
                media_type: "text/html",
                modified: 784_111_777,
                representations: Box::new([identity, gzip]),
            }
        };
        vec![file("a/index.html", b"hello"), file("b", b"")]
    }

    #[test]
    fn what_is_written_is_read() {
        let archive = write(&files());
        let read = Files::read(&archive).unwrap();
        assert_eq!(read.files(), files());
        assert_eq!(read.find(b"b").unwrap().modified, 784_111_777);
        assert!(read.find(b"a").is_none() && read.has_folder(b"a/") && !read.has_folder(b"b/"));
    }

    proptest! {
        /// The kernel has checked the archive's signature; should it be damaged all the same, the domain says so, and doesn't panic.
        #[test]
        fn damage_is_found_or_harmless(at in 0usize..150, byte: u8, cut in 0usize..150) {
            let mut archive = write(&files());
            let at = at % archive.len();
            archive[at] = byte;
            let _ = Files::read(&archive);
            let _ = Files::read(&archive[..cut % archive.len()]);
        }
    }
}
