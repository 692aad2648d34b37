//! Running cargo with flags that are wholly ours, whatever the caller's environment has.

use super::BuildError;
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const TARGET: &str = "x86_64-unknown-linux-gnu";
pub const PROFILE: &str = "box";
/// Of the kernel alone: the same with debug assertions.
pub const DEBUG_PROFILE: &str = "box-debug";

/// What domains are compiled with: part of the ABI hash. Frame pointers are for the call chains in crash reports.
pub const DOMAIN_FLAGS: &[&str] = &[
    "-Cforce-frame-pointers=yes",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static-pie",
    "-Cdefault-linker-libraries=no",
    "-Clink-arg=-Wl,--no-dynamic-linker,-e,domain_entry,-z,norelro,--gc-sections,--build-id=none,-z,max-page-size=4096",
];

/// A cargo in `folder` that builds into `target_folder` for the box.
pub fn cargo(workspace: &Workspace, folder: &Path, target_folder: &Path, flags: &[&str]) -> Command {
    let mut command = plain_cargo(workspace, folder, target_folder);
    let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    all.extend(remapped_paths(workspace));
    // The encoded variable wins over every other source of flags. With --target, build scripts and proc-macros don't get them.
    command.env("CARGO_ENCODED_RUSTFLAGS", all.join("\u{1f}"));
    command
}

/// Flags that keep this machine's folders out of images: the same sources make the same image wherever the clone lies, and panics name files as the
/// clone does. No part of the ABI.
fn remapped_paths(workspace: &Workspace) -> Vec<String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cargo_home = variable("CARGO_HOME").or_else(|| variable("HOME").map(|home| home.join(".cargo")));
    let registry = cargo_home.map(|home| (home.join("registry/src"), "registry"));
    let folders = [(workspace.root().to_owned(), "."), (workspace.work(), "generated")];
    // The last one that fits counts: the generated crates lie inside the clone's target.
    let folders = registry.into_iter().chain(folders);
    folders.map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display())).collect()
}

/// A cargo for programs of the host.
pub fn plain_cargo(workspace: &Workspace, folder: &Path, target_folder: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(program);
    command.current_dir(folder).env("CARGO_TARGET_DIR", target_folder).env("CARGO_ENCODED_RUSTFLAGS", "");
    // What cargo tells its children about an outer build would confuse an inner one.
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_BOOTSTRAP", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    // rustup goes by the folder, and ours may lie outside the clone.
    if let Some(toolchain) = workspace.toolchain() {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs `command`; its own messages go to the terminal.
pub fn run(mut command: Command, what: &str) -> Result<(), BuildError> {
    // Cargo's progress goes to stderr; what it prints on stdout would spoil ours.
    let status =
        command.stdout(Stdio::null()).status().map_err(|source| BuildError::Program { program: "cargo", source })?;
    match status.success() {
        true => Ok(()),
        false => Err(BuildError::Cargo { what: what.to_owned() }),
    }
}

/// The version of the compiler, in its own words.
pub fn compiler_version(workspace: &Workspace) -> Result<String, BuildError> {
    let program = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(program)
        .arg("-vV")
        .current_dir(workspace.root())
        .output()
        .map_err(|source| BuildError::Program { program: "rustc", source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
