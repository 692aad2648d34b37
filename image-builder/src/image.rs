//! Disk images: one GPT disk that boots by BIOS and by UEFI, made without root, the same bytes for the same input.
//!
//! ```text
//! sector 0      protective MBR, with GRUB's boot.img as its boot code
//! 1 to 33       GPT
//! 2048 to 4095  BIOS boot partition (ef02): GRUB's core.img
//! 4096 to ...   EFI system partition, FAT32: /EFI/BOOT/BOOTX64.EFI, and /redleaf with kernel, bundle, the manifest they were made from
//! last 33       GPT again
//! ```

mod filesystem;
mod grub;

use crate::build::{Artifacts, BuildError};
use bundle::Hash;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::{GptConfig, partition_types};
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const SECTOR: usize = 512;
/// Where core.img lies, on a boundary of 1 MiB as partitions are expected to.
const CORE_START: usize = 2048;
const ESP_START: usize = 4096;
/// FAT32 needs 65,525 clusters at least; this leaves room for a kernel and bundle of some tens of MiB.
const ESP_SECTORS: usize = 160 << 11;
/// The backup GPT: header and 128 entries.
const BACKUP_SECTORS: usize = 33;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Prefix(#[from] prefix::Error),
    #[error("grub-mkimage for {format} failed: {reason}")]
    Grub { format: &'static str, reason: String },
    #[error("{what} has {bytes} bytes; there is room for {room}")]
    TooLarge { what: &'static str, bytes: usize, room: usize },
    #[error("partition table: {0}")]
    Gpt(String),
    #[error("file system: {0}")]
    Filesystem(#[from] std::io::Error),
    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is no image of this system: {reason}")]
    NotOurs { path: PathBuf, reason: String },
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// What an image says about itself.
pub struct Label {
    /// The manifest's name.
    pub name: String,
    /// The manifest, `inherit` resolved.
    pub manifest: toml::Table,
}

/// Packs `artifacts` into a disk image at `path`.
pub fn pack(artifacts: &Artifacts, label: &Label, path: &Path) -> Result<(), ImageError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| ImageError::File { action: "reading", path: path.to_owned(), source })
    };
    let kernel = read(&artifacts.kernel_elf)?;
    let bundle = read(&artifacts.bundle)?;
    let manifest = label.manifest.to_string();
    // What the identities on the disk are made of: another content, another disk.
    let identity = Hash::of(&[Hash::of(&kernel).0, Hash::of(&bundle).0, Hash::of(manifest.as_bytes()).0].concat());
    let volume = u32::from_le_bytes([identity.0[0], identity.0[1], identity.0[2], identity.0[3]]);

    let grub = grub::Grub::make(volume)?;
    let files: [(&str, &[u8]); 6] = [
        ("EFI/BOOT/BOOTX64.EFI", &grub.efi),
        ("redleaf/grub.cfg", grub::CONFIG.as_bytes()),
        ("redleaf/kernel", &kernel),
        ("redleaf/bundle", &bundle),
        ("redleaf/manifest", manifest.as_bytes()),
        ("redleaf/name", label.name.as_bytes()),
    ];
    let esp = filesystem::make(ESP_SECTORS * SECTOR, ESP_START as u32, volume, &files)?;

    let mut disk = vec![0; (ESP_START + ESP_SECTORS + BACKUP_SECTORS) * SECTOR];
    disk[ESP_START * SECTOR..][..esp.len()].copy_from_slice(&esp);
    let room = (ESP_START - CORE_START) * SECTOR;
    if grub.core.len() > room {
        return Err(ImageError::TooLarge { what: "GRUB's core.img", bytes: grub.core.len(), room });
    }
    disk[CORE_START * SECTOR..][..grub.core.len()].copy_from_slice(&grub.core);
    let mut disk = partition(disk, &identity)?;
    disk[..grub.boot_code.len()].copy_from_slice(&grub.boot_code);
    Ok(crate::build::write_whole(path, &disk)?)
}

/// Writes protective MBR and both GPTs.
fn partition(disk: Vec<u8>, identity: &Hash) -> Result<Vec<u8>, ImageError> {
    let failed = |error: &dyn std::fmt::Display| ImageError::Gpt(error.to_string());
    let uuid = |which: u8| {
        let digest = Hash::of(&[&identity.0[..], &[which]].concat());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.0[..16]);
        // Version 8: made by an application in its own way (RFC 9562 §5.8).
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    };
    let sectors = disk.len() / SECTOR;
    let mut device = Cursor::new(disk);
    let mbr = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    mbr.overwrite_lba0(&mut device).map_err(|error| failed(&error))?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut gpt = config.create_from_device(device, Some(uuid(0))).map_err(|error| failed(&error))?;
    let part = |type_guid, guid: Uuid, first: usize, count: usize, name: &str| Partition {
        part_type_guid: type_guid,
        part_guid: guid,
        first_lba: first as u64,
        last_lba: (first + count - 1) as u64,
        flags: 0,
        name: name.to_owned(),
    };
    let partitions = BTreeMap::from([
        (1, part(partition_types::BIOS, uuid(1), CORE_START, ESP_START - CORE_START, "BIOS boot")),
        (2, part(partition_types::EFI, uuid(2), ESP_START, ESP_SECTORS, "RedLeaf")),
    ]);
    gpt.update_partitions(partitions).map_err(|error| failed(&error))?;
    let device = gpt.write().map_err(|error| failed(&error))?;
    Ok(device.into_inner())
}

