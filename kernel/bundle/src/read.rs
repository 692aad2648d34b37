//! Reading a bundle: the kernel's side.

use crate::format::{
    Fields, HEADER_BYTES, Kind, MAGIC, MAX_ENTRIES, MAX_MANIFEST_BYTES, Name, PAGE, RECORD_BYTES, Record, VERSION,
    page_up,
};
use crate::manifest::{Manifest, ManifestError};
use crate::trust::{Hash, Trust};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// A bundle whose manifest is authentic. Its images are checked one by one, when they are asked for.
pub struct Bundle<'a> {
    bytes: &'a [u8],
    trust: Trust,
    /// Images only, in table order; `None` where the record is unreadable.
    records: Vec<Option<Record>>,
    manifest: Manifest,
}

/// An image that is authentic, was compiled for this kernel, and belongs to this manifest.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The ELF; starts on a page boundary if the bundle does.
    pub elf: &'a [u8],
    /// Where it came from, for `domains` and crash reports.
    pub build: Hash,
}

/// Why the whole bundle is unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Shorter than its own header says, or than a header at all.
    Truncated {
        expected: u64,
        found: u64,
    },
    /// Longer than its own header says.
    Trailing {
        expected: u64,
        found: u64,
    },
    NotABundle,
    /// Another version of the format.
    Version {
        found: u32,
    },
    /// The header's own fields don't make sense.
    BadHeader,
    /// Something that should be the manifest: unreadable, altered, signed by another key, or of another kernel.
    Manifest(ImageError),
    /// The manifest is authentic, but says something that can't be.
    Content(ManifestError),
}

