//! The generated workspace: round each domain's crate a binary of three lines, which is the trusted way in.

use super::cargo::{DOMAIN_FLAGS, PROFILE, TARGET, cargo, run};
use super::{BuildError, write_changed};
use crate::workspace::{DomainCrate, Workspace};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Builds the images of `crates`; their ELFs in the same order, with symbols.
pub fn build(workspace: &Workspace, crates: &[&DomainCrate]) -> Result<Vec<PathBuf>, BuildError> {
    let folder = workspace.work().join("domains");
    let members: Vec<String> = crates.iter().map(|domain| shim_name(domain)).collect();
    generate_workspace(workspace, &folder, &members)?;
    for domain in crates {
        let shim = folder.join(shim_name(domain));
        write_changed(&shim.join("Cargo.toml"), &shim_manifest(workspace, domain))?;
        write_changed(&shim.join("main.rs"), &shim_source(domain))?;
    }
    let target_folder = target_folder(workspace);
    let mut command = cargo(workspace, &folder, &target_folder, DOMAIN_FLAGS);
    command.args(["build", "--workspace", "--profile", PROFILE, "--target", TARGET]);
    eprintln!("building domains: {}", crates.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>().join(", "));
    run(command, "a domain")?;
    let built = target_folder.join(TARGET).join(PROFILE);
    Ok(crates.iter().map(|domain| built.join(shim_name(domain))).collect())
}

pub fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("domains")
}

fn shim_name(domain: &DomainCrate) -> String {
    format!("{}-domain", domain.name)
}

fn shim_manifest(workspace: &Workspace, domain: &DomainCrate) -> String {
    format!(
        "[package]\nname = \"{shim}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [[bin]]\nname = \"{shim}\"\npath = \"main.rs\"\ntest = false\nbench = false\n\n\
         [dependencies]\nruntime = {{ path = {runtime:?} }}\n{name} = {{ path = {folder:?} }}\n",
        shim = shim_name(domain),
        name = domain.name,
        runtime = workspace.root().join("runtime"),
        folder = domain.folder,
    )
}

fn shim_source(domain: &DomainCrate) -> String {
    format!(
        "//! Generated: the trusted way into the domain `{}`.\n#![no_std]\n#![no_main]\nruntime::entry!({}::start);\n",
        domain.name,
        domain.module()
    )
}

/// A workspace outside the clone's own, with the clone's profile for the box and its pinned versions.
pub fn generate_workspace(workspace: &Workspace, folder: &Path, members: &[String]) -> Result<(), BuildError> {
    let root = workspace.root().join("Cargo.toml");
    let text = fs::read_to_string(&root).map_err(BuildError::file("reading", &root))?;
    let manifest: toml::Table =
        text.parse().map_err(|error| BuildError::Lock(format!("{}: {error}", root.display())))?;
    let profile = manifest
        .get("profile")
        .and_then(|profiles| profiles.get(PROFILE))
        .cloned()
        .unwrap_or(toml::Value::Table(toml::Table::new()));
    let profiles = toml::Value::Table(toml::Table::from_iter([(PROFILE.to_owned(), profile)]));
    let mut generated =
        String::from("# Generated: see image-builder/src/build/shims.rs.\n[workspace]\nresolver = \"3\"\n");
    let _ = writeln!(generated, "members = {members:?}\n");
    generated += &toml::Table::from_iter([("profile".to_owned(), profiles)]).to_string();
    write_changed(&folder.join("Cargo.toml"), &generated)?;

    // Cargo adds the generated crates to the lock and drops what they don't need; so it is laid anew only when the clone's own changes, or
    // the members do.
    let lock = workspace.root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).map_err(BuildError::file("reading", &lock))?;
    let seen = folder.join("Cargo.lock.of");
    let state = format!("{members:?}\n{lock}");
    if fs::read_to_string(&seen).ok().as_ref() != Some(&state) {
        write_changed(&folder.join("Cargo.lock"), &lock)?;
        write_changed(&seen, &state)?;
    }
    Ok(())
}
