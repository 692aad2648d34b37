//! Building the kernel; kernel/metal/link.ld says why with these flags.

use super::cargo::{DEBUG_PROFILE, PROFILE, TARGET, cargo, run};
use super::{BuildError, Flavour};
use crate::workspace::Workspace;
use bundle::Trust;
use std::path::PathBuf;

const FLAGS: &[&str] = &["-Cforce-frame-pointers=yes"];

const LINK_ARGUMENTS: &[&str] = &[
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,--build-id=none",
];

/// Builds the kernel that believes `trust`.
pub fn build(workspace: &Workspace, trust: Trust, flavour: Flavour) -> Result<PathBuf, BuildError> {
    let profile = match flavour {
        Flavour::Plain => PROFILE,
        Flavour::Debug => DEBUG_PROFILE,
    };
    let target_folder = workspace.target().join("box");
    let mut command = cargo(workspace, workspace.root(), &target_folder, FLAGS);
    command.args([
        "rustc",
        "--locked",
        "-p",
        "kernel",
        "--bin",
        "kernel",
        "--profile",
        profile,
        "--target",
        TARGET,
        "--",
    ]);
    command.args(LINK_ARGUMENTS);
    command.arg(format!("-Clink-arg=-Wl,-T,{}", workspace.root().join("kernel/metal/link.ld").display()));
    // Compiled in: whom the kernel believes can't be changed beside it.
    command.env("REDLEAF_KEY", hex(&trust.key.0)).env("REDLEAF_ABI", trust.abi.to_string());
    eprintln!("building the kernel");
    run(command, "the kernel")?;
    Ok(target_folder.join(TARGET).join(profile).join("kernel"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
