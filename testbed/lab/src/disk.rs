//! The box's NVMe drives: files behind QEMU's own device.
//!
//! A drive's file is sparse, and lives among the run's files, with which it goes, or in a folder that the operator named, where the next run finds it as this one left it. What the
//! box has written is in the file as soon as QEMU has heard of it, so that killing QEMU is what pulling the plug is: commands in flight are done or not, block by block.

use crate::error::Error;
use crate::options::Disk;
use crate::stage::RUN_DIR;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// The drive's file, in `keep` or among the run's; made unless it is there.
pub fn prepare(disk: &Disk, keep: Option<&Path>) -> Result<PathBuf, Error> {
    let folder = keep.unwrap_or(Path::new(RUN_DIR));
    let path = folder.join(format!("{}.disk", disk.domain));
    let failed = |path: &Path| Error::io(format!("drive {}", path.display()));
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(failed(&path))?;
    match file.metadata().map_err(failed(&path))?.len() {
        0 => file.set_len(disk.size).map_err(failed(&path))?,
        size if size == disk.size => {}
        size => {
            return Err(Error::Options(format!(
                "{} has {size} bytes, and `[disks.{}]` in the lab's file says {}: name another folder, remove the file, or change the size",
                path.display(),
                disk.domain,
                disk.size
            )));
        }
    }
    Ok(path)
}

/// What QEMU is told: a controller, and the file as its first namespace.
pub fn arguments(disk: &Disk, file: &Path) -> Vec<String> {
    let Disk { domain, serial, block_size, .. } = disk;
    // A comma in a path is doubled (QEMU's manual, "-drive").
    let file = file.display().to_string().replace(',', ",,");
    vec![
        "-drive".into(),
        format!("file={file},format=raw,if=none,id=drive-{domain}"),
        "-device".into(),
        format!("nvme,id={domain},serial={serial}"),
        "-device".into(),
        format!(
            "nvme-ns,bus={domain},drive=drive-{domain},logical_block_size={block_size},physical_block_size={block_size}"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk { domain: "nvme0".into(), serial: "RL0001".into(), size: 1 << 20, block_size: 512 }
    }

    /// A kept drive is found as it was; one of another size is refused, and not touched.
    #[test]
    fn a_kept_drive_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("new");
        let path = prepare(&disk(), Some(&kept)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
        let mut written = fs::read(&path).unwrap();
        written[77] = 7;
        fs::write(&path, &written).unwrap();
        assert_eq!(prepare(&disk(), Some(&kept)).unwrap(), path);
        assert!(fs::read(&path).unwrap() == written);
        let error = prepare(&Disk { size: 2 << 20, ..disk() }, Some(&kept)).unwrap_err().to_string();
        assert!(error.contains("1048576 bytes") && error.contains("[disks.nvme0]"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
    }

    /// What stands in a path doesn't end QEMU's option.
    #[test]
    fn a_comma_is_part_of_the_path() {
        assert!(arguments(&disk(), Path::new("/a,b/c"))[1].starts_with("file=/a,,b/c,format=raw"));
    }
}
