//! The EFI system partition: a FAT32 file system with a few files, the same bytes for the same files.

use super::ImageError;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, FsStatusFlags};
use std::io::{Cursor, Read, Write};

/// Offset of "sectors before this volume" in the boot sector (Microsoft FAT specification §3.1, BPB_HiddSec), and of the boot sector's copy.
const HIDDEN_SECTORS: usize = 0x1c;
const BACKUP_BOOT_SECTOR: usize = 6 * super::SECTOR;

/// A volume of `bytes`, `hidden` sectors into the disk.
pub fn make(
    bytes: usize,
    hidden: u32,
    volume_id: u32,
    files: &[(&str, &[u8])],
) -> Result<Vec<u8>, ImageError> {
    let needed: usize = files.iter().map(|(_, content)| content.len()).sum();
    // Tables and folders take less than a tenth.
    let room = bytes / 10 * 9;
    if needed > room {
        return Err(ImageError::TooLarge {
            what: "what goes into the image",
            bytes: needed,
            room,
        });
    }
    let mut volume = Cursor::new(vec![0; bytes]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(1024)
        .volume_id(volume_id)
        .volume_label(*b"REDLEAF    ");
    fatfs::format_volume(&mut volume, options)?;
    for at in [HIDDEN_SECTORS, BACKUP_BOOT_SECTOR + HIDDEN_SECTORS] {
        volume.get_mut()[at..at + 4].copy_from_slice(&hidden.to_le_bytes());
    }
    {
        // Without a clock every file is of 1980: the same bytes each time.
        let filesystem = FileSystem::new(&mut volume, FsOptions::new())?;
        for (path, content) in files {
            let mut folder = filesystem.root_dir();
            let mut steps = path.split('/').peekable();
            while let Some(step) = steps.next() {
                if steps.peek().is_some() {
                    folder = folder.create_dir(step)?;
                } else {
                    let mut file = folder.create_file(step)?;
                    file.truncate()?;
                    file.write_all(content)?;
                    file.flush()?;
                }
            }
        }
        filesystem.unmount()?;
    }
    Ok(volume.into_inner())
}

/// A file of a volume.
pub fn read(volume: &[u8], path: &str) -> std::io::Result<Vec<u8>> {
    let mut volume = Cursor::new(volume.to_vec());
    let filesystem = FileSystem::new(&mut volume, FsOptions::new())?;
    let mut content = Vec::new();
    filesystem
        .root_dir()
        .open_file(path)?
        .read_to_end(&mut content)?;
    let _: FsStatusFlags = filesystem.read_status_flags()?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is put in is what is read, and twice the same is the same.
    #[test]
    fn round_trip() {
        let large = vec![7; 3 << 20];
        let files: [(&str, &[u8]); 2] = [("a/b/large", &large), ("a/small.txt", b"x")];
        let volume = make(super::super::ESP_SECTORS * 512, 4096, 1, &files).unwrap();
        assert_eq!(read(&volume, "a/b/large").unwrap(), large);
        assert_eq!(read(&volume, "a/small.txt").unwrap(), b"x");
        assert!(read(&volume, "a/other").is_err());
        assert!(volume == make(super::super::ESP_SECTORS * 512, 4096, 1, &files).unwrap());
    }

    /// Too much is an error before anything is written.
    #[test]
    fn too_large() {
        let large = vec![0; super::super::ESP_SECTORS * 512];
        assert!(matches!(
            make(large.len(), 0, 1, &[("x", &large)]),
            Err(ImageError::TooLarge { .. })
        ));
    }
}
