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
    let members: Vec<Member> = crates
        .iter()
        .map(|domain| Member {
            name: shim_name(domain),
            manifest: shim_manifest(workspace, domain),
            source: shim_source(domain),
        })
        .collect();
    generate_workspace(workspace, &folder, &members)?;
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

/// A generated crate: a program of one file.
pub struct Member {
    pub name: String,
    pub manifest: String,
    /// Of `main.rs`.
    pub source: String,
}

/// A workspace outside the clone's own, with the clone's profile for the box and its pinned versions.
pub fn generate_workspace(workspace: &Workspace, folder: &Path, members: &[Member]) -> Result<(), BuildError> {
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
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let _ = writeln!(generated, "members = {names:?}\n");
    generated += &toml::Table::from_iter([("profile".to_owned(), profiles)]).to_string();
    write_changed(&folder.join("Cargo.toml"), &generated)?;
    for member in members {
        write_changed(&folder.join(&member.name).join("Cargo.toml"), &member.manifest)?;
        write_changed(&folder.join(&member.name).join("main.rs"), &member.source)?;
    }

    // Cargo adds the generated crates to the lock and drops what they don't need; so it is laid anew only when the clone's own changes, or
    // what the members need does: what had been dropped would be looked up in the registry, in whatever version is there today.
    let lock = workspace.root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).map_err(BuildError::file("reading", &lock))?;
    let seen = folder.join("Cargo.lock.of");
    let manifests: Vec<&str> = members.iter().map(|member| member.manifest.as_str()).collect();
    let state = format!("{}\n{lock}", manifests.join("\n"));
    if fs::read_to_string(&seen).ok().as_ref() != Some(&state) {
        write_changed(&folder.join("Cargo.lock"), &lock)?;
        write_changed(&seen, &state)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Generated crates get the clone's versions of what they need, also when they need more than before: by then cargo has dropped from their lock what they didn't need. So nothing
    /// is looked up in a registry that the clone's own build has not fetched.
    #[test]
    fn versions_are_the_clones_whatever_is_needed() {
        let workspace = Workspace::find();
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("Cargo.lock");
        let generate = |manifest: &str| {
            let member = Member { name: "ask".into(), manifest: manifest.into(), source: String::new() };
            generate_workspace(&workspace, folder.path(), &[member]).unwrap();
            fs::read_to_string(&lock).unwrap()
        };
        let whole = generate("needs a");
        assert_eq!(whole, fs::read_to_string(workspace.root().join("Cargo.lock")).unwrap());
        fs::write(&lock, "what a needs").unwrap();
        assert_eq!(generate("needs a"), "what a needs");
        assert_eq!(generate("needs a and b"), whole);
    }
}
