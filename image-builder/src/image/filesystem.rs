//! The EFI system partition: a FAT32 file system with a few files, the same bytes for the same files. Names are of the short kind: eight
//! characters, three behind a dot.

use super::{ImageError, SECTOR};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, FsStatusFlags};
use std::io::{Cursor, Read, Write};

/// Offset of "sectors before this volume" in the boot sector (Microsoft FAT specification §3.1, BPB_HiddSec), and of the boot sector's copy.
const HIDDEN_SECTORS: usize = 0x1c;
const BACKUP_BOOT_SECTOR: usize = 6 * SECTOR;

/// A volume of `bytes`, `hidden` sectors into the disk.
pub fn make(bytes: usize, hidden: u32, volume_id: u32, files: &[(&str, &[u8])]) -> Result<Vec<u8>, ImageError> {
    let needed: usize = files.iter().map(|(_, content)| content.len()).sum();
    // Tables and folders take less than a tenth.
    let room = bytes / 10 * 9;
    if needed > room {
        return Err(ImageError::TooLarge { what: "what goes into the image", bytes: needed, room });
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
        // Counts the free clusters, which are then written down.
        filesystem.stats()?;
        filesystem.unmount()?;
    }
    let mut volume = volume.into_inner();
    mend_parents(&mut volume);
    Ok(volume)
}

/// In folders of the root, `..` names cluster 0 (Microsoft FAT specification §6.5); the crate writes the root's own cluster there.
fn mend_parents(volume: &mut [u8]) {
    let number = |volume: &[u8], at: usize, bytes: usize| {
        volume[at..at + bytes].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    // §3.1 and §3.3: BPB_SecPerClus, BPB_RsvdSecCnt, BPB_NumFATs, BPB_FATSz32, BPB_RootClus.
    let cluster_bytes = number(volume, 0x0d, 1) * SECTOR;
    let data = (number(volume, 0x0e, 2) + number(volume, 0x10, 1) * number(volume, 0x24, 4)) * SECTOR;
    let place = |cluster: usize| data + (cluster - 2) * cluster_bytes;
    let root = place(number(volume, 0x2c, 4));
    const ENTRY: usize = 32;
    const FOLDER: u8 = 0x10;
    // The few folders of ours are in the root's first cluster.
    for entry in (root..root + cluster_bytes).step_by(ENTRY) {
        if volume[entry + 0x0b] == FOLDER {
            let first = number(volume, entry + 0x14, 2) << 16 | number(volume, entry + 0x1a, 2);
            let parent = place(first) + ENTRY;
            volume[parent + 0x14..parent + 0x16].fill(0);
            volume[parent + 0x1a..parent + 0x1c].fill(0);
        }
    }
}

/// A file of a volume.
pub fn read(volume: &[u8], path: &str) -> std::io::Result<Vec<u8>> {
    let mut volume = Cursor::new(volume.to_vec());
    let filesystem = FileSystem::new(&mut volume, FsOptions::new())?;
    let mut content = Vec::new();
    filesystem.root_dir().open_file(path)?.read_to_end(&mut content)?;
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
        let volume = make(super::super::ESP_SECTORS * SECTOR, 4096, 1, &files).unwrap();
        assert_eq!(read(&volume, "a/b/large").unwrap(), large);
        assert_eq!(read(&volume, "a/small.txt").unwrap(), b"x");
        assert!(read(&volume, "a/other").is_err());
        assert!(volume == make(super::super::ESP_SECTORS * SECTOR, 4096, 1, &files).unwrap());
    }

    /// Too much is an error before anything is written.
    #[test]
    fn too_large() {
        let large = vec![0; super::super::ESP_SECTORS * SECTOR];
        assert!(matches!(make(large.len(), 0, 1, &[("x", &large)]), Err(ImageError::TooLarge { .. })));
    }
}
