//! The image tier: a disk image made from a manifest, judged by tools that we did not write, booted under both firmwares, flashed.

use super::{Outcome, Tally};
use crate::build::build;
use crate::flash::{Consent, flash};
use crate::image::{self, Label};
use crate::manifest::check;
use crate::workspace::Workspace;
use prefix::{Prefix, Tool};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MANIFEST: &str = "configs/maglev.toml";
/// What the kernel says once it has found its bundle: it was loaded, has its memory, its CPUs, and what the loader gave it.
const BOOTED: &str = "bundle ";
/// OVMF takes about six seconds here; a machine under load several times that.
const BOOT_TIME: Duration = Duration::from_secs(120);

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return tally.record("image", Outcome::Failed(error.to_string()), false),
    };
    let image = folder.path().join("x.img");
    let made = make(workspace, &image);
    let there = made.is_ok();
    tally.check("an image is made from a manifest", || Outcome::from(made));
    if !there {
        return;
    }
    tally.check("the same input makes the same image", || Outcome::from(same_again(workspace, &image, folder.path())));
    tally.check("sgdisk finds nothing wrong with the partitions", || Outcome::from(partitions(&image)));
    tally.check("fsck.vfat finds nothing wrong with the file system", || {
        Outcome::from(filesystem(&image, folder.path()))
    });
    tally.check("the image boots by BIOS", || Outcome::from(boots(&image, folder.path(), Firmware::Bios)));
    tally.check("the image boots by UEFI", || Outcome::from(boots(&image, folder.path(), Firmware::Uefi)));
    tally.check("a flashed file equals the image", || Outcome::from(flashed(&image, folder.path())));
    loop_device(&image, folder.path(), tally);
}

fn make(workspace: &Workspace, path: &Path) -> Result<(), String> {
    let checked = check(workspace, &workspace.root().join(MANIFEST)).map_err(|error| error.to_string())?;
    let artifacts =
        build(workspace, &checked.name, &checked.appliance, &checked.inquiry).map_err(|error| error.to_string())?;
    let label = Label { name: checked.name, manifest: checked.table };
    image::pack(&artifacts, &label, path).map_err(|error| error.to_string())?;
    let read = image::label(path).map_err(|error| error.to_string())?;
    match read.name == label.name && read.manifest == label.manifest {
        true => Ok(()),
        false => Err("the image doesn't say what it was made from".into()),
    }
}

fn same_again(workspace: &Workspace, image: &Path, folder: &Path) -> Result<(), String> {
    let again = folder.join("again.img");
    make(workspace, &again)?;
    let same = fs::read(image).map_err(text)? == fs::read(&again).map_err(text)?;
    fs::remove_file(&again).map_err(text)?;
    same.then_some(()).ok_or("another image".into())
}

fn partitions(image: &Path) -> Result<(), String> {
    let mut command = tool(Tool::Disk, "sgdisk")?;
    let said = said(command.arg("-v").arg(image))?;
    // It exits with 0 whatever it finds.
    match said.contains("No problems found") {
        true => Ok(()),
        false => Err(said),
    }
}

fn filesystem(image: &Path, folder: &Path) -> Result<(), String> {
    let disk = fs::read(image).map_err(text)?;
    let part = folder.join("esp");
    fs::write(&part, image::system_partition(&disk).ok_or("no EFI system partition")?).map_err(text)?;
    let mut command = tool(Tool::Disk, "fsck.vfat")?;
    let said = said(command.args(["-n", "-v"]).arg(&part))?;
    fs::remove_file(&part).map_err(text)?;
    // With -n it exits with 0 although it would have changed something, and says that it left it unchanged.
    match said.contains("Leaving filesystem unchanged") {
        false => Ok(()),
        true => Err(said),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Firmware {
    Bios,
    Uefi,
}

/// Starts the very image in QEMU and waits for the kernel's own words on the serial line.
fn boots(image: &Path, folder: &Path, firmware: Firmware) -> Result<(), String> {
    let prefix = Prefix::ensure(&[Tool::Qemu]).map_err(|error| error.to_string())?;
    let mut command = prefix.command("qemu-system-x86_64").map_err(|error| error.to_string())?;
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "256M", "-no-reboot"]);
    command.args(["-nodefaults", "-display", "none", "-vga", "std", "-serial", "stdio", "-serial", "null"]);
    command.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,file={}", image.display()));
    if firmware == Firmware::Uefi {
        let file = |name: &str| prefix.file(Tool::Qemu, name).map_err(|error| error.to_string());
        let variables = folder.join("vars.fd");
        fs::copy(file("usr/share/OVMF/OVMF_VARS_4M.fd")?, &variables).map_err(text)?;
        let code = file("usr/share/OVMF/OVMF_CODE_4M.fd")?;
        command.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={}", code.display()));
        command.arg("-drive").arg(format!("if=pflash,format=raw,file={}", variables.display()));
    }
    // Its temporary files, snapshots among them, go with ours.
    command.env("TMPDIR", folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(text)?;
    let stdout = child.stdout.take().expect("piped above");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        // Firmware writes control characters that aren't text.
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + BOOT_TIME;
    let mut seen = Vec::new();
    let mut booted = false;
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        booted |= line.trim_start().starts_with(BOOTED);
        seen.push(line);
        if booted {
            break;
        }
    }
    // Ours, and of no more use.
    let _ = child.kill();
    let _ = child.wait();
    match booted {
        true => Ok(()),
        false => Err(format!("no word of the bundle within {} s; it said:\n{}", BOOT_TIME.as_secs(), seen.join("\n"))),
    }
}

fn flashed(image: &Path, folder: &Path) -> Result<(), String> {
    let target = folder.join("disk");
    // Something else was on it before.
    File::create(&target).and_then(|mut file| file.write_all(&[0xff; 100_000])).map_err(text)?;
    flash(image, &target, Consent::Given).map_err(|error| error.to_string())?;
    let same = fs::read(image).map_err(text)? == fs::read(&target).map_err(text)?;
    fs::remove_file(&target).map_err(text)?;
    same.then_some(()).ok_or("the file differs".into())
}

/// A block device, where we may make one: that takes root, and a kernel with loop devices.
fn loop_device(image: &Path, folder: &Path, tally: &mut Tally) {
    const NAME: &str = "a flashed loop device equals the image";
    let disk = folder.join("disk");
    let length = fs::metadata(image).map(|metadata| metadata.len()).unwrap_or(0);
    let device = File::create(&disk).and_then(|file| file.set_len(length + (8 << 20))).map_err(text).and_then(|()| {
        said(Command::new("losetup").args(["--find", "--show"]).arg(&disk)).map(|device| device.trim().to_owned())
    });
    let device = match device {
        Ok(device) => device,
        // Not a promise that is left unkept: the file above is written by the same code.
        Err(reason) => return println!("note     {NAME}: not tried, no loop device ({})", reason.trim()),
    };
    tally.check(NAME, || {
        Outcome::from(flash(image, Path::new(&device), Consent::Given).map(|_| ()).map_err(|error| error.to_string()))
    });
    if let Err(error) = said(Command::new("losetup").args(["--detach", &device])) {
        println!("note     {device} is left over: {error}");
    }
}

fn tool(tool: Tool, program: &str) -> Result<Command, String> {
    Prefix::ensure(&[tool]).and_then(|prefix| prefix.command(program)).map_err(|error| error.to_string())
}

/// What a program prints; an error if it exits with another status than 0.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(text)?;
    let both = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() {
        true => Ok(both),
        false => Err(both),
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
