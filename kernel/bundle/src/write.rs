//! Writing a bundle: the builder's side.

use crate::format::{
    HEADER_BYTES, Kind, MAGIC, MAX_ENTRIES, MAX_MANIFEST_BYTES, Name, RECORD_BYTES, Record, VERSION, page_up,
};
use crate::manifest::{ImageRef, Manifest, ManifestError};
use crate::read::MANIFEST_NAME;
use crate::trust::{Hash, PublicKey, statement};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use ed25519_compact::{KeyPair, Seed};

/// The key that signs, from 32 secret bytes.
pub struct SigningKey(KeyPair);

impl SigningKey {
    pub fn from_seed(seed: [u8; 32]) -> SigningKey {
        SigningKey(KeyPair::from_seed(Seed::new(seed)))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.pk)
    }
}

/// An image to go in.
pub struct ImageSource<'a> {
    pub name: &'a str,
    pub elf: &'a [u8],
    pub abi: Hash,
    pub build: Hash,
}

impl ImageSource<'_> {
    /// What the manifest's list of images says about this one.
    pub fn reference(&self) -> ImageRef {
        ImageRef { name: self.name.to_string(), digest: Hash::of(self.elf) }
    }
}

/// Why no bundle was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// A name that isn't a crate's.
    BadName {
        image: String,
    },
    TooManyImages {
        count: usize,
    },
    /// The compiled manifest, config tables included, is too large.
    ManifestTooLarge {
        bytes: usize,
    },
    /// The manifest's list of images isn't that of the images given.
    ImagesDiffer,
    Manifest(ManifestError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { image } => write!(f, "{image:?} is no name for an image"),
            Self::TooManyImages { count } => {
                write!(f, "{count} images; a bundle takes {}", MAX_ENTRIES - 1)
            }
            Self::ManifestTooLarge { bytes } => {
                write!(f, "the compiled manifest has {bytes} bytes; {MAX_MANIFEST_BYTES} are allowed")
            }
            Self::ImagesDiffer => f.write_str("the manifest's list of images isn't that of the bundle"),
            Self::Manifest(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for WriteError {}

/// Makes the bundle: the same input gives the same bytes.
pub fn bundle(
    manifest: &Manifest,
    images: &[ImageSource<'_>],
    key: &SigningKey,
    abi: Hash,
    build: Hash,
) -> Result<Vec<u8>, WriteError> {
    manifest.check().map_err(WriteError::Manifest)?;
    let listed = images.iter().map(ImageSource::reference);
    if !manifest.images.iter().cloned().eq(listed) {
        return Err(WriteError::ImagesDiffer);
    }
    let encoded = postcard::to_allocvec(manifest).map_err(|_| WriteError::Manifest(ManifestError::Malformed))?;
    if encoded.len() > MAX_MANIFEST_BYTES {
        return Err(WriteError::ManifestTooLarge { bytes: encoded.len() });
    }
    let count = images.len() + 1;
    if count > MAX_ENTRIES {
        return Err(WriteError::TooManyImages { count: images.len() });
    }

    let own = ImageSource { name: MANIFEST_NAME, elf: &encoded, abi, build };
    let entries = || core::iter::once((Kind::Manifest, &own)).chain(images.iter().map(|image| (Kind::Image, image)));
    let mut records = Vec::new();
    let mut offset = pages(HEADER_BYTES + count * RECORD_BYTES);
    for (kind, source) in entries() {
        let name = Name::new(source.name).ok_or_else(|| WriteError::BadName { image: source.name.to_string() })?;
        records.push(record(kind, name, source, offset, key));
        offset += pages(source.elf.len());
    }

    let mut out = Vec::with_capacity(offset);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(count as u32).to_le_bytes());
    out.extend_from_slice(&(offset as u64).to_le_bytes());
    out.extend_from_slice(&0u64.to_le_bytes());
    records.iter().for_each(|record| record.encode(&mut out));
    for (_, source) in entries() {
        out.resize(pages(out.len()), 0);
        out.extend_from_slice(source.elf);
    }
    out.resize(offset, 0);
    Ok(out)
}

fn record(kind: Kind, name: Name, source: &ImageSource<'_>, offset: usize, key: &SigningKey) -> Record {
    let len = source.elf.len() as u64;
    let digest = Hash::of(source.elf);
    let statement = statement(kind, &name, len, &source.abi, &source.build, &digest);
    // Deterministic (RFC 8032 §5.1.6): no noise, so that the same input gives the same image.
    let signature = *key.0.sk.sign(statement, None);
    Record { name, kind, offset: offset as u64, len, digest, abi: source.abi, build: source.build, signature }
}

/// `bytes` rounded up to whole pages. What is written here fits into memory, so it can't overflow.
fn pages(bytes: usize) -> usize {
    page_up(bytes).unwrap_or(usize::MAX)
}
