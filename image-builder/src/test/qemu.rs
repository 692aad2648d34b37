//! The qemu tier: the kernel's self-test on each kind of machine that QEMU has for it, and what a kernel panic looks like from outside.

use super::{Outcome, Tally};
use crate::build::build;
use crate::manifest::check;
use crate::workspace::Workspace;
use prefix::{Prefix, Tool};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const MANIFEST: &str = "configs/maglev.toml";
/// A run takes about ten seconds; on a machine under load several times that.
const PATIENCE: Duration = Duration::from_secs(300);
/// What QEMU exits with when the self-test found everything well (`kernel/metal/src/selftest.rs`).
const ALL_WELL: i32 = 33;

/// One kind of machine.
struct Machine {
    name: &'static str,
    machine: &'static str,
    cpu: &'static str,
    cpus: &'static str,
    memory: &'static str,
    /// Beside the card whose MSI-X the self-test raises.
    devices: &'static [&'static str],
    /// What the boot report must say of it, so that the kind is known to be what was tried.
    report: &'static [&'static str],
}

const MACHINES: &[Machine] = &[
    Machine {
        name: "pc, 1 CPU",
        machine: "pc",
        cpu: "qemu64",
        cpus: "1",
        memory: "256M",
        devices: &[],
        report: &["xAPIC", "ports 0xcf8"],
    },
    Machine {
        name: "pc, 2 CPUs",
        machine: "pc",
        cpu: "max",
        cpus: "2",
        memory: "256M",
        devices: &[],
        report: &["x2APIC", "ports 0xcf8"],
    },
    Machine {
        name: "q35, 1 CPU",
        machine: "q35",
        cpu: "max",
        cpus: "1",
        memory: "256M",
        devices: &[],
        report: &["x2APIC", "ECAM"],
    },
    Machine {
        name: "q35, 2 CPUs, xAPIC",
        machine: "q35",
        cpu: "qemu64,-x2apic",
        cpus: "2",
        memory: "256M",
        devices: &[],
        report: &["xAPIC", "2 of 2", "ECAM"],
    },
    Machine {
        name: "q35, 4 CPUs, x2APIC, memory beyond 4 GiB",
        machine: "q35",
        cpu: "max",
        cpus: "4",
        memory: "6G",
        devices: &[],
        report: &["x2APIC", "4 of 4", "ECAM"],
    },
    Machine {
        name: "q35, 2 CPUs, an IOMMU before a device that goes astray",
        machine: "q35",
        cpu: "max",
        cpus: "2",
        memory: "256M",
        devices: &["intel-iommu", "edu"],
        report: &["iommu    1 units"],
    },
    Machine {
        name: "q35, 1 CPU, an IOMMU that must be told of each page, before a device that goes astray",
        machine: "q35",
        cpu: "max",
        cpus: "1",
        memory: "256M",
        devices: &["intel-iommu,caching-mode=on", "edu"],
        report: &["iommu    1 units"],
    },
];

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let (kernel, folder) = match kernel(workspace).and_then(|kernel| Ok((kernel, tempfile::tempdir().map_err(text)?))) {
        Ok(ready) => ready,
        Err(error) => return tally.record("the kernel is built", Outcome::Failed(error), false),
    };
    let output = folder.path().join("serial");
    for machine in MACHINES {
        tally.check(&format!("the kernel's self-test: {}", machine.name), || self_test(&kernel, machine, &output));
    }
    tally.check("a kernel without a bundle says so and resets", || panics(&kernel, &output));
}

fn kernel(workspace: &Workspace) -> Result<PathBuf, String> {
    let checked = check(workspace, &workspace.root().join(MANIFEST)).map_err(|error| error.to_string())?;
    let artifacts =
        build(workspace, &checked.name, &checked.appliance, &checked.inquiry).map_err(|error| error.to_string())?;
    Ok(artifacts.kernel_elf)
}

fn self_test(kernel: &Path, machine: &Machine, output: &Path) -> Outcome {
    let (status, said) = match boot(kernel, machine, "selftest", output) {
        Ok(ended) => ended,
        Err(error) => return Outcome::Failed(error),
    };
    if let Some(missing) = machine.report.iter().find(|word| !said.contains(**word)) {
        return Outcome::Failed(format!("the boot report doesn't say {missing:?}:\n{said}"));
    }
    match status == ALL_WELL && said.contains(" passed, 0 failed") {
        true => Outcome::Passed,
        false => Outcome::Failed(format!("exit status {status}; it said:\n{said}")),
    }
}

fn panics(kernel: &Path, output: &Path) -> Outcome {
    let machine = &MACHINES[0];
    match boot(kernel, machine, "", output) {
        // With -no-reboot a reset ends QEMU well.
        Ok((0, said))
            if ["kernel panic: no bundle", "on behalf of kernel", "return addresses:", "resetting"]
                .iter()
                .all(|word| said.contains(word)) =>
        {
            Outcome::Passed
        }
        Ok((status, said)) => Outcome::Failed(format!("exit status {status}; it said:\n{said}")),
        Err(error) => Outcome::Failed(error),
    }
}

/// Boots the kernel with a command line; its exit status and what it wrote to the console.
fn boot(kernel: &Path, machine: &Machine, command_line: &str, output: &Path) -> Result<(i32, String), String> {
    let prefix = Prefix::ensure(&[Tool::Qemu]).map_err(|error| error.to_string())?;
    let mut command = prefix.command("qemu-system-x86_64").map_err(|error| error.to_string())?;
    command.args([
        "-machine",
        machine.machine,
        "-accel",
        "tcg",
        "-cpu",
        machine.cpu,
        "-smp",
        machine.cpus,
        "-m",
        machine.memory,
    ]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    // The card whose MSI-X the self-test raises; no option ROM needed.
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "e1000e,romfile="]);
    command.args(machine.devices.iter().flat_map(|device| ["-device", device]));
    command.arg("-kernel").arg(kernel).args(["-append", command_line]);
    let file = File::create(output).map_err(text)?;
    let errors = file.try_clone().map_err(text)?;
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().map_err(text)?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(text)? {
            Some(status) => break status.code().unwrap_or(-1),
            None if Instant::now() > deadline => {
                // Ours, and of no more use.
                let _ = child.kill();
                let _ = child.wait();
                let said = String::from_utf8_lossy(&std::fs::read(output).map_err(text)?).into_owned();
                return Err(format!("not done within {} s; it said:\n{said}", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    Ok((status, String::from_utf8_lossy(&std::fs::read(output).map_err(text)?).into_owned()))
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
