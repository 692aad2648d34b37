//! Writing an image to a disk: asks first, refuses what is in use or no disk, and believes only what it reads back.

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// Nothing was written.
    #[error("{target} is refused: {reason}")]
    Refused { target: PathBuf, reason: String },
    #[error("not confirmed; nothing was written")]
    NotConfirmed,
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{target} differs from the image at byte {at} after writing: the disk is faulty, or something else wrote to it"
    )]
    Differs { target: PathBuf, at: u64 },
}

/// Whether the operator has agreed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    Ask,
    Given,
}

/// What was found at the target.
#[derive(Debug)]
enum Target {
    Disk {
        description: String,
    },
    /// A file stands in for a disk; it is made as long as the image.
    Regular,
}

const CHUNK: usize = 4 << 20;

/// Writes `image` to `target`, reads it back, compares.
pub fn flash(image: &Path, target: &Path, consent: Consent) -> Result<u64, FlashError> {
    let label = crate::image::label(image)?;
    let mut source = open(OpenOptions::new().read(true), image)?;
    let length = source.metadata().map_err(io_error("reading", image))?.len();
    let kind = inspect(target, length, Path::new("/sys"), Path::new("/proc"))?;
    if consent == Consent::Ask {
        let what = match &kind {
            Target::Disk { description } => format!("disk {} ({description})", target.display()),
            Target::Regular => format!("file {}", target.display()),
        };
        ask(&what, &label.name)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if matches!(kind, Target::Disk { .. }) {
        // On a block device O_EXCL fails while anything of it is mounted or otherwise claimed (open(2)).
        options.custom_flags(nix::libc::O_EXCL);
    }
    let mut disk = open(&options, target)?;
    copy(&mut source, &mut disk, length, target)?;
    disk.sync_all().map_err(io_error("writing", target))?;
    // So that what is read back comes from the disk; where the kernel can't do that, comparing is still right.
    let _ = posix_fadvise(&disk, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    compare(&mut source, &mut disk, length, target)?;
    Ok(length)
}

fn open(options: &OpenOptions, path: &Path) -> Result<File, FlashError> {
    options.open(path).map_err(io_error("opening", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FlashError {
    let path = path.to_owned();
    move |source| FlashError::Io { action, path, source }
}

fn ask(what: &str, name: &str) -> Result<(), FlashError> {
    if !io::stdin().is_terminal() {
        eprintln!("nobody is there to ask; --yes says it beforehand");
        return Err(FlashError::NotConfirmed);
    }
    eprint!("everything on {what} will be overwritten with {name}; type yes to go on: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(io_error("reading", Path::new("the terminal")))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(FlashError::NotConfirmed) }
}

/// Looks at `target` without opening it. `sys` and `proc` are where those file systems are.
fn inspect(target: &Path, length: u64, sys: &Path, proc: &Path) -> Result<Target, FlashError> {
    let refuse = |reason: String| FlashError::Refused { target: target.to_owned(), reason };
    let metadata = fs::metadata(target).map_err(|error| refuse(error.to_string()))?;
    if metadata.is_file() {
        return Ok(Target::Regular);
    }
    if !metadata.file_type().is_block_device() {
        return Err(refuse("it is neither a disk nor a file".into()));
    }
    let number = metadata.rdev();
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    inspect_disk(&number, length, sys, proc).map_err(refuse)
}

/// Looks at the block device `number` (`major:minor`).
fn inspect_disk(number: &str, length: u64, sys: &Path, proc: &Path) -> Result<Target, String> {
    let folder = sys.join("dev/block").join(number);
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    if folder.join("partition").exists() {
        return Err("it is a partition; an image is written to a whole disk".into());
    }
    let text = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    if text(folder.join("ro")) == "1" {
        return Err("it is read-only".into());
    }
    let size = text(folder.join("size")).parse::<u64>().unwrap_or(0) * 512;
    if size < length {
        return Err(format!("it has {size} bytes, the image {length}"));
    }
    // The disk itself, and its partitions: folders inside the disk's that have a number.
    let inside = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let parts: Vec<PathBuf> =
        std::iter::once(folder.clone()).chain(inside.filter(|path| path.join("partition").exists())).collect();
    let mounts = text(proc.join("self/mountinfo"));
    let swaps = text(proc.join("swaps"));
    for part in &parts {
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = text(part.join("dev"));
        // proc_pid_mountinfo(5): the third field is the device, the fifth where it is mounted.
        let mounted = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&number.as_str()));
        if let Some(fields) = mounted {
            return Err(format!("{name} is mounted at {}", fields.get(4).unwrap_or(&"?")));
        }
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}"))) {
            return Err(format!("{name} is swap space in use"));
        }
        let holder = fs::read_dir(part.join("holders")).into_iter().flatten().flatten().next();
        if let Some(holder) = holder {
            return Err(format!("{name} is part of {}", holder.file_name().to_string_lossy()));
        }
    }
    let model = [text(folder.join("device/vendor")), text(folder.join("device/model"))].join(" ");
    let description = format!("{} {} GB", model.trim(), size / 1_000_000_000).trim().to_owned();
    Ok(Target::Disk { description })
}

fn copy(source: &mut File, disk: &mut File, length: u64, target: &Path) -> Result<(), FlashError> {
    let bar = crate::progress::bytes("writing", length);
    let mut chunk = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let part = &mut chunk[..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        source.read_exact(part).map_err(io_error("reading the image for", target))?;
        disk.write_all(part).map_err(io_error("writing", target))?;
        left -= part.len() as u64;
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn compare(source: &mut File, disk: &mut File, length: u64, target: &Path) -> Result<(), FlashError> {
    let bar = crate::progress::bytes("comparing", length);
    let (mut expected, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
    for file in [&mut *source, &mut *disk] {
        file.seek(SeekFrom::Start(0)).map_err(io_error("reading", target))?;
    }
    let mut at = 0;
    while at < length {
        let size = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        source.read_exact(&mut expected[..size]).map_err(io_error("reading the image for", target))?;
        disk.read_exact(&mut found[..size]).map_err(io_error("reading back", target))?;
        if let Some(differs) = (0..size).find(|&i| expected[i] != found[i]) {
            return Err(FlashError::Differs { target: target.to_owned(), at: at + differs as u64 });
        }
        at += size as u64;
        bar.inc(size as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up /sys and /proc with one disk, 8:0, of 1,000 sectors and one partition.
    fn machine(mountinfo: &str, swaps: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (sys, proc) = (folder.path().join("sys"), folder.path().join("proc"));
        let disk = sys.join("block/sdx");
        for sub in ["holders", "sdx1/holders", "device"] {
            fs::create_dir_all(disk.join(sub)).unwrap();
        }
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        fs::create_dir_all(proc.join("self")).unwrap();
        std::os::unix::fs::symlink(&disk, sys.join("dev/block/8:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("sdx1"), sys.join("dev/block/8:1")).unwrap();
        for (file, text) in
            [("size", "1000\n"), ("ro", "0\n"), ("dev", "8:0\n"), ("sdx1/partition", "1\n"), ("sdx1/dev", "8:1\n")]
        {
            fs::write(disk.join(file), text).unwrap();
        }
        fs::write(disk.join("device/model"), "Fast Disk\n").unwrap();
        fs::write(proc.join("self/mountinfo"), mountinfo).unwrap();
        fs::write(proc.join("swaps"), swaps).unwrap();
        (folder, sys, proc)
    }

    fn refusal(number: &str, length: u64, mountinfo: &str, swaps: &str, change: impl FnOnce(&Path)) -> String {
        let (_folder, sys, proc) = machine(mountinfo, swaps);
        change(&sys.join("block/sdx"));
        inspect_disk(number, length, &sys, &proc).unwrap_err()
    }

    /// What an operator must not lose by a slip: a partition, a mounted disk, swap, a member of a RAID, too small a disk.
    #[test]
    fn disks_in_use_are_refused() {
        let nothing = |_: &Path| {};
        let mount = "29 1 8:1 / /home rw,relatime - ext4 /dev/sdx1 rw\n";
        assert!(refusal("8:0", 1, mount, "", nothing).contains("sdx1 is mounted at /home"));
        assert!(refusal("8:0", 1, "", "Filename Type\n/dev/sdx1 partition 1 0 -2\n", nothing).contains("swap"));
        assert!(refusal("8:1", 1, "", "", nothing).contains("is a partition"));
        assert!(refusal("8:0", 512_001, "", "", nothing).contains("512000 bytes"));
        assert!(refusal("8:0", 1, "", "", |disk| fs::write(disk.join("ro"), "1").unwrap()).contains("read-only"));
        let member = refusal("8:0", 1, "", "", |disk| fs::write(disk.join("sdx1/holders/md0"), "").unwrap());
        assert!(member.contains("sdx1 is part of md0"));
        assert!(refusal("9:9", 1, "", "", nothing).contains("9:9"));
    }

    /// A free disk is described so that the operator knows which it is.
    #[test]
    fn free_disk() {
        let (_folder, sys, proc) = machine("29 1 8:16 / / rw - ext4 /dev/sdy rw\n", "Filename\n");
        let Target::Disk { description } = inspect_disk("8:0", 512_000, &sys, &proc).unwrap() else {
            panic!("no disk")
        };
        assert!(description.contains("Fast Disk"));
    }

    /// Neither a folder nor a character device is a disk.
    #[test]
    fn no_disk() {
        let look = |path: &str| inspect(Path::new(path), 1, Path::new("/sys"), Path::new("/proc"));
        for path in ["/", "/dev/null", "/nowhere"] {
            assert!(matches!(look(path), Err(FlashError::Refused { .. })), "{path}");
        }
    }

    /// The read-back finds a single wrong byte, wherever it is.
    #[test]
    fn compare_finds_differences() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let mut content = vec![1; CHUNK + 1000];
        fs::write(&a, &content).unwrap();
        let run = || {
            let open =
                |path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
            let (mut source, mut disk) = (open(&a), open(&b));
            let length = source.metadata().unwrap().len();
            compare(&mut source, &mut disk, length, &b)
        };
        fs::write(&b, &content).unwrap();
        run().unwrap();
        content[CHUNK + 7] = 2;
        fs::write(&b, &content).unwrap();
        assert!(matches!(run(), Err(FlashError::Differs { at, .. }) if at == (CHUNK + 7) as u64));
    }
}
