//! The Linux guest: its initramfs, its QEMU, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cpio::newc::{self, Builder};
use prefix::{Prefix, Tool};

use super::{Error, Setup, host};
use crate::vfio_user::{card_arguments, memory_arguments};

/// What the guest's root holds beside busybox and a kernel.
pub struct Contents {
    /// How the first and only program goes on, a shell script, once devices and modules are there. Each answer of it is a line `check NAME ANSWER`.
    pub init: &'static str,
    /// Kernel modules in the order that they must be loaded, by path under `kernel/`.
    pub modules: Vec<&'static str>,
    /// Programs of the prefix, with the libraries that they need.
    pub programs: &'static [&'static str],
    /// Libraries that a program opens by itself, by tool and path.
    pub libraries: &'static [(Tool, &'static str)],
    /// Whatever else, by its path in the guest without the leading slash.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Linux's own driver of the card with what it depends on, in the order in which they must be loaded.
pub const IXGBE: [&str; 6] = [
    "drivers/dca/dca",
    "drivers/net/mdio",
    "drivers/net/phy/libphy",
    "drivers/net/phy/mdio_devres",
    "net/xfrm/xfrm_algo",
    "drivers/net/ethernet/intel/ixgbe/ixgbe",
];

/// What every init does first.
const BEGINNING: &str = include_str!("init.sh");
/// The guest's, in bytes.
const MEMORY: u64 = 512 << 20;
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Contents {
    /// Writes the archive that the kernel unpacks as its root.
    pub fn write_initramfs(&self, prefix: &Prefix, to: &Path) -> Result<(), Error> {
        let linux = prefix.tree(Tool::Linux).map_err(Error::Prefix)?;
        let modules = module_folder(linux)?;
        let mut files = BTreeMap::from([
            ("init".to_owned(), [BEGINNING, self.init].concat().into_bytes()),
            ("bin/busybox".to_owned(), read(&linux.join("usr/bin/busybox"))?),
        ]);
        for (i, module) in self.modules.iter().enumerate() {
            let name = module.rsplit('/').next().unwrap_or(module);
            let path = modules.join(format!("{module}.ko.xz"));
            files.insert(format!("modules/{i:02}-{name}.ko.xz"), read(&path)?);
        }
        for program in self.programs {
            add_program(prefix, program, &mut files)?;
        }
        for (tool, path) in self.libraries {
            let tree = prefix.tree(*tool).map_err(Error::Prefix)?;
            files.insert(library(Path::new(path)), read(&tree.join(path))?);
        }
        files.extend(self.files.iter().cloned());
        let out = BufWriter::new(File::create(to).map_err(host("writing the initramfs"))?);
        archive(out, &files).map_err(host("writing the initramfs"))
    }
}

/// Where a library lies in the guest.
fn library(path: &Path) -> String {
    format!("lib/{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// A program, its loader where the program looks for it, and its libraries, as the loader itself names them.
fn add_program(prefix: &Prefix, program: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let mut command = prefix.command(program).map_err(Error::Prefix)?;
    let path = command.get_args().last().map(PathBuf::from).unwrap_or_default();
    files.insert(format!("bin/{program}"), read(&path)?);
    files.insert("lib64/ld-linux-x86-64.so.2".to_owned(), read(Path::new(command.get_program()))?);
    let listed =
        command.env("LD_TRACE_LOADED_OBJECTS", "1").output().map_err(host("asking for a program's libraries"))?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        // NAME => PATH (ADDRESS)
        if let Some(found) = line.split_once(" => ").and_then(|(_, found)| found.split_whitespace().next()) {
            let path = Path::new(found);
            files.insert(library(path), read(path)?);
        }
    }
    Ok(())
}

fn archive(mut out: impl io::Write, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    // A folder comes before what lies in it.
    let above = files.keys().flat_map(|name| name.match_indices('/').map(|(at, _)| &name[..at]));
    for folder in ["dev", "modules", "proc", "sys", "tmp"].into_iter().chain(above).collect::<BTreeSet<_>>() {
        Builder::new(folder).mode(DIRECTORY).write(&mut out, 0).finish()?;
    }
    // The console must exist before anybody could mount devtmpfs.
    Builder::new("dev/console").mode(0o020_600).dev_major(0).rdev_major(5).rdev_minor(1).write(&mut out, 0).finish()?;
    for (name, bytes) in files {
        let mut entry = Builder::new(name).mode(PROGRAM).write(&mut out, bytes.len() as u32);
        io::Write::write_all(&mut entry, bytes)?;
        entry.finish()?;
    }
    newc::trailer(&mut out)?;
    io::Write::flush(&mut out)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|_| Error::Missing(path.to_owned()))
}

