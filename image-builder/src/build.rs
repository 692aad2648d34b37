//! From a checked manifest to what boots: the kernel's ELF and the signed bundle.
//!
//! Domains are built in a generated workspace (`target/redleaf/domains`) of one trusted shim per domain, with the versions that the clone's own
//! Cargo.lock pins; the kernel from the clone itself. Each has flags and a target folder of its own, so that a second run finds everything
//! built. Two runs at once take turns.

mod abi;
mod cargo;
mod elf;
mod expanded;
mod inquire;
mod instructions;
mod kernel;
mod key;
mod review;
mod shims;

use crate::manifest::appliance::Appliance;
use crate::manifest::compile::{Parts, compile};
use crate::workspace::{DomainCrate, Workspace};
use bundle::write::{ImageSource, SigningKey};
use bundle::{Hash, Trust};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use abi::abi_hash;
pub use inquire::{Inquiry, inquire};
pub use key::signing_key;

/// What a build leaves behind.
#[derive(Clone, Debug)]
pub struct Artifacts {
    pub kernel_elf: PathBuf,
    pub bundle: PathBuf,
    /// With symbols, for whoever reads a backtrace; by image.
    pub unstripped: Vec<(String, PathBuf)>,
    pub abi: Hash,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{what} did not compile; cargo's words are above")]
    Cargo { what: String },
    #[error("image {image}: {reason}")]
    Image { image: String, reason: String },
    #[error("domain crate {image} is refused:\n{}", .faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
    Refused { image: String, faults: Vec<String> },
    #[error("the program that reads config tables failed: {0}")]
    Inquiry(String),
    #[error("the signing key {path}: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot start {program}: {source}")]
    Program { program: &'static str, source: std::io::Error },
    #[error("{0}")]
    Bundle(#[from] bundle::write::WriteError),
    #[error("Cargo.lock: {0}")]
    Lock(String),
}

impl BuildError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> BuildError {
        let path = path.into();
        move |source| BuildError::File { action, path, source }
    }
}

/// A cargo for the clone's own workspace on the host.
pub fn host_cargo(workspace: &Workspace) -> std::process::Command {
    cargo::plain_cargo(workspace, workspace.root(), workspace.target())
}

/// Held while something is built.
struct Turn(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

fn take_turn(workspace: &Workspace) -> Result<Turn, BuildError> {
    let folder = workspace.work();
    fs::create_dir_all(&folder).map_err(BuildError::file("creating", &folder))?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(BuildError::file("creating", &path))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another build");
        file.lock().map_err(BuildError::file("locking", &path))?;
    }
    Ok(Turn(file))
}

/// The crates that a manifest's domains are made of, each once.
pub fn crates_of<'a>(workspace: &'a Workspace, appliance: &Appliance) -> Vec<&'a DomainCrate> {
    let named = |domain: &DomainCrate| appliance.domains.iter().any(|other| other.image.value == domain.name);
    workspace.domain_crates().iter().filter(|domain| named(domain)).collect()
}

/// Which kernel is built; the domains are the same for either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Plain,
    /// With debug assertions; it also counts the locks that threads take, by site.
    Debug,
}

/// Builds, verifies and signs everything. `name` is the manifest's name, and that of the bundle.
pub fn build(
    workspace: &Workspace,
    name: &str,
    appliance: &Appliance,
    inquiry: &Inquiry,
) -> Result<Artifacts, BuildError> {
    build_as(workspace, name, appliance, inquiry, Flavour::Plain)
}

/// The same, with a choice of the kernel.
pub fn build_as(
    workspace: &Workspace,
    name: &str,
    appliance: &Appliance,
    inquiry: &Inquiry,
    flavour: Flavour,
) -> Result<Artifacts, BuildError> {
    let _turn = take_turn(workspace)?;
    let crates = crates_of(workspace, appliance);
    for domain in &crates {
        review::review(workspace, domain)?;
    }
    let abi = abi_hash(workspace)?;
    let elves = shims::build(workspace, &crates)?;
    let mut safe = crates.clone();
    for domain in &crates {
        for library in abi::libraries(workspace, domain)? {
            if !safe.contains(&library) {
                safe.push(library);
            }
        }
    }
    for domain in safe {
        expanded::check(workspace, domain)?;
    }
    let mut images = Vec::new();
    let mut unstripped = Vec::new();
    for (domain, elf) in crates.iter().zip(elves) {
        let stripped = elf::strip(&elf)?;
        elf::check(&domain.name, &stripped)?;
        // With symbols, to name the place.
        instructions::check(&domain.name, &fs::read(&elf).map_err(BuildError::file("reading", &elf))?)?;
        images.push((domain.name.clone(), stripped, abi::build_hash(workspace, domain, abi)?));
        unstripped.push((domain.name.clone(), elf));
    }

    let key = signing_key()?;
    let kernel_elf = kernel::build(workspace, Trust { key: key.public(), abi }, flavour)?;
    elf::check_kernel(&fs::read(&kernel_elf).map_err(BuildError::file("reading", &kernel_elf))?)?;
    let bytes = pack(name, appliance, inquiry, &images, &key, abi)?;
    let bundle = workspace.work().join("bundles").join(format!("{name}.bundle"));
    write_whole(&bundle, &bytes)?;
    Ok(Artifacts { kernel_elf, bundle, unstripped, abi })
}

fn pack(
    name: &str,
    appliance: &Appliance,
    inquiry: &Inquiry,
    images: &[(String, Vec<u8>, Hash)],
    key: &SigningKey,
    abi: Hash,
) -> Result<Vec<u8>, BuildError> {
    let sources: Vec<ImageSource<'_>> =
        images.iter().map(|(name, elf, build)| ImageSource { name, elf, abi, build: *build }).collect();
    let parts = Parts {
        name,
        ports: &inquiry.ports,
        configs: &inquiry.configs,
        longest_frame: inquiry.longest_frame,
        images: sources.iter().map(ImageSource::reference).collect(),
    };
    let manifest = compile(appliance, parts);
    let build = Hash::of(&images.iter().flat_map(|(_, _, build)| build.0).collect::<Vec<_>>());
    Ok(bundle::write::bundle(&manifest, &sources, key, abi, build)?)
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    write_with_mode(path, bytes, 0o666)
}

/// A file that can be run.
pub(crate) fn write_program(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    write_with_mode(path, bytes, 0o777)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BuildError> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(BuildError::file("creating", folder))?;
    let write = || -> std::io::Result<()> {
        // The user's umask applies, as to any other file.
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(BuildError::file("writing", path))
}

/// The same, but leaves a file alone that has this content already: its time is what cargo goes by.
pub(crate) fn write_changed(path: &Path, text: &str) -> Result<(), BuildError> {
    match fs::read(path) {
        Ok(old) if old == text.as_bytes() => Ok(()),
        _ => write_whole(path, text.as_bytes()),
    }
}
