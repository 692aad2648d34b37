//! Whom the kernel believes: one key, one ABI. And the statement that a signature signs.

use crate::format::{Kind, Name, Record};
use core::fmt;
use sha2::{Digest, Sha256};

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }

    /// From 64 hexadecimal digits; usable in a `const`, since the kernel's key and ABI hash arrive as build-time variables.
    pub const fn from_hex(text: &str) -> Option<Hash> {
        match bytes_from_hex(text) {
            Some(bytes) => Some(Hash(bytes)),
            None => None,
        }
    }
}

/// All digits, or as many pairs as the precision asks for: `{:.4}` is eight digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = f.precision().unwrap_or(self.0.len());
        self.0.iter().take(shown).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key that images and manifest must be signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// From 64 hexadecimal digits.
    pub const fn from_hex(text: &str) -> Option<PublicKey> {
        match bytes_from_hex(text) {
            Some(bytes) => Some(PublicKey(bytes)),
            None => None,
        }
    }
}

const fn bytes_from_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    let mut i = 0;
    while i < 64 {
        let digit = match text[i] {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            digit @ b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        bytes[i / 2] = bytes[i / 2] << 4 | digit;
        i += 1;
    }
    Some(bytes)
}

/// What the kernel was compiled to believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trust {
    pub key: PublicKey,
    /// Compiler, flags, `interfaces`, `runtime` and their dependencies: what two images must share to call each other.
    pub abi: Hash,
}

impl Trust {
    /// From the kernel's build-time variables: `Trust::from_hex(env!("REDLEAF_KEY"), env!("REDLEAF_ABI"))`.
    pub const fn from_hex(key: &str, abi: &str) -> Option<Trust> {
        match (PublicKey::from_hex(key), Hash::from_hex(abi)) {
            (Some(key), Some(abi)) => Some(Trust { key, abi }),
            _ => None,
        }
    }

    /// Whether `record` bears our key's signature. Says nothing about the payload: the caller compares its digest.
    pub(crate) fn vouches_for(&self, record: &Record) -> bool {
        let Ok(key) = ed25519_compact::PublicKey::from_slice(&self.key.0) else {
            return false;
        };
        let Ok(signature) = ed25519_compact::Signature::from_slice(&record.signature) else {
            return false;
        };
        let statement = statement(record.kind, &record.name, record.len, &record.abi, &record.build, &record.digest);
        key.verify(statement, &signature).is_ok()
    }
}

/// The bytes that are signed: fixed fields behind a context, so that no signature can be read as one about something else.
pub(crate) fn statement(kind: Kind, name: &Name, len: u64, abi: &Hash, build: &Hash, digest: &Hash) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"RedLeaf bundle entry, version 1\0");
    hash.update((kind as u32).to_le_bytes());
    hash.update(name.as_bytes());
    hash.update(len.to_le_bytes());
    for part in [abi, build, digest] {
        hash.update(part.0);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// Protects the way by which the key reaches the kernel: through hexadecimal text and back, nothing else accepted.
    #[test]
    fn hex_round_trip() {
        let hash = Hash::of(b"anything");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_hex(&hash.to_string().to_uppercase()), Some(hash));
        assert_eq!(Hash::from_hex(""), None);
        assert_eq!(Hash::from_hex(&"g".repeat(64)), None);
        assert_eq!(Hash::from_hex(&"0".repeat(63)), None);
    }
}