/// `usr/lib/modules/VERSION/kernel` of the one kernel in the tree.
fn module_folder(linux: &Path) -> Result<PathBuf, Error> {
    let parent = linux.join("usr/lib/modules");
    let version = fs::read_dir(&parent).ok().and_then(|mut entries| entries.next()?.ok());
    version.map(|entry| entry.path().join("kernel")).ok_or(Error::Missing(parent))
}

fn image(linux: &Path) -> Result<PathBuf, Error> {
    let boot = linux.join("boot");
    let mut entries = fs::read_dir(&boot).map_err(|_| Error::Missing(boot.clone()))?;
    entries
        .find_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str()?.starts_with("vmlinuz-").then(|| entry.path())
        })
        .ok_or(Error::Missing(boot))
}

/// The guest's kernel, as a bootloader takes it.
pub fn kernel(prefix: &Prefix) -> Result<PathBuf, Error> {
    image(prefix.tree(Tool::Linux).map_err(Error::Prefix)?)
}

/// Ends a QEMU that is still there when its caller no longer is.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the guest to its own end; returns all that its console said.
pub(super) fn run(
    prefix: &Prefix,
    setup: &Setup,
    initramfs: &Path,
    socket: &Path,
    limit: Duration,
) -> Result<String, Error> {
    let linux = prefix.tree(Tool::Linux).map_err(Error::Prefix)?;
    let mut command = prefix.command("qemu-system-x86_64").map_err(Error::Prefix)?;
    let mut parameters = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off random.trust_cpu=on".to_owned();
    if setup.iommu {
        // Strict: what the driver has unmapped is out of the device's reach at once.
        parameters.push_str(" intel_iommu=on iommu.passthrough=0 iommu.strict=1");
    }
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(memory_arguments(MEMORY))
        .args(if setup.iommu { &["-device", "intel-iommu,caching-mode=on"][..] } else { &[] })
        .args(card_arguments(socket))
        .arg("-kernel")
        .arg(image(linux)?)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &parameters])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut qemu = Reaped(command.spawn().map_err(host("starting QEMU"))?);
    let (sender, lines) = mpsc::channel();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(qemu.0.stdout.take().expect("piped above")), Box::new(qemu.0.stderr.take().expect("piped above"))];
    for mut stream in streams {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let deadline = Instant::now() + limit;
    let mut console = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(bytes) => console.extend_from_slice(&bytes),
            // Both streams have ended: QEMU has.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Ok(String::from_utf8_lossy(&console).into_owned());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(Error::TooSlow { console: tail(&String::from_utf8_lossy(&console)) });
            }
        }
    }
}

/// The guest's answers, in order.
pub(super) fn checks(console: &str) -> Vec<(String, String)> {
    let answers = console.lines().filter_map(|line| line.trim().strip_prefix("check ")?.split_once(' '));
    answers.map(|(name, answer)| (name.to_owned(), answer.trim().to_owned())).collect()
}

/// The last lines of a console.
pub(super) fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers are found between the kernel's own lines.
    #[test]
    fn answers_are_found() {
        let console = "[    1.0] ixgbe: hello\r\ncheck carrier 1\r\nnoise\r\ncheck ping 5 \r\n";
        let expected = [("carrier".to_owned(), "1".to_owned()), ("ping".to_owned(), "5".to_owned())];
        assert_eq!(checks(console), expected);
        assert_eq!(tail("a\nb"), "a\nb");
    }

    /// The archive holds what was put in, where the kernel looks for it.
    #[test]
    fn archive_lists_its_files() {
        let mut bytes = Vec::new();
        archive(&mut bytes, &BTreeMap::from([("init".to_owned(), b"#!/bin/busybox sh\n".to_vec())])).unwrap();
        let mut reader = newc::Reader::new(&bytes[..]).unwrap();
        let mut names = Vec::new();
        while !reader.entry().is_trailer() {
            names.push(reader.entry().name().to_owned());
            reader = newc::Reader::new(reader.finish().unwrap()).unwrap();
        }
        assert!(names.contains(&"init".to_owned()) && names.contains(&"dev/console".to_owned()));
    }
}