/// Why one entry is unusable. The name is what its domains call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The bundle has no such entry.
    Absent { image: String },
    /// The record in the table makes no sense, or names something else.
    BadRecord { image: String },
    /// The payload lies outside the bundle, or not where it should.
    OutOfPlace { image: String },
    /// Bytes differ from those that were signed.
    Altered { image: String },
    /// The signature isn't one by the key that this kernel believes over this record.
    ForeignKey { image: String },
    /// Compiled by another compiler, with other flags, or against other interfaces.
    ForeignAbi { image: String, found: Hash, expected: Hash },
    /// Authentic, but from another bundle than the manifest.
    ForeignBundle { image: String },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { expected, found } => {
                write!(f, "the bundle is cut short: {found} of {expected} bytes")
            }
            Self::Trailing { expected, found } => {
                write!(f, "{found} bytes where the bundle should end after {expected}")
            }
            Self::NotABundle => f.write_str("this is no bundle"),
            Self::Version { found } => {
                write!(f, "bundle format {found}, this kernel reads {VERSION}")
            }
            Self::BadHeader => f.write_str("the bundle's header is damaged"),
            Self::Manifest(error) => write!(f, "{error}"),
            Self::Content(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for BundleError {}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { image } => write!(f, "{image}: not in the bundle"),
            Self::BadRecord { image } => {
                write!(f, "{image}: its record in the bundle's table is damaged")
            }
            Self::OutOfPlace { image } => {
                write!(f, "{image}: isn't where the bundle's table should have it")
            }
            Self::Altered { image } => write!(f, "{image}: altered since it was signed"),
            Self::ForeignKey { image } => {
                write!(f, "{image}: not signed by the key that this kernel believes, or its record was altered")
            }
            Self::ForeignAbi { image, found, expected } => {
                write!(f, "{image}: compiled for ABI {found:.4}, this kernel has {expected:.4}: build both together")
            }
            Self::ForeignBundle { image } => {
                write!(f, "{image}: signed, but not the one that this manifest was built with")
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// What the manifest is called in the table and in errors.
pub(crate) const MANIFEST_NAME: &str = "manifest";

impl<'a> Bundle<'a> {
    /// Reads header, table and manifest. Images may still turn out to be unusable.
    pub fn parse(bytes: &'a [u8], trust: Trust) -> Result<Bundle<'a>, BundleError> {
        let count = parse_header(bytes)?;
        let table_end = HEADER_BYTES + count * RECORD_BYTES;
        let table = bytes.get(HEADER_BYTES..table_end).ok_or(BundleError::BadHeader)?;
        let mut records = table.chunks_exact(RECORD_BYTES).map(Record::decode);

        let bad = |error: fn(String) -> ImageError| BundleError::Manifest(error(MANIFEST_NAME.to_string()));
        let record = records.next().flatten().ok_or(bad(|image| ImageError::BadRecord { image }))?;
        if record.kind != Kind::Manifest || Some(record.name) != Name::new(MANIFEST_NAME) {
            return Err(bad(|image| ImageError::BadRecord { image }));
        }
        if record.len > MAX_MANIFEST_BYTES as u64 {
            return Err(bad(|image| ImageError::OutOfPlace { image }));
        }
        let first_page = page_up(table_end).ok_or(BundleError::BadHeader)?;
        let padding = bytes.get(table_end..first_page).ok_or(BundleError::BadHeader)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(BundleError::BadHeader);
        }
        if record.offset != first_page as u64 {
            return Err(bad(|image| ImageError::OutOfPlace { image }));
        }
        let payload = authentic(bytes, &record, &trust, MANIFEST_NAME).map_err(BundleError::Manifest)?;
        let manifest = Manifest::from_bytes(payload).map_err(BundleError::Content)?;
        let records = records.collect();
        Ok(Bundle { bytes, trust, records, manifest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The image with this index in the manifest, if it is what it claims to be. Hashes the whole image: ask once.
    pub fn image(&self, index: u32) -> Result<Image<'a>, ImageError> {
        let index = index as usize;
        let wanted = self.manifest.images.get(index).ok_or_else(|| ImageError::Absent { image: index.to_string() })?;
        let image = || wanted.name.clone();
        let record = match self.records.get(index) {
            None => return Err(ImageError::Absent { image: image() }),
            Some(None) => return Err(ImageError::BadRecord { image: image() }),
            Some(Some(record)) => record,
        };
        if record.kind != Kind::Image || record.name.as_str() != wanted.name {
            return Err(ImageError::BadRecord { image: image() });
        }
        let elf = authentic(self.bytes, record, &self.trust, &wanted.name)?;
        match record.digest == wanted.digest {
            true => Ok(Image { elf, build: record.build }),
            false => Err(ImageError::ForeignBundle { image: image() }),
        }
    }
}

/// The number of entries, at least one.
fn parse_header(bytes: &[u8]) -> Result<usize, BundleError> {
    let found = bytes.len() as u64;
    let short = BundleError::Truncated { expected: HEADER_BYTES as u64, found };
    let mut fields = Fields(bytes);
    if fields.take().ok_or(short.clone())? != MAGIC {
        return Err(BundleError::NotABundle);
    }
    let version = fields.u32().ok_or(short.clone())?;
    let count = fields.u32().ok_or(short.clone())? as usize;
    let expected = fields.u64().ok_or(short.clone())?;
    let reserved = fields.u64().ok_or(short)?;
    match () {
        () if version != VERSION => Err(BundleError::Version { found: version }),
        () if reserved != 0 || count == 0 || count > MAX_ENTRIES => Err(BundleError::BadHeader),
        () if found < expected => Err(BundleError::Truncated { expected, found }),
        () if found > expected => Err(BundleError::Trailing { expected, found }),
        () => Ok(count),
    }
}

/// The payload of `record`, if it starts on a page boundary, is followed by nothing but zeros up to the next, its bytes are those that
/// were signed, by the key and for the ABI that we believe.
fn authentic<'a>(bytes: &'a [u8], record: &Record, trust: &Trust, name: &str) -> Result<&'a [u8], ImageError> {
    let image = || name.to_string();
    let out_of_place = || ImageError::OutOfPlace { image: image() };
    let range = record.range().ok_or_else(out_of_place)?;
    let padding = range.end..page_up(range.end).ok_or_else(out_of_place)?;
    if !range.start.is_multiple_of(PAGE) {
        return Err(out_of_place());
    }
    let payload = bytes.get(range).ok_or_else(out_of_place)?;
    let padding = bytes.get(padding).ok_or_else(out_of_place)?;
    if padding.iter().any(|&byte| byte != 0) || Hash::of(payload) != record.digest {
        return Err(ImageError::Altered { image: image() });
    }
    if !trust.vouches_for(record) {
        return Err(ImageError::ForeignKey { image: image() });
    }
    if record.abi != trust.abi {
        return Err(ImageError::ForeignAbi { image: image(), found: record.abi, expected: trust.abi });
    }
    Ok(payload)
}