/// The EFI system partition of a disk.
pub fn system_partition(disk: &[u8]) -> Option<&[u8]> {
    disk.get(ESP_START * SECTOR..(ESP_START + ESP_SECTORS) * SECTOR)
}

/// What the image at `path` says about itself; refuses what isn't an image of ours.
pub fn label(path: &Path) -> Result<Label, ImageError> {
    let not_ours = |reason: &str| ImageError::NotOurs { path: path.to_owned(), reason: reason.to_owned() };
    let disk =
        fs::read(path).map_err(|source| ImageError::File { action: "reading", path: path.to_owned(), source })?;
    let esp = system_partition(&disk).ok_or(not_ours("it is too short"))?;
    let text = |name: &str| {
        let bytes = filesystem::read(esp, name).map_err(|error| not_ours(&format!("{name}: {error}")))?;
        String::from_utf8(bytes).map_err(|_| not_ours(&format!("{name} isn't text")))
    };
    let manifest = text("redleaf/manifest")?.parse().map_err(|error: toml::de::Error| not_ours(&error.to_string()))?;
    Ok(Label { name: text("redleaf/name")?, manifest })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table by our own reading: two partitions where they should be, the backup at the very end, the same bytes each time.
    #[test]
    fn partition_table() {
        let identity = Hash::of(b"x");
        let make = || partition(vec![0; (ESP_START + ESP_SECTORS + BACKUP_SECTORS) * SECTOR], &identity).unwrap();
        let disk = make();
        assert!(disk == make(), "not the same bytes each time");
        let gpt = GptConfig::new().open_from_device(Cursor::new(disk)).unwrap();
        let starts: Vec<u64> = gpt.partitions().values().map(|partition| partition.first_lba).collect();
        assert_eq!(starts, [CORE_START as u64, ESP_START as u64]);
        let backup = gpt.primary_header().unwrap().backup_lba;
        assert_eq!(backup, (ESP_START + ESP_SECTORS + BACKUP_SECTORS - 1) as u64);
    }

    /// A file that isn't an image is refused with a reason, whatever is in it.
    #[test]
    fn others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.img");
        for content in [vec![], vec![0; 1000], vec![0xff; (ESP_START + ESP_SECTORS) * SECTOR]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(label(&path), Err(ImageError::NotOurs { .. })));
        }
    }
}
