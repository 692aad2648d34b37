//! Domain images for the rig: built with the flags that every domain is built with, round any `start` function of a crate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// An image: a crate of the workspace and the function that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The image's name in the bundle.
    pub name: &'static str,
    /// The package; its crate has the same name, with underscores.
    pub package: &'static str,
    /// Such as `probe::start`.
    pub path: &'static str,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where compiled things go: where the command says, which keeps out of a clone that is somebody else's.
fn target() -> PathBuf {
    std::env::var_os("REDLEAF_TARGET").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the images; their ELFs in the same order. Panics with what is wrong: it is for tests.
pub fn build(starts: &[Start]) -> Vec<Vec<u8>> {
    let folder = target().join("rig-images");
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let lock = fs::File::create(folder.join("lock")).expect("the target folder is writable");
    lock.lock().expect("builds take turns");
    let mut packages: Vec<&str> = starts.iter().map(|start| start.package).collect();
    packages.push("runtime");
    packages.sort_unstable();
    packages.dedup();
    let cargo = Command::new(env!("CARGO"))
        .current_dir(root())
        .env_remove("RUSTFLAGS")
        .args([
            "build",
            "--profile",
            "box",
            "--target",
            TARGET,
            "--message-format=json-render-diagnostics",
            "--target-dir",
        ])
        .arg(&folder)
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(cargo.status.success(), "the domains don't build");
    let messages: Vec<serde_json::Value> =
        cargo.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    starts.iter().map(|start| link(start, &folder, &messages)).collect()
}

/// Links one image from the libraries that cargo has just built.
fn link(start: &Start, folder: &Path, messages: &[serde_json::Value]) -> Vec<u8> {
    let library = |package: &str| {
        let name = package.replace('-', "_");
        let artifact = messages.iter().find(|message| message["target"]["name"] == name).expect("cargo has built it");
        let mut files = artifact["filenames"].as_array().into_iter().flatten().filter_map(|file| file.as_str());
        format!("{name}={}", files.find(|file| file.ends_with(".rlib")).expect("a library"))
    };
    let (source, image) = (folder.join(format!("{}.rs", start.name)), folder.join(format!("{}.elf", start.name)));
    let shim = format!(
        "//! Generated: the trusted way into a domain.\n#![no_std]\n#![no_main]\nruntime::entry!({});\n",
        start.path
    );
    fs::write(&source, shim).expect("the target folder is writable");
    let status = Command::new("rustc")
        .current_dir(root())
        .args(["--edition", "2024", "--crate-type", "bin", "--target", TARGET, "-C", "opt-level=3", "-C", "panic=abort"])
        .args(["-C", "overflow-checks=on", "-C", "strip=symbols", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args(["-C", "link-arg=-static-pie", "-C", "default-linker-libraries=no", "-C"])
        .arg("link-arg=-Wl,--no-dynamic-linker,-e,domain_entry,-z,norelro,--gc-sections,--build-id=none,-z,max-page-size=4096")
        .args(["--extern", &library(start.package), "--extern", &library("runtime"), "-L"])
        .arg(format!("dependency={}", folder.join(TARGET).join("box/deps").display()))
        // Proc-macros are of the host.
        .args(["-L", &format!("dependency={}", folder.join("box/deps").display()), "-o"])
        .args([&image, &source])
        .status()
        .expect("rustc runs");
    assert!(status.success(), "image {} doesn't link", start.name);
    fs::read(image).expect("rustc wrote it")
}
